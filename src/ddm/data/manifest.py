"""A table of image files, CSV or Parquet, with what is known about each."""

from __future__ import annotations

import csv
import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from ddm.data.base import SPLITS, ImageDataset, Labels, split_by_group
from ddm.data.images import keep_readable
from ddm.data.keys import Keys
from ddm.domains import DomainTable
from ddm.errors import DdmError, first_line

#: How the name of a manifest ends.
MANIFESTS = (".parquet", ".csv")
COLUMNS = ("path", "domain", "class", "split", "group", "instance")

_SPLIT_OF = {**{split: split for split in SPLITS}, "valid": "val", "validation": "val"}

#: Column name -> one text a row, ``""`` where there is none.
Table = dict[str, list[str]]


def load_manifest(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    size: int = 64,
    channels: int = 3,
    strict: bool = False,
) -> ImageDataset:
    """Read the images that a CSV or Parquet file lists, in its order.

    CSV is UTF-8 text with commas, or with semicolons or tabs, as some spreadsheets write it.

    Only ``path`` is required; other columns than these are passed over. An empty field or NaN means
    that the value is not known. All values are text: ``01`` and ``1`` are two domains.

    - ``path``: the image, relative to ``root``.
    - ``domain``, ``class``: their names.
    - ``split``: train, val (or valid, validation) or test. Without this column the splits are drawn
      by group.
    - ``group``: images of one group never part at a split; the path, where it is not given.
    - ``instance``: images of the very same thing in several domains share it.

    Args:
        path: the manifest.
        root: the folder that the paths are relative to; the manifest's own where ``None``.
        size: side of the square images in pixels.
        channels: 3 for colour, 1 for grey.
        strict: refuse the manifest if an image cannot be read, rather than skip that image.

    Returns:
        The images. Labels, if there are any, are called ``"class"``.

    Raises:
        DdmError: a manifest that is missing, of another kind, damaged or empty; no column ``path``;
            a path that is empty or repeats; an unknown split; a group in two splits; no file found
            under the root; under ``strict``, an unreadable image.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    keys, groups, splits, table = read_listed(path)
    if not any(os.path.exists(root / key) for key in keys):
        raise DdmError(
            f"none of the {len(keys):,} files that {path} lists exists, first {root / keys[0]}: "
            f"the paths are taken relative to {root}; put the manifest back where they start "
            "from, or rewrite them"
        )
    reader, kept, skipped, enlarged = keep_readable(root, keys, size, channels, strict)

    def column(name: str) -> list[str]:
        return [table[name][i] for i in kept] if name in table else [""] * len(kept)

    classes = Labels.from_names(column("class"))
    return ImageDataset(
        name=path.stem,
        keys=keys if len(kept) == len(keys) else [keys[i] for i in kept],
        read=reader,
        size=size,
        channels=channels,
        domains=DomainTable.from_names(column("domain")),
        splits=splits[kept],
        # Each image its own group needs no names.
        groups=np.arange(len(kept)) if groups is keys else _numbered([groups[i] for i in kept]),
        labels={"class": classes} if classes.names else {},
        instances=_numbered(column("instance")) if "instance" in table else None,
        skipped=skipped,
        enlarged=enlarged,
    )


def read_listed(path: Path) -> tuple[Keys, Sequence[str], NDArray[np.str_], Table]:
    """What a manifest says of its N images, which are not looked at.

    Returns:
        Their paths; the group of each; the split of each, shape (N,); the other columns.

    Raises:
        DdmError: as `load_manifest`, as far as the table itself is at fault.
    """
    table = read_table(path)
    keys = _keys(path, table.pop("path"))
    groups: Sequence[str] = keys
    if "group" in table:
        given = table.pop("group")
        groups = [group or key for group, key in zip(given, keys, strict=True)]
    if "split" in table:
        return keys, groups, _splits(path, table.pop("split"), groups), table
    return keys, groups, split_by_group(groups), table


def _numbered(names: Sequence[str]) -> NDArray[np.int64]:
    """One number for each distinct name, -1 for an empty one."""
    return Labels.from_names(names).index


def _keys(manifest: Path, paths: list[str]) -> Keys:
    """The paths in one spelling ("a//b", "./a/b" -> "a/b"), each of them once."""
    first: dict[str, int] = {}
    for row, path in enumerate(paths, 1):
        if not path:
            raise DdmError(f"{manifest}, row {row}: the path is empty; fill it in or drop the row")
        key = PurePath(path).as_posix()
        if key in first:
            raise DdmError(
                f"{manifest}, row {row}: path {path!r} is also in row {first[key]}; "
                "remove one of the two"
            )
        first[key] = row
    return Keys(first)


def _splits(manifest: Path, splits: list[str], groups: Sequence[str]) -> NDArray[np.str_]:
    """The given splits, checked, shape (N,)."""
    split_of_group: dict[str, str] = {}
    for row, (name, group) in enumerate(zip(splits, groups, strict=True), 1):
        split = _SPLIT_OF.get(name)
        if split is None:
            raise DdmError(
                f"{manifest}, row {row}: split is {name!r}; use train, val or test, "
                "or remove the column to have splits drawn"
            )
        first = split_of_group.setdefault(group, split)
        if split != first:
            raise DdmError(
                f"{manifest}, row {row}: group {group!r} is in {split}, but in {first} above; "
                "give all rows of a group the same split, or remove the column to have splits "
                "drawn by group"
            )
    return np.array([_SPLIT_OF[split] for split in splits])


def read_table(path: Path) -> Table:
    """The columns of a manifest that we know, as text.

    Raises:
        DdmError: a manifest that is missing, of another kind, damaged or empty, or no column
            ``path``.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise DdmError(f"{path} is no manifest: its name must end in .csv or .parquet")
    if not path.is_file():
        raise DdmError(f"{path} does not exist or is not a file: give the manifest's path")
    table = readers[path.suffix.lower()](path)
    if not table["path"]:
        raise DdmError(f"{path} lists no images: add one row an image")
    # Paths alone may begin or end with a space.
    return {
        name: values if name == "path" else [_text(value) for value in values]
        for name, values in table.items()
    }


def _text(value: str) -> str:
    """A name without the blanks around it; "NaN" is how other tools write that there is none."""
    value = value.strip()
    return "" if value.lower() == "nan" else value


def _read_csv(path: Path) -> Table:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(next((line for line in file if line.strip()), ""))
            file.seek(0)
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            return _read_rows(path, (row for row in rows if row))
    except UnicodeDecodeError as error:
        raise DdmError(f"{path} is not UTF-8 text: save it as CSV UTF-8") from error
    except csv.Error as error:
        raise DdmError(f"{path} is not valid CSV ({error}): check its quotes and commas") from error


def _delimiter(header: str) -> str:
    """What parts the columns: a comma, unless only another gives a column ``path``."""
    for delimiter in ",;\t":
        if "path" in (name.strip().strip('"').lower() for name in header.split(delimiter)):
            return delimiter
    return ","


def _read_rows(path: Path, rows: Iterator[list[str]]) -> Table:
    """The columns that we know; row by row, so that no more than these is ever in memory."""
    header = [name.strip() for name in next(rows, [])]
    if not header:
        raise DdmError(f"{path} is empty: its first line must name the columns, 'path' among them")
    _check_columns(path, header)
    wanted = [(i, name) for i, name in enumerate(header) if name in COLUMNS]
    table: Table = {name: [] for _, name in wanted}
    # A domain's name is one string, however many rows hold it.
    known: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise DdmError(
                f"{path}, row {number}: {len(row)} fields, but the header has {len(header)}; "
                "put fields that hold the separator in double quotes"
            )
        for i, name in wanted:
            value = row[i]
            table[name].append(value if name == "path" else known.setdefault(value, value))
    return table


def _read_parquet(path: Path) -> Table:
    # Slow to import, and most manifests are CSV.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Not pq.read_table: it would take "domain=x" in a folder's name for a column.
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            wanted = [name for name in COLUMNS if name in file.schema_arrow.names]
            table = file.read(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise DdmError(f"{path} is not a readable Parquet file ({first_line(error)})") from error
    return {name: [_plain(value) for value in table.column(name).to_pylist()] for name in wanted}


def _plain(value: object) -> str:
    if value is None:
        return ""
    # Integers with gaps become floats in pandas: 7.0 was a 7.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _likeness(name: str) -> float:
    """How much a column is called like one that holds paths."""
    usual = ("path", "file", "image")
    return max(difflib.SequenceMatcher(None, name.lower(), word).ratio() for word in usual)


def _check_columns(path: Path, header: Sequence[str]) -> None:
    if "path" not in header:
        nearest = max(header, key=_likeness)
        raise DdmError(
            f"{path} has no column 'path', only {', '.join(map(repr, header))}: "
            f"rename the one that holds the paths, perhaps {nearest!r}"
        )
    for name in header:
        if name not in COLUMNS and name.lower() in COLUMNS:
            raise DdmError(f"{path}: column {name!r} must be called {name.lower()!r}; rename it")
    repeated = next((name for name in COLUMNS if header.count(name) > 1), None)
    if repeated:
        raise DdmError(f"{path} has several columns {repeated!r}: keep one of them")
