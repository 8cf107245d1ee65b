"""Hugging Face ``datasets``: a directory that was saved to disk, or a name on the hub.

Today this is the usual way to get PACS or DomainNet, since the original downloads are gone.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddm.data.base import SPLITS, ImageDataset, Labels, Resizable, split_by_group
from ddm.data.images import keep_readable, read_image
from ddm.domains import DomainTable
from ddm.errors import DdmError

#: What a source begins with that is to be fetched from the hub, ``hf:flwrlabs/pacs`` say.
HUB = "hf:"

_SPLIT_OF = {**{s: s for s in SPLITS}, "valid": "val", "validation": "val", "dev": "val"}
_DOMAIN_NAMES = ("domain", "domains", "style", "source", "environment", "hospital", "location")
_LABEL_NAMES = ("label", "labels", "class", "category", "target", "y")


def recognize(root: Path) -> str | None:
    """``"huggingface"`` for a directory that ``save_to_disk`` wrote or that holds such ones.

    Args:
        root: any path.
    """
    if not root.is_dir():
        return None
    return "huggingface" if _is_saved(root) or _below(root) else None


def load_huggingface(
    source: str | os.PathLike[str],
    size: int = 64,
    channels: int = 3,
    strict: bool = False,
    image: str | None = None,
    label: str | None = None,
    domain: str | None = None,
) -> ImageDataset:
    """Open a data set of the package ``datasets``.

    The image column is the one of type Image; the domain column one that is called domain, style,
    source, environment, hospital or location; the label column one that is called label, class,
    category, target or y, or else the only other one of type ClassLabel. Where there are several,
    or they have other names, name them. Without a domain column all domains are unknown, unless
    none of the splits is called like one (``photo``, ``sketch`` ...): then the splits are the
    domains. Splits are the data set's own, by the names train, val (valid, validation, dev) and
    test; where there is one split only, or none is called so, they are drawn.

    Args:
        source: a directory that ``save_to_disk`` wrote; or ``"hf:"`` and a name on the hub, which
            is fetched from the network. After the name may come a configuration and a revision:
            ``"hf:owner/name:configuration@revision"``.
        size: side of the square images in pixels.
        channels: 3 for colour, 1 for grey.
        strict: refuse the data if an image cannot be read, rather than skip that image.
        image: the column that holds the images.
        label: the column that holds their classes.
        domain: the column that holds their domains.

    Returns:
        The images, split after split; a key is the split and the row's number in it. Labels, if
        there are any, are called ``"class"``; of type ClassLabel they keep their numbers.
        ``official_splits`` holds the splits' own names where there are several.

    Raises:
        DdmError: ``datasets`` is not installed; no such data set, or no way to the hub; a
            directory one too high, or that is not complete; columns that are missing, of another
            type or not to be told apart; splits of which only some are known; under ``strict``, an
            unreadable image.
    """
    tables = _open(source)
    name = os.fspath(source)
    first = next(iter(tables.values()))
    for split, table in tables.items():
        if table.features != first.features:
            raise DdmError(
                f"{name}: split {split!r} has other columns or classes than {next(iter(tables))!r};"
                " save them with the same features"
            )
    columns = _Columns(name, first.features)
    image = columns.image(image)
    domain = columns.domain(domain, image)
    label = columns.label(label, image, domain)
    known = [split.lower() in _SPLIT_OF for split in tables]
    if any(known) and not all(known):
        strange = list(tables)[known.index(False)]
        raise DdmError(
            f"{name}: split {strange!r} is none of train, val and test, but others are; save the "
            "data set without it, or under another name"
        )
    split_names = [split for split, table in tables.items() for _ in range(len(table))]
    keys = [f"{split}/{row}" for split, table in tables.items() for row in range(len(table))]
    if not keys:
        raise DdmError(f"{name} holds no images: none of its splits has a row")

    def open_images(root: Path, wanted: Sequence[str], size: int, channels: int) -> ArrowReader:
        return ArrowReader(
            {s: t.select_columns([image]) for s, t in tables.items()}, wanted, size, channels
        )

    reader, kept, skipped, enlarged = keep_readable(
        Path(name), keys, size, channels, strict, open_images
    )
    rows = np.array(kept)
    kept_keys = [keys[i] for i in kept]
    given = np.array([split_names[i] for i in kept])
    drawn = len(tables) == 1 or not any(known)
    domains = split_names if domain is None and not any(known) and len(tables) > 1 else None
    if domain is not None:
        table = columns.values(tables, domain)
        domain_table = DomainTable(table.index[rows], table.names)
    else:
        domain_table = DomainTable.from_names([domains[i] if domains else "" for i in kept])
    return ImageDataset(
        name=Path(name.removeprefix(HUB)).resolve().name,
        keys=tuple(kept_keys),
        read=reader,
        size=size,
        channels=channels,
        domains=domain_table,
        splits=split_by_group(kept_keys)
        if drawn
        else np.array([_SPLIT_OF[split.lower()] for split in given]),
        groups=np.arange(len(kept)),
        labels={} if label is None else {"class": columns.values(tables, label).subset(rows)},
        skipped=skipped,
        enlarged=enlarged,
        official_splits=given if len(tables) > 1 else None,
    )


class ArrowReader(Resizable):
    """Reads image ``i`` of some rows of Arrow tables, which stay on disk.

    Args:
        tables: split -> table with one column of type Image.
        keys: the rows' keys, ``split/row``.
        size: side of the images in pixels.
        channels: 3 for colour, 1 for grey.

    Raises:
        DdmError: channels other than 1 and 3.
    """

    def __init__(
        self, tables: Mapping[str, Any], keys: Sequence[str], size: int, channels: int
    ) -> None:
        if channels not in (1, 3):
            raise DdmError(f"channels must be 3 (colour) or 1 (grey), not {channels}")
        import datasets

        self.size = size
        self.channels = channels
        # As bytes: `read_image` decodes them, and says what is wrong with those that it cannot.
        encoded = datasets.Image(decode=False)
        self._splits = list(tables)
        self._tables = [
            table.with_format(None).cast_column(table.column_names[0], encoded)
            for table in tables.values()
        ]
        places = [key.rpartition("/") for key in keys]
        self._split = np.array([self._splits.index(split) for split, _, _ in places], np.int32)
        self._row = np.array([int(row) for _, _, row in places], np.int64)

    def __len__(self) -> int:
        return len(self._row)

    def _find(self, i: int) -> tuple[str, bytes | None]:
        """Name and content of an image; the content is None for one that is a file."""
        split, row = int(self._split[i]), int(self._row[i])
        (value,) = self._tables[split][row].values()
        key = f"{self._splits[split]}/{row}"
        if value is None:
            return key, b""
        if value["bytes"] is None and value["path"]:
            return str(value["path"]), None
        return key, value["bytes"] or b""

    def __call__(self, i: int) -> NDArray[np.uint8]:
        """Read image ``i``: uint8, shape (size, size, channels); raises `UnreadableImage`."""
        name, data = self._find(i)
        return read_image(name, self.size, self.channels, data)

    def content(self, i: int) -> bytes:
        """The encoded image ``i``, as it was stored."""
        name, content = self._find(i)
        return Path(name).read_bytes() if content is None else content

    def is_enlarged(self, i: int) -> bool:
        """Whether readable image ``i`` has fewer pixels a side in its file than when it is read."""
        name, data = self._find(i)
        with Image.open(name if data is None else io.BytesIO(data)) as image:
            side: int = min(image.size)
        return side < self.size


class _Columns:
    """Finds the columns of a data set by their names and types."""

    def __init__(self, name: str, features: Mapping[str, Any]) -> None:
        self.name = name
        self.features = features

    def _kind(self, column: str) -> str:
        return type(self.features[column]).__name__

    def _named(self, column: str, argument: str) -> str:
        if column not in self.features:
            raise DdmError(
                f"{self.name} has no column {column!r}, only {_listed(self.features)}: give "
                f"another {argument}"
            )
        return column

    def _one_of(self, found: list[str], argument: str) -> str:
        if len(found) > 1:
            raise DdmError(
                f"{self.name}: {_listed(found)} could each be the {argument} column: rename or "
                "drop all but one and save the data set (in Python, "
                f"load_huggingface(..., {argument}={found[0]!r}) says which)"
            )
        return found[0]

    def image(self, given: str | None) -> str:
        if given is not None:
            column = self._named(given, "image")
            if self._kind(column) != "Image":
                raise DdmError(
                    f"{self.name}: column {column!r} is of type {self._kind(column)}, not Image; "
                    "cast it with cast_column and save the data set again"
                )
            return column
        found = [column for column in self.features if self._kind(column) == "Image"]
        if not found:
            raise DdmError(
                f"{self.name} has no column of type Image, only {_listed(self.features)}: cast the "
                "one that holds the images with cast_column and save the data set again"
            )
        return self._one_of(found, "image")

    def domain(self, given: str | None, image: str) -> str | None:
        if given is not None:
            return self._plain(self._named(given, "domain"))
        found = [
            column
            for column in self.features
            if column.lower() in _DOMAIN_NAMES and column != image
        ]
        return self._plain(self._one_of(found, "domain")) if found else None

    def label(self, given: str | None, image: str, domain: str | None) -> str | None:
        if given is not None:
            return self._plain(self._named(given, "label"))
        others = [column for column in self.features if column not in (image, domain)]
        found = [column for column in others if column.lower() in _LABEL_NAMES]
        if not found:
            found = [column for column in others if self._kind(column) == "ClassLabel"]
        return self._plain(self._one_of(found, "label")) if found else None

    def _plain(self, column: str) -> str:
        feature = self.features[column]
        dtype = str(getattr(feature, "dtype", ""))
        if self._kind(column) in ("ClassLabel", "Value") and (
            dtype.startswith(("int", "uint")) or dtype in ("string", "large_string", "bool")
        ):
            return column
        raise DdmError(
            f"{self.name}: column {column!r} is of type {dtype or self._kind(column)}, but names "
            "are texts, whole numbers or ClassLabel; name another column"
        )

    def values(self, tables: Mapping[str, Any], column: str) -> Labels:
        """The names in a column, over all splits."""
        values = [v for table in tables.values() for v in table.select_columns([column])[column]]
        if self._kind(column) == "ClassLabel":
            index = np.array([-1 if v is None else v for v in values], np.int64)
            return Labels(index, tuple(self.features[column].names))
        if all(v is None or isinstance(v, int) for v in values):
            # In the order of numbers: 10 after 9.
            numbers = sorted({int(v) for v in values if v is not None})
            place = {number: i for i, number in enumerate(numbers)}
            index = np.array([-1 if v is None else place[int(v)] for v in values], np.int64)
            return Labels(index, tuple(map(str, numbers)))
        return Labels.from_names(values)


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names))


def _open(source: str | os.PathLike[str]) -> dict[str, Any]:
    """The tables by split; one of no split is called ``all``."""
    name = os.fspath(source)
    opened = _from_hub(name) if name.startswith(HUB) else _from_disk(Path(name))
    return dict(opened) if isinstance(opened, dict) else {"all": opened}


def _package() -> Any:
    # Fetching what the user asked for is one thing, telling others about it another.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    try:
        import datasets
    except ImportError as error:
        raise DdmError(
            "Hugging Face data sets need the package 'datasets': pip install 'datasets>=4'"
        ) from error
    # Older ones run code that comes with a data set.
    if int(datasets.__version__.split(".")[0]) < 4:
        raise DdmError(
            f"'datasets' {datasets.__version__} is too old: pip install --upgrade 'datasets>=4'"
        )
    return datasets


def _from_hub(source: str) -> Any:
    where, _, revision = source.removeprefix(HUB).partition("@")
    name, _, configuration = where.partition(":")
    datasets = _package()
    try:
        return datasets.load_dataset(name, configuration or None, revision=revision or None)
    # A missing name, config or network each have errors of their own, not all of them public.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DdmError(
            f"{source} cannot be fetched from the Hugging Face hub ({reason}): check its name, "
            f"'{HUB}{name}:configuration' where it has several, and the network, or give a "
            "directory that save_to_disk wrote"
        ) from error


def _from_disk(root: Path) -> Any:
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DdmError(
            f"{root} {what}: give a directory that save_to_disk wrote, or {HUB} and a hub name"
        )
    if not _is_saved(root):
        below = _below(root)
        if below:
            raise DdmError(
                f"{root} is one folder too high, or was not copied whole: give {below[0]}"
            )
        raise DdmError(
            f"{root} is no directory that save_to_disk wrote: it has neither dataset_dict.json nor "
            "state.json; give one that has"
        )
    _require_complete(root)
    datasets = _package()
    try:
        return datasets.load_from_disk(os.fspath(root))
    # Damaged Arrow files raise whatever the damage looks like.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DdmError(f"{root} is damaged ({reason}): copy or save it again") from error


def _is_saved(root: Path) -> bool:
    return (root / "dataset_dict.json").is_file() or (
        (root / "state.json").is_file() and (root / "dataset_info.json").is_file()
    )


def _below(root: Path) -> list[Path]:
    """The saved directories in a folder, which may hold 600,000 images beside."""
    try:
        with os.scandir(root) as entries:
            folders = [Path(entry.path) for entry in entries if entry.is_dir()]
    except OSError:  # what the folder is cannot be told; whoever reads it says why
        return []
    return sorted(folder for folder in folders if _is_saved(folder))


def _require_complete(root: Path) -> None:
    """Refuse a directory that lacks what its own notes name."""
    folders = [root]
    try:
        if (root / "dataset_dict.json").is_file():
            note = json.loads((root / "dataset_dict.json").read_text("utf-8"))
            folders = [root / str(split) for split in note["splits"]]
        needed = [folder / name for folder in folders for name in _NOTES]
        lacking = [path for path in needed if not path.is_file()]
        if not lacking:
            states = {f: json.loads((f / "state.json").read_text("utf-8")) for f in folders}
            files = [f / str(d["filename"]) for f, s in states.items() for d in s["_data_files"]]
            lacking = [path for path in files if not path.is_file()]
    except (ValueError, KeyError, TypeError) as error:
        raise DdmError(f"{root} has a damaged note ({error}): copy or save it again") from error
    if lacking:
        raise DdmError(f"{root} is not complete, {lacking[0]} is missing: copy or save it again")


_NOTES = ("state.json", "dataset_info.json")
