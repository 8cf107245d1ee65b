"""Where images come from."""

from __future__ import annotations

from pathlib import Path

from ddm.data.base import ImageDataset
from ddm.errors import DdmError


def load_size(size: int) -> int:
    """Side at which images are kept for views of ``size`` pixels: larger, for crops to choose from.

    256 for 224, as is usual; small images stay as they are.
    """
    return size if size <= 64 else round(size * 8 / 7)


def load_images(images: str, size: int, channels: int = 3, strict: bool = False) -> ImageDataset:
    """Open a source of images by what it is.

    Args:
        images: ``"emoji"``, a manifest (``.csv``, ``.parquet``) or a folder.
        size: side of the views that will be taken, in pixels.
        channels: 3 for colour, 1 for grey.
        strict: refuse unreadable images instead of skipping them.

    Raises:
        DdmError: there is no such source, or it cannot be used; the message says why.
    """
    if images == "emoji":
        from ddm.data.emoji import EMOJI_SIZES, load_emoji

        fitting = [s for s in EMOJI_SIZES if s >= size]
        if not fitting:
            raise DdmError(f"size={size}: emoji are drawn at up to {EMOJI_SIZES[-1]} pixels")
        if channels != 3:
            raise DdmError(f"channels={channels}: emoji have 3")
        return load_emoji(fitting[0])
    path = Path(images)
    if path.is_dir():
        from ddm.data.folder import load_folder

        return load_folder(path, load_size(size), channels, strict)
    if path.suffix.lower() in (".csv", ".parquet"):
        from ddm.data.manifest import load_manifest

        return load_manifest(path, size=load_size(size), channels=channels, strict=strict)
    raise DdmError(
        f"{images!r} is neither a folder, a .csv or .parquet manifest, nor 'emoji'; check the path "
        "(of a run whose images have moved: `images` in its config.yaml)"
    )
