"""Which WILDS data set a folder holds, and what is wrong with it where it is none.

A download is a folder ``<name>_v<version>`` with a table, a folder of images and an empty-looking
``RELEASE_v<version>.txt``. A folder that was renamed is known by its table.
"""

from __future__ import annotations

import csv
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ddm.errors import DdmError


@dataclass(frozen=True)
class Release:
    """One version of one data set, as it lies on disk.

    Args:
        name: what WILDS calls it; its unlabelled part is ``<name>_unlabeled``.
        version: the one whose splits and metric are official.
        table: the file that lists the images.
        images: the folder that holds them.
        columns: columns of the table that no other data set's has.
    """

    name: str
    version: str
    table: str
    images: str
    columns: tuple[str, ...]

    @property
    def folder(self) -> str:
        """What the download calls its folder."""
        return f"{self.name}_v{self.version}"

    @property
    def base(self) -> str:
        """The data set that this is, or is the unlabelled part of."""
        return self.name.removesuffix("_unlabeled")

    @property
    def unlabeled(self) -> bool:
        return self.name != self.base


_SLIDES = ("patient", "node", "x_coord", "y_coord", "tumor", "center")

# fmow's unlabelled part lies in the same folder as the labelled one; rxrx1 has none.
RELEASES = {
    release.name: release
    for release in (
        Release("camelyon17", "1.0", "metadata.csv", "patches", _SLIDES),
        Release("camelyon17_unlabeled", "1.0", "metadata.csv", "patches", _SLIDES),
        Release("iwildcam", "2.0", "metadata.csv", "train", ("filename", "location_remapped")),
        Release(
            "iwildcam_unlabeled", "1.0", "metadata.csv", "images", ("uid", "location_remapped")
        ),
        Release("fmow", "1.1", "rgb_metadata.csv", "images", ("country_code", "category")),
        Release("rxrx1", "1.0", "metadata.csv", "images", ("sirna_id", "experiment", "well")),
        Release("poverty", "1.1", "dhs_metadata.csv", "images", ("wealthpooled", "urban")),
        Release("poverty_unlabeled", "1.0", "unlabeled_metadata.csv", "images", ("country",)),
    )
}

_FOLDER = re.compile(rf"({'|'.join(RELEASES)})_v(\d+\.\d+)")
_RELEASE = re.compile(r"RELEASE_v(\d+\.\d+)\.txt")


def recognize(root: Path) -> str | None:
    """The WILDS data set that a folder is, holds or belongs to; None where it is none of them.

    A folder one too high or too low counts too, so that `ddm.data.wilds.load_wilds` can say which
    one is meant instead of a reader of plain folders taking ``patches`` for a domain.

    Args:
        root: any path.

    Returns:
        ``"camelyon17"``, ``"camelyon17_unlabeled"`` ...: a key of `RELEASES`.
    """
    if not root.is_dir():
        return None
    found = _here(root)
    if found is None:
        found = next((_here(folder) for folder in _below(root)), None)
    if found is None:
        above = _above(root)
        found = None if above is None else _here(above)
    return None if found is None else found.name


def locate(root: Path) -> Release:
    """The release that lies in a folder.

    Args:
        root: the folder with the table in it.

    Raises:
        DdmError: no such folder; a folder too high or too low; another version; no table; no
            folder of images.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DdmError(f"{root} {what}: give the folder of a WILDS data set, camelyon17_v1.0 say")
    release = _here(root)
    if release is None:
        below, above = _below(root), _above(root)
        if below:
            names = ", ".join(folder.name for folder in below)
            raise DdmError(f"{root} is one folder too high, it holds {names}: give {below[0]}")
        if above is not None:
            raise DdmError(f"{root} is one folder too low: give {above}")
        names = ", ".join(release.folder for release in RELEASES.values())
        raise DdmError(f"{root} holds no WILDS data set that is known here: expected {names}")
    _require_version(root, release)
    remedy = "the download stopped early or was not unpacked to its end"
    if (root / "archive.tar.gz").exists():
        remedy += "; unpack its archive.tar.gz again, or download it anew"
    else:
        remedy += "; download it anew"
    if not (root / release.table).is_file():
        raise DdmError(f"{root} has no {release.table}: {remedy}")
    if not (root / release.images).is_dir():
        raise DdmError(f"{root} has no folder {release.images}: {remedy}")
    return release


def _require_version(root: Path, release: Release) -> None:
    named = _FOLDER.fullmatch(root.resolve().name)
    notes = [m[1] for m in map(_RELEASE.fullmatch, sorted(os.listdir(root))) if m]
    if notes and release.version not in notes:
        found = notes[-1]
        source = f" (it holds RELEASE_v{found}.txt)"
    elif not notes and named and named[2] != release.version:
        found, source = named[2], ""
    else:
        return
    raise DdmError(
        f"{root} is version {found} of {release.name}{source}, but the official splits are those "
        f"of {release.version}: give {release.folder}"
    )


def _here(root: Path) -> Release | None:
    """By the folder's name or else by its table."""
    named = _FOLDER.fullmatch(root.resolve().name)
    if named:
        return RELEASES[named[1]]
    for release in RELEASES.values():
        header, first = _beginning(root / release.table)
        if header and set(release.columns) <= set(header):
            # The two parts of camelyon17 differ in this alone.
            hidden = dict(zip(header, first, strict=False)).get("tumor") == "-1"
            return RELEASES["camelyon17_unlabeled"] if hidden else release
    return None


def _below(root: Path) -> list[Path]:
    try:
        names = [name for name in os.listdir(root) if _FOLDER.fullmatch(name)]
    except OSError:  # what the folder is cannot be told; whoever reads it says why
        return []
    return [root / name for name in sorted(names) if (root / name).is_dir()]


def _above(root: Path) -> Path | None:
    """The data set's folder, if this is its folder of images."""
    parent = root.resolve().parent
    release = _here(parent)
    return parent if release is not None and release.images == root.resolve().name else None


def _beginning(table: Path) -> tuple[list[str], list[str]]:
    """Header and first row of a table; empty where there is none that can be read."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            return next(rows, []), next(rows, [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return [], []
