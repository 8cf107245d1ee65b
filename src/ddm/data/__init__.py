"""Where images come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddm.config import PretrainConfig, Splits
from ddm.data.base import ImageDataset
from ddm.data.manifest import MANIFESTS, load_manifest
from ddm.errors import DdmError


def load_size(size: int) -> int:
    """Side at which images are kept for views of ``size`` pixels: larger, for crops to choose from.

    256 for 224, as is usual; small images stay as they are.
    """
    return size if size <= 64 else round(size * 8 / 7)


def load_images(
    images: str,
    size: int,
    channels: int = 3,
    strict: bool = False,
    splits: Splits = "drawn",
    classes: Sequence[str] = (),
    partial: bool = False,
) -> ImageDataset:
    """Open a source of images by what it is.

    Args:
        images: ``"emoji"``, a manifest (``.csv``, ``.parquet``), a folder (domains, or PACS,
            DomainNet, OfficeHome, VLCS, TerraIncognita, WILDS, a saved Hugging Face data set), or
            ``"hf:owner/name"`` on the hub.
        size: side of the views that will be taken, in pixels.
        channels: 3 for colour, 1 for grey, 8 for poverty of WILDS.
        strict: refuse unreadable images instead of skipping them.
        splits: where PACS and DomainNet come with split files: theirs, which lack a test or a
            validation split, or train, val and test drawn by the images' names. A fold, "A" to
            "E", of WILDS' poverty.
        classes: those to read of DomainNet, in the order of their labels; all by default.
        partial: take what there is of PACS, DomainNet, OfficeHome, VLCS or TerraIncognita where
            images, classes or domains are missing.

    Raises:
        DdmError: there is no such source, or it cannot be used; the message says why.
    """
    fold = None if splits in ("drawn", "official") else splits
    if fold is not None and not _is_wilds(Path(images)):
        raise DdmError(f"--splits {fold}: a fold of WILDS' poverty, which {images} is not")
    if classes and not _is_domainnet(Path(images)):
        raise DdmError(
            f"--classes {', '.join(classes)}: chosen from DomainNet's, and {images} is not "
            "DomainNet"
        )
    path = Path(images)
    if partial and not (path.is_dir() and _is_benchmark(path)):
        raise DdmError(
            f"--partial: for PACS, DomainNet, OfficeHome, VLCS and TerraIncognita, and {images} is "
            "none of them"
        )
    if splits == "official" and not (path.is_dir() and _has_official_splits(path)):
        raise DdmError(f"--splits official: {images} has no split files; leave it out")
    if images == "emoji":
        from ddm.data.emoji import EMOJI_SIZES, load_emoji

        fitting = [s for s in EMOJI_SIZES if s >= size]
        if not fitting:
            raise DdmError(f"size={size}: emoji are drawn at up to {EMOJI_SIZES[-1]} pixels")
        if channels != 3:
            raise DdmError(f"channels={channels}: emoji have 3")
        return load_emoji(fitting[0])
    if images.startswith("hf:"):
        from ddm.data.huggingface import load_huggingface

        return load_huggingface(images, load_size(size), channels, strict)
    if path.is_dir():
        return _load_folder(path, load_size(size), channels, strict, splits, classes, partial)
    if path.suffix.lower() in MANIFESTS:
        return load_manifest(path, size=load_size(size), channels=channels, strict=strict)
    raise DdmError(
        f"{images!r} is neither a folder, a .csv or .parquet manifest, 'hf:owner/name', nor "
        "'emoji'; check the path (of a run whose images have moved: `images` in its config.yaml)"
    )


def open_images(config: PretrainConfig) -> ImageDataset:
    """The images of a run, as its configuration says."""
    if config.domains == "discover" and is_heap(config.images):
        if config.splits != "drawn" or config.classes or config.partial:
            raise DdmError(
                "--domains discover takes a folder as a heap, which has neither split files nor "
                "classes, and nothing to lack: leave out --splits, --classes and --partial, or "
                "list the images in a manifest"
            )
        return open_heap(config.images, config.size, config.channels, config.strict)
    return load_images(
        config.images,
        config.size,
        config.channels,
        config.strict,
        config.splits,
        config.classes,
        config.partial,
    )


def open_heap(images: str, size: int, channels: int = 3, strict: bool = False) -> ImageDataset:
    """Images whose domains are to be found: a folder of any depth, a manifest, or what
    :func:`load_images` knows by name.

    Args:
        images: where they are.
        size: side of the views that will be taken, in pixels.
        channels: 3 for colour, 1 for grey.
        strict: refuse unreadable images instead of skipping them.

    Raises:
        DdmError: there is no such source, or it cannot be used.
    """
    if is_heap(images):
        from ddm.data.folder import load_heap

        return load_heap(Path(images), load_size(size), channels, strict)
    return load_images(images, size, channels, strict)


def is_heap(images: str) -> bool:
    """Whether that is a folder of image files (a saved Hugging Face data set is none)."""
    from ddm.data import huggingface

    return Path(images).is_dir() and huggingface.recognize(Path(images)) is None


def _is_wilds(path: Path) -> bool:
    from ddm.data import wilds

    return path.is_dir() and wilds.recognize(path) is not None


def _is_domainnet(path: Path) -> bool:
    from ddm.data import domainnet

    return path.is_dir() and domainnet.recognize(path) is not None


def _is_benchmark(path: Path) -> bool:
    from ddm.data import recognition

    return recognition.recognize(path) is not None


def _has_official_splits(path: Path) -> bool:
    from ddm.data import domainbed, recognition

    if _is_wilds(path):
        return True
    source = recognition.recognize(path)
    if source is None or source.load is domainbed.load_domainbed:
        return False
    return source.survey(path).splits is not None


def _load_folder(
    path: Path,
    size: int,
    channels: int,
    strict: bool,
    splits: Splits,
    classes: Sequence[str],
    partial: bool,
) -> ImageDataset:
    from ddm.data import domainbed, domainnet, huggingface, recognition, wilds
    from ddm.data.folder import load_folder

    if wilds.recognize(path) is not None:
        fold = None if splits in ("drawn", "official") else splits
        return wilds.load_wilds(path, size, channels, strict, fold=fold)
    if huggingface.recognize(path) is not None:
        return huggingface.load_huggingface(path, size, channels, strict)
    if (source := recognition.recognize(path)) is not None:
        options: dict[str, Any] = {"partial": partial}
        if source.load is not domainbed.load_domainbed:
            options["splits"] = splits
        if source.load is domainnet.load_domainnet and classes:
            options["classes"] = classes
        return source.load(path, size, channels, strict, **options)
    recognition.refuse_near_miss(path)
    return load_folder(path, size, channels, strict)
