"""DomainNet: 6 domains, 345 classes, 0.6 million images (Peng et al., ICCV 2019)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ddm.data.base import ImageDataset
from ddm.data.benchmarks import (
    Benchmark,
    Fault,
    Splits,
    Survey,
    holds,
    open_survey,
    survey_folders,
    wrong_root,
)
from ddm.data.domainnet_classes import DOMAINNET_CLASSES
from ddm.data.split_files import SplitFile, apply_split_files
from ddm.errors import DdmError

#: Where the split files may lie below the root.
_SPLITS = ("", "splits", "image_list")

DOMAINNET = Benchmark(
    title="DomainNet",
    domains=("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
    classes=DOMAINNET_CLASSES,
    beside=("splits", "splits_mini", "image_list"),
)


def load_domainnet(
    root: str | os.PathLike[str],
    size: int = 256,
    channels: int = 3,
    strict: bool = False,
    splits: Splits = "official",
    partial: bool = False,
    classes: Sequence[str] | None = None,
) -> ImageDataset:
    """Read ``root/<domain>/<class>/*``, with split files or, as DomainBed has it, without.

    The files ``<domain>_{train,test}.txt`` lie in the root or in ``splits/``. They give train and
    test, and val stays empty. What they do not name is left out: the original archives of clipart
    and painting hold more than the cleaned lists. Where there are no split files, train, val and
    test are drawn by a hash of each image's key.

    Args:
        root: the folder of the domains.
        size: side of the square images in pixels.
        channels: 3 for colour, 1 for grey.
        strict: refuse the data if an image cannot be read, rather than skip that image.
        splits: ``"official"``, where there are split files, or ``"drawn"``.
        partial: take what there is where images, classes or domains are missing.
        classes: those to read, labelled in this order: `ddm.data.domainnet_classes.UDG_CLASSES`,
            say. The others need not be there. For None all, under their official labels.

    Returns:
        The images, sorted by key: ``<domain>/<class>/<file>``.

    Raises:
        DdmError: a root that is not DomainNet; a domain, class or image that is missing; a folder
            of images that is no domain or class; a split file that contradicts the folders; a
            class of another name; under ``strict``, an unreadable image.

    Source: https://arxiv.org/abs/1812.01754
    """
    found = survey(Path(root), splits, classes)
    return open_survey(found, size, channels, strict, partial)


def recognize(root: Path) -> str | None:
    """In which layout DomainNet lies there, in a few words; None if it does not."""
    files = _split_folder(root) is not None
    if not holds(root, DOMAINNET, named=files):
        return None
    return "DomainNet, folders with split files" if files else "DomainNet, folders"


def survey(root: Path, splits: Splits = "official", classes: Sequence[str] | None = None) -> Survey:
    """What lies there and what is wrong with it; raises `DdmError` if it is not DomainNet."""
    if splits not in get_args(Splits):
        raise DdmError(f"splits must be one of {get_args(Splits)}, not {splits!r}")
    if not holds(root, DOMAINNET, named=True):
        raise wrong_root(root, DOMAINNET, lambda place: recognize(place) is not None)
    layout = recognize(root) or "DomainNet, folders"
    found = survey_folders(root, DOMAINNET, layout, classes)
    folder = _split_folder(root)
    if splits == "official" and folder is not None:
        files = []
        for domain in (DOMAINNET.domains[i] for i in sorted(set(found.domains))):
            for split in ("train", "test"):
                path = folder / f"{domain}_{split}.txt"
                if path.is_file():
                    files.append(SplitFile(domain, split, path))
                    continue
                found.faults.append(
                    Fault(
                        "missing",
                        f"{path} is missing beside the other split files: get it, or move all of "
                        "them away to have splits drawn",
                        (path.name,),
                    )
                )
        apply_split_files(found, files, first_label=0)
    return found


def _split_folder(root: Path) -> Path | None:
    names = [f"{d}_{split}.txt" for d in DOMAINNET.domains for split in ("train", "test")]
    places = (root / below for below in _SPLITS)
    return next((p for p in places if any((p / name).is_file() for name in names)), None)
