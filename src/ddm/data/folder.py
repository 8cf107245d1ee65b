"""A folder of images: one sub-folder a domain and, where there are labels, in it one a class."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ddm.data.base import SPLITS, ImageDataset, Labels, split_by_group
from ddm.data.images import OTHER_FORMATS, is_image_name, keep_readable
from ddm.domains import DomainTable
from ddm.errors import DdmError
from ddm.messages import tell

_SPLIT_NAMES = frozenset({*SPLITS, "valid", "validation", "crossval"})
_IGNORED = frozenset({"__MACOSX"})


def load_folder(
    root: str | os.PathLike[str],
    size: int = 64,
    channels: int = 3,
    strict: bool = False,
    split_fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
) -> ImageDataset:
    """Read ``root/<domain>/<class>/**/image`` or, without labels, ``root/<domain>/image``.

    Hidden files and folders, and files that are no images by name, are passed over. Symbolic links
    are followed. Every image is its own group, and its split hangs on its key alone. One domain is
    enough here; whether the module can use it is for pre-training to say.

    Args:
        root: the folder.
        size: side of the square images in pixels.
        channels: 3 for colour, 1 for grey.
        strict: refuse the folder if an image cannot be read, rather than skip that image.
        split_fractions: expected shares of train, val and test.

    Returns:
        The images, sorted by key: the path below ``root``, with ``/``. Labels, if there are
        classes, are called ``"class"``.

    Raises:
        DdmError: a root that is missing, no folder or without readable images; images directly in
            the root, or both in a domain's folder and in class folders; sub-folders that are called
            like splits; a name that is not UTF-8; a folder that cannot be listed; under ``strict``,
            an unreadable image.
    """
    root = Path(root)
    keys = find_images(root)
    with_classes = has_classes(root, keys)
    reader, kept, skipped, enlarged = keep_readable(root, keys, size, channels, strict)
    keys = [keys[i] for i in kept]
    # macOS archives hold decomposed accents: "é" from there and from elsewhere are one class.
    places = [unicodedata.normalize("NFC", key).split("/") for key in keys]
    labels = {}
    if with_classes:
        labels["class"] = Labels.from_names([place[1] for place in places])
        below = {place[2] for place in places if len(place) > 3}
        if len(labels["class"].names) == 1 and len(below) > 1:
            tell(
                f"{root}: all images lie in folders called {places[0][1]!r}, which is taken for "
                f"their only class: if {', '.join(sorted(below)[:3])} are classes, move them up"
            )
        if apart := lie_apart([place[0] for place in places], [place[1] for place in places]):
            tell(f"{root}: {apart}")
    return ImageDataset(
        name=root.resolve().name,
        keys=tuple(keys),
        read=reader,
        size=size,
        channels=channels,
        domains=DomainTable.from_names([place[0] for place in places]),
        splits=split_by_group(keys, split_fractions),
        groups=np.arange(len(keys)),
        labels=labels,
        skipped=skipped,
        enlarged=enlarged,
    )


def lie_apart(domains: Sequence[str], classes: Sequence[str]) -> str:
    """What to say where no class folder occurs in two domains; empty where one does.

    Args:
        domains: of each image.
        classes: likewise.
    """
    where: dict[str, set[str]] = {}
    for domain, label in zip(domains, classes, strict=True):
        if domain and label:
            where.setdefault(label, set()).add(domain)
    apart = (
        len(set(domains) - {""}) > 1 and where and all(len(found) == 1 for found in where.values())
    )
    if not apart:
        return ""
    return (
        f"no class lies in two domains ({', '.join(sorted(where)[:3])}): if these folders are no "
        "classes but dates or places, move the images up into their domain's folder, or list them "
        "in a manifest"
    )


def load_heap(root: Path, size: int = 64, channels: int = 3, strict: bool = False) -> ImageDataset:
    """Read all images below a folder, at any depth; what its sub-folders are called says nothing.

    Args:
        root: the folder.
        size: side of the square images in pixels.
        channels: 3 for colour, 1 for grey.
        strict: refuse the folder if an image cannot be read, rather than skip that image.

    Returns:
        The images, sorted by key, of unknown domain and without labels.

    Raises:
        DdmError: a root that is missing, no folder or without readable images; a name that is not
            UTF-8; a folder that cannot be listed; under ``strict``, an unreadable image.
    """
    keys = find_images(root)
    reader, kept, skipped, enlarged = keep_readable(root, keys, size, channels, strict)
    keys = [keys[i] for i in kept]
    return ImageDataset(
        name=root.resolve().name,
        keys=tuple(keys),
        read=reader,
        size=size,
        channels=channels,
        domains=DomainTable.from_names([None] * len(keys)),
        splits=split_by_group(keys),
        groups=np.arange(len(keys)),
        skipped=skipped,
        enlarged=enlarged,
    )


def find_images(root: Path) -> list[str]:
    """Keys of all images below root, sorted.

    Raises:
        DdmError: no such folder, none that can be listed, or no images in it; a name that is not
            UTF-8.
    """
    keys, others = list_images(root)
    check_unicode(root, keys)
    if others:
        tell(f"{root}: {other_formats(others)}")
    return keys


def list_images(root: Path) -> tuple[list[str], list[str]]:
    """Keys of all images below root, and of those in formats that are not read, sorted.

    Raises:
        DdmError: no such folder, none that can be listed, or no images in it.
    """
    if not root.exists():
        raise DdmError(f"{root} does not exist: give the folder that holds one sub-folder a domain")
    if not root.is_dir():
        raise DdmError(
            f"{root} is not a folder: give the folder that holds one sub-folder a domain, "
            "or load a CSV or Parquet file as a manifest"
        )
    others: list[str] = []
    keys = sorted(walk_images(os.fspath(root), others=others))
    if not keys and others:
        raise DdmError(f"{root} holds no images that can be read; {other_formats(others)}")
    if not keys:
        raise DdmError(
            f"{root} holds no images: expected {root}/<domain>/<image> "
            f"or {root}/<domain>/<class>/<image>, and files that are called .jpg, .png, ..."
        )
    return keys, sorted(others)


def other_formats(names: Sequence[str]) -> str:
    """That images of other formats are passed over, in a line without the folder's name."""
    kinds = ", ".join(sorted({os.path.splitext(name)[1].lower() for name in names}))
    return (
        f"{len(names):,} files of formats that are not read ({kinds}) are passed over, first "
        f"{min(names)}: convert them to JPEG or PNG"
    )


def check_unicode(root: Path, keys: Sequence[str]) -> None:
    """Raise `DdmError` if a key could be written neither to a report nor to a table."""
    misnamed = [key for key in keys if not is_unicode(key)]
    if misnamed:
        raise DdmError(
            f"image paths below {root} that are not UTF-8: {len(misnamed):,}, "
            f"first {os.fsencode(misnamed[0])!r}; rename them, with convmv for instance"
        )


def is_unicode(key: str) -> bool:
    """Whether a key can be written to a report or a table."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over wherever it lies."""
    return name.startswith(".") or name in _IGNORED


def walk_images(
    folder: str,
    prefix: str = "",
    above: frozenset[tuple[int, int]] = frozenset(),
    others: list[str] | None = None,
) -> Iterator[str]:
    """Keys of the images in a folder and below it, in no order.

    Args:
        folder: where to look.
        prefix: what each key starts with.
        above: device and inode of the folders on the way to this one.
        others: gets the keys of images in formats that are not read.

    Raises:
        DdmError: a folder that cannot be listed.
    """
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:  # a symbolic link that leads back up
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DdmError(
            f"{folder} cannot be listed ({error.strerror}): make it readable or move it away"
        ) from error
    for entry in entries:
        if is_hidden(entry.name):
            continue
        # A broken link with an image's name goes on the list: it is reported as unreadable.
        if entry.is_dir(follow_symlinks=False) or (
            entry.is_symlink() and os.path.isdir(entry.path)
        ):
            yield from walk_images(entry.path, f"{prefix}{entry.name}/", above | {here}, others)
        elif is_image_name(entry.name):
            yield prefix + entry.name
        elif others is not None and os.path.splitext(entry.name)[1].lower() in OTHER_FORMATS:
            others.append(prefix + entry.name)


def has_classes(root: Path, keys: list[str]) -> bool:
    """Whether the images lie in class folders; raises `DdmError` where the layout is not ours."""
    by_depth = {key.count("/"): key for key in reversed(keys)}
    if 0 in by_depth:
        raise DdmError(
            f"{root / by_depth[0]} lies directly in {root}: put each source's images in its own "
            "sub-folder, use a manifest, or have the domains found (ddm discover, or "
            "ddm pretrain --domains discover)"
        )
    split = next((key.split("/")[0] for key in keys if _is_split(key.split("/")[0])), None)
    if split is not None:
        raise DdmError(
            f"{root / split} is called like a split, not a domain: expected "
            f"{root}/<domain>/<class>/<image>; name splits in the column 'split' of a manifest, "
            "or rename the folder if it is a domain"
        )
    nested = [key for depth, key in by_depth.items() if depth > 1]
    second = {key.split("/")[1] for key in keys if key.count("/") > 1}
    if second and all(map(_is_split, second)):
        raise DdmError(
            f"the folders in {root}'s domains are called like splits "
            f"({', '.join(sorted(second))}), and would pass for classes: expected "
            f"{root}/<domain>/<class>/<image>; name splits in the column 'split' of a manifest"
        )
    if 1 in by_depth and nested:
        raise DdmError(
            f"{root / by_depth[1]} lies directly in its domain's folder, but "
            f"{root / min(nested)} in a class folder: move the former into a class folder, "
            "take all class folders away, or, if folders are neither domains nor classes, have the "
            "domains found (ddm discover)"
        )
    return bool(nested)


def _is_split(folder: str) -> bool:
    return folder.lower() in _SPLIT_NAMES
