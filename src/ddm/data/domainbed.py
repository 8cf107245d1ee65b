"""OfficeHome, VLCS and TerraIncognita as DomainBed's download script leaves them.

All three are ``<domain>/<class>/<image>`` without official splits. (PACS and DomainNet have readers
of their own, which know DomainBed's layout too.)
"""

from __future__ import annotations

import os
from pathlib import Path

from ddm.data.base import ImageDataset
from ddm.data.benchmarks import (
    Benchmark,
    Survey,
    holds,
    open_survey,
    survey_folders,
    wrong_root,
)

_OFFICE_HOME_CLASSES = """
Alarm_Clock Backpack Batteries Bed Bike Bottle Bucket Calculator Calendar Candles Chair Clipboards
Computer Couch Curtains Desk_Lamp Drill Eraser Exit_Sign Fan File_Cabinet Flipflops Flowers Folder
Fork Glasses Hammer Helmet Kettle Keyboard Knives Lamp_Shade Laptop Marker Monitor Mop Mouse Mug
Notebook Oven Pan Paper_Clip Pen Pencil Postit_Notes Printer Push_Pin Radio Refrigerator Ruler
Scissors Screwdriver Shelf Sink Sneakers Soda Speaker Spoon TV Table Telephone ToothBrush Toys
Trash_Can Webcam
"""

OFFICE_HOME = Benchmark(
    title="OfficeHome",
    domains=("Art", "Clipart", "Product", "Real World"),
    classes=tuple(_OFFICE_HOME_CLASSES.split()),
)

VLCS = Benchmark(
    title="VLCS",
    domains=("Caltech101", "LabelMe", "SUN09", "VOC2007"),
    classes=("bird", "car", "chair", "dog", "person"),
)

TERRA_INCOGNITA = Benchmark(
    title="TerraIncognita",
    domains=("location_100", "location_38", "location_43", "location_46"),
    classes=(
        *("bird", "bobcat", "cat", "coyote", "dog"),
        *("empty", "opossum", "rabbit", "raccoon", "squirrel"),
    ),
    beside=("eccv_18_all_images_sm", "eccv_18_annotation_files"),
    # DomainBed's script makes the folder of a class only where a camera saw it.
    everywhere=False,
    # It files a picture of two animals twice; the copies must not part at a split.
    by_name=True,
)

_ALL = (OFFICE_HOME, VLCS, TERRA_INCOGNITA)


def load_office_home(
    root: str | os.PathLike[str],
    size: int = 256,
    channels: int = 3,
    strict: bool = False,
    partial: bool = False,
) -> ImageDataset:
    """Read OfficeHome: 4 domains, 65 classes, 15,588 images (Venkateswara et al., CVPR 2017).

    There are no official splits: train, val and test are drawn by a hash of each image's key.

    Args:
        root: the folder of the domains, ``office_home/`` in DomainBed's layout.
        size: side of the square images in pixels.
        channels: 3 for colour, 1 for grey.
        strict: refuse the data if an image cannot be read, rather than skip that image.
        partial: take what there is where classes or domains are missing.

    Returns:
        The images, sorted by key: ``<domain>/<class>/<file>``.

    Raises:
        DdmError: a root that is not OfficeHome; a domain or class that is missing; a folder of
            images that is no domain or class; under ``strict``, an unreadable image.
    """
    return open_survey(_survey(Path(root), OFFICE_HOME), size, channels, strict, partial)


def load_vlcs(
    root: str | os.PathLike[str],
    size: int = 256,
    channels: int = 3,
    strict: bool = False,
    partial: bool = False,
) -> ImageDataset:
    """Read VLCS: 4 domains, 5 classes, 10,729 images (Fang et al., ICCV 2013).

    Arguments, result and errors as for `load_office_home`; the folder is ``VLCS/``.
    """
    return open_survey(_survey(Path(root), VLCS), size, channels, strict, partial)


def load_terra_incognita(
    root: str | os.PathLike[str],
    size: int = 256,
    channels: int = 3,
    strict: bool = False,
    partial: bool = False,
) -> ImageDataset:
    """Read TerraIncognita: 4 camera locations, 10 classes (Beery et al., ECCV 2018).

    24,788 or 24,330 images, by when DomainBed's script was run. A camera need not have seen every
    class. Arguments, result and errors as for `load_office_home`; the folder is
    ``terra_incognita/``.
    """
    return open_survey(_survey(Path(root), TERRA_INCOGNITA), size, channels, strict, partial)


def recognize(root: Path) -> str | None:
    """Which of the three lies there, as in ``"OfficeHome, folders"``; None if none does."""
    benchmark = _benchmark(root)
    return None if benchmark is None else f"{benchmark.title}, folders"


def load_domainbed(
    root: str | os.PathLike[str],
    size: int = 256,
    channels: int = 3,
    strict: bool = False,
    partial: bool = False,
) -> ImageDataset:
    """Read whichever of the three `recognize` finds; otherwise as `load_office_home`."""
    return open_survey(survey(Path(root)), size, channels, strict, partial)


def survey(root: Path) -> Survey:
    """What lies there and what is wrong with it; raises `DdmError` if it is none of the three."""
    return _survey(root, _benchmark(root) or OFFICE_HOME)


def _benchmark(root: Path) -> Benchmark | None:
    return next((benchmark for benchmark in _ALL if holds(root, benchmark)), None)


def _survey(root: Path, benchmark: Benchmark) -> Survey:
    if not holds(root, benchmark, named=True):
        raise wrong_root(root, benchmark, lambda place: holds(place, benchmark))
    return survey_folders(root, benchmark, f"{benchmark.title}, folders")
