"""PACS: 4 domains, 7 classes, 9,991 images (Li et al., ICCV 2017), in the layouts it comes in.

Its authors' split files name each domain's images as train and crossval; their test file is the
two together, because the whole of a domain is tested on when it is the unseen one. An image is
therefore in one split here, train or val, and test is empty unless a test file names images that
the others do not.
"""

from __future__ import annotations

import os
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
from ddm.data.pacs_hdf5 import has_hdf5, survey_hdf5
from ddm.data.split_files import SplitFile, apply_split_files
from ddm.errors import DdmError

# The name of a folder in the authors' archive.
_PRE_READ = "Train val splits and h5py files pre-read"

#: Where domains may lie below the root, by whose archive or tool made it.
_IMAGES = ("", "kfold", "images", "images/kfold", "pacs_data")
_SPLITS = ("", "splits", "pacs_label", "kfold", _PRE_READ)

#: Split by the name in the file's name.
_SPLIT_OF = {"train": "train", "crossval": "val", "test": "test"}

PACS = Benchmark(
    title="PACS",
    domains=("art_painting", "cartoon", "photo", "sketch"),
    classes=("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"),
    beside=("splits", "pacs_label", _PRE_READ),
)


def load_pacs(
    root: str | os.PathLike[str],
    size: int = 256,
    channels: int = 3,
    strict: bool = False,
    splits: Splits = "official",
    partial: bool = False,
) -> ImageDataset:
    """Read PACS from image folders, with or without split files, or from HDF5 files.

    - ``root/<domain>/<class>/*``, the domains also in ``kfold/`` or ``pacs_data/``, and the files
      ``<domain>_{train,crossval,test}_kfold.txt`` beside them, in ``splits/`` or ``pacs_label/``.
    - ``root/images/<domain>/...`` and ``root/splits/``, as Dassl has it.
    - ``root/<domain>_{train,val,test}.hdf5``, the authors' "pre-read" files (needs ``h5py``).

    Args:
        root: the folder.
        size: side of the square images in pixels.
        channels: 3 for colour, 1 for grey.
        strict: refuse the data if an image cannot be read, rather than skip that image.
        splits: ``"official"``, where there are split files: train and val, no test. ``"drawn"``:
            train, val and test by a hash of each image's key.
        partial: take what there is where images, classes or domains are missing.

    Returns:
        The images, sorted by key: ``<domain>/<class>/<file>``, the same in all folder layouts.

    Raises:
        DdmError: a root that is not PACS; a domain, class or image that is missing; a folder of
            images that is no domain or class; a split file that contradicts the folders; under
            ``strict``, an unreadable image; no ``h5py`` for HDF5 files.

    Source: https://arxiv.org/abs/1710.03077
    """
    return open_survey(survey(Path(root), splits), size, channels, strict, partial)


def recognize(root: Path) -> str | None:
    """In which layout PACS lies there, in a few words; None if it does not."""
    files = _split_folder(root) is not None
    if _image_folder(root, named=files) is not None:
        return "PACS, folders with split files" if files else "PACS, folders"
    return "PACS, HDF5 files" if _hdf5_folder(root) is not None else None


def survey(root: Path, splits: Splits = "official") -> Survey:
    """What lies there and what is wrong with it; raises `DdmError` if it is not PACS."""
    if splits not in get_args(Splits):
        raise DdmError(f"splits must be one of {get_args(Splits)}, not {splits!r}")
    folder = _image_folder(root, named=True)
    if folder is None:
        rows = _hdf5_folder(root)
        if rows is None:
            raise wrong_root(root, PACS, lambda place: recognize(place) is not None)
        return survey_hdf5(rows, PACS, "PACS, HDF5 files", splits)
    found = survey_folders(folder, PACS, recognize(root) or "PACS, folders")
    if splits == "official":
        files = _split_folder(root)
        if files is not None:
            _apply(found, files)
        elif (beside := _split_folder(root.absolute().parent)) is not None:
            raise DdmError(
                f"{root} is the folder of PACS's images, its split files lie in {beside}: give "
                f"{root.absolute().parent} (or ask for drawn splits)"
            )
    return found


def _apply(found: Survey, folder: Path) -> None:
    files = []
    for domain in (PACS.domains[i] for i in sorted(set(found.domains))):
        for name, split in _SPLIT_OF.items():
            path = folder / f"{domain}_{name}_kfold.txt"
            if path.is_file():
                files.append(SplitFile(domain, split, path, repeats=name == "test"))
            elif name != "test":
                found.faults.append(
                    Fault(
                        "missing",
                        f"{path} is missing beside the other split files: get it, or move all of "
                        "them away to have splits drawn",
                        (path.name,),
                    )
                )
    apply_split_files(found, files, first_label=1)


def _image_folder(root: Path, named: bool) -> Path | None:
    return next((root / below for below in _IMAGES if holds(root / below, PACS, named)), None)


def _split_folder(root: Path) -> Path | None:
    names = [f"{domain}_{split}_kfold.txt" for domain in PACS.domains for split in _SPLIT_OF]
    places = (root / below for below in _SPLITS)
    return next((p for p in places if any((p / name).is_file() for name in names)), None)


def _hdf5_folder(root: Path) -> Path | None:
    places = (root, root / _PRE_READ)
    return next((place for place in places if has_hdf5(place, PACS)), None)
