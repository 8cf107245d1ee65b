"""WILDS (arXiv 2012.07421) as its downloads lie on disk, read without the package ``wilds``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddm.data.arrays import ArrayReader
from ddm.data.base import ImageDataset, Labels
from ddm.data.images import FileReader, keep_readable
from ddm.data.wilds.facts import FOLDS
from ddm.data.wilds.parts import READERS, Part, poverty
from ddm.data.wilds.roots import RELEASES, Release, locate, recognize
from ddm.domains import DomainTable
from ddm.errors import DdmError

__all__ = ["FOLDS", "RELEASES", "load_wilds", "recognize", "survey"]

#: Bands of poverty's images: blue, green, red, two short-wave infrared, temperature, near infrared,
#: night lights.
POVERTY_CHANNELS = 8

_SPLIT_OF = {
    "train": "train",
    "id_val": "val",
    "val": "val",
    "id_test": "test",
    "test": "test",
    "train_unlabeled": "train",
    "val_unlabeled": "val",
    "test_unlabeled": "test",
    "extra_unlabeled": "train",
}


def load_wilds(
    root: str | os.PathLike[str],
    size: int = 64,
    channels: int | None = None,
    strict: bool = False,
    unlabeled: bool = False,
    fold: str | None = None,
) -> ImageDataset:
    """Read one data set of WILDS from the folder that its download makes.

    ==============  ===========  ==================================  ==============================
    folder          domain       groups, within a split              metadata
    ==============  ===========  ==================================  ==============================
    camelyon17_v1.0 hospital     slide                               hospital, slide
    iwildcam_v2.0   location     sequence                            location, sequence
    fmow_v1.1       year         place                               year, region, country
    rxrx1_v1.0      experiment   well                                cell_type, experiment, plate,
                                                                     well, site
    poverty_v1.1    country      image                               country, urban, y (wealth)
    ==============  ===========  ==================================  ==============================

    ``official_splits`` holds WILDS' own names, ``splits`` the same without the difference between
    seen and unseen domains: ``id_val`` is ``val``, ``id_test`` is ``test``. Images that are in no
    official split are left out. Labels, where there are classes, are called ``"class"`` and
    numbered as WILDS numbers them. An unlabelled part has none, even where its table hides some.
    Official splits cut some slides and wells in two; a group is what lies of them in one split.

    Args:
        root: the folder, ``camelyon17_v1.0`` or ``poverty_unlabeled_v1.0`` say.
        size: side of the square images in pixels.
        channels: 3 for colour, 1 for grey; poverty's have 8. None for all that there are.
        strict: refuse the data if an image is missing or cannot be read, rather than skip it.
        unlabeled: fmow's unlabelled part, which lies in the folder of the labelled one; those of
            the others have folders of their own.
        fold: of poverty, ``"A"`` (also for None) to ``"E"``: which countries are unseen.

    Returns:
        The images, in the table's order. Poverty's are float32, see `ddm.data.arrays.to_unit`.

    Raises:
        DdmError: a root that is no data set of WILDS, or one folder too high or too low, or another
            version's; a download that stopped early; a table that lacks a column or a value; no
            image that can be read, or under ``strict`` not every one; an unlabelled part, fold or
            number of channels that there is not.
    """
    root = Path(root)
    release = locate(root)
    part = _read(root, release, unlabeled, fold)
    _require_unique(root / release.table, part.keys)
    if not any((root / key).exists() for key in part.keys):
        raise DdmError(
            f"{root} holds none of the {len(part.keys):,} images that its {release.table} lists, "
            f"first {part.keys[0]}: the download stopped early, unpack it again or download it anew"
        )
    bands = POVERTY_CHANNELS if release.base == "poverty" else 3
    channels = channels or bands
    if bands == POVERTY_CHANNELS and channels != bands:
        raise DdmError(f"channels={channels}: {release.name}'s images have {bands}; set channels=8")
    reader, kept, skipped, enlarged = keep_readable(
        root, part.keys, size, channels, strict, ArrayReader if bands != 3 else FileReader
    )
    part = part.subset(np.array(kept))
    name = f"{release.folder}, fold {fold or 'A'}" if release.base == "poverty" else release.folder
    return ImageDataset(
        name=name if not unlabeled or release.unlabeled else f"{release.folder}, unlabeled",
        keys=tuple(part.keys),
        read=reader,
        size=size,
        channels=channels,
        domains=_domains(part),
        splits=np.array([_SPLIT_OF[split] for split in part.splits]),
        groups=_numbered(_numbered(part.units) * len(_SPLIT_OF) + _numbered(part.splits)),
        labels={} if part.labels is None else {"class": Labels(part.labels, part.classes)},
        skipped=skipped,
        enlarged=enlarged,
        official_splits=part.splits,
        metadata=part.metadata,
    )


def survey(root: Path) -> tuple[Part, DomainTable, str, int]:
    """What the table of a data set lists, without a look at its images.

    Args:
        root: the folder; of poverty its fold A is listed.

    Returns:
        The images in official splits, their domains, what it is in a few words, and the channels
        of an image.

    Raises:
        DdmError: as :func:`load_wilds` does, but for images.
    """
    release = locate(root)
    part = _read(root, release, release.unlabeled, None)
    _require_unique(root / release.table, part.keys)
    layout = f"WILDS, {release.folder}{', fold A' if release.base == 'poverty' else ''}"
    return part, _domains(part), layout, POVERTY_CHANNELS if release.base == "poverty" else 3


def _read(root: Path, release: Release, unlabeled: bool, fold: str | None) -> Part:
    if unlabeled and not release.unlabeled and release.name != "fmow":
        other = RELEASES.get(f"{release.name}_unlabeled")
        raise DdmError(
            f"{root} holds the labelled part alone: give the folder {other.folder}"
            if other
            else f"{release.name} has no unlabelled part; leave out unlabeled"
        )
    unlabeled = unlabeled or release.unlabeled
    if release.base == "poverty":
        if fold is not None and fold not in FOLDS:
            raise DdmError(f"fold={fold!r}: poverty has the folds {', '.join(FOLDS)}")
        return poverty(root, release.table, unlabeled, fold or "A")
    if fold is not None:
        raise DdmError(f"fold={fold!r}: only poverty has folds, not {release.name}; leave it out")
    return READERS[release.base](root, release.table, unlabeled)


def _domains(part: Part) -> DomainTable:
    values, index = np.unique(part.domain, return_inverse=True)
    return DomainTable(index, tuple(f"{part.kind} {value}".strip() for value in values.tolist()))


def _numbered(values: NDArray[Any]) -> NDArray[np.int64]:
    """One number for each distinct value, from 0 on."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _require_unique(table: Path, keys: list[str]) -> None:
    first: dict[str, int] = {}
    for row, key in enumerate(keys, 1):
        if first.setdefault(key, row) != row:
            raise DdmError(
                f"{table} lists {key} twice (images {first[key]} and {row}): it was edited, "
                "download it anew"
            )
