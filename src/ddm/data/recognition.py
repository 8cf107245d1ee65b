"""Which benchmark lies in a folder, and who reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ddm.data import domainbed, domainnet, pacs
from ddm.data.base import ImageDataset
from ddm.data.benchmarks import Survey, meant_root
from ddm.errors import DdmError


@dataclass(frozen=True)
class Source:
    """A benchmark that was found on the disk.

    Args:
        layout: what it is, in a few words.
        load: reads it: ``load(root, size, channels, strict)``, with more options by name.
        survey: lists it without opening images.
    """

    layout: str
    load: Callable[..., ImageDataset]
    survey: Callable[[Path], Survey]


def recognize(root: Path) -> Source | None:
    """The benchmark whose folders or files lie in ``root``, None if it is none that we know."""
    if (layout := pacs.recognize(root)) is not None:
        return Source(layout, pacs.load_pacs, pacs.survey)
    if (layout := domainnet.recognize(root)) is not None:
        return Source(layout, domainnet.load_domainnet, domainnet.survey)
    if (layout := domainbed.recognize(root)) is not None:
        return Source(layout, domainbed.load_domainbed, domainbed.survey)
    return None


def refuse_near_miss(root: Path) -> None:
    """Raise `DdmError` if ``root`` is no benchmark, but a folder just below or above it is.

    Taken for a plain folder, its classes would pass for domains.
    """
    if not root.is_dir() or recognize(root) is not None:
        return
    if meant := meant_root(root, lambda place: recognize(place) is not None):
        raise DdmError(f"{root} is not the folder of a data set, {meant}")
