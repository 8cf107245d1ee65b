"""The CSV files of WILDS: chosen columns, each of one type, every fault with its row."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddm.errors import DdmError


class Column(Enum):
    """What the values of a column are."""

    TEXT = "text"
    TEXT_OR_BLANK = "text or nothing"
    INTEGER = "a whole number"
    #: -1 where there is none.
    INTEGER_OR_BLANK = "a whole number or nothing"
    NUMBER = "a number"


def read_table(
    path: Path, columns: Mapping[str, Column], optional: Mapping[str, Column] | None = None
) -> dict[str, NDArray[Any]]:
    """Read some columns of a CSV file (UTF-8, commas, a header).

    Args:
        path: the file.
        columns: the columns that are needed, and what each holds.
        optional: columns that are read where they are there.

    Returns:
        For each column the values, shape (N,): int64, float64 or, of text, objects. ``True`` and
        ``False`` are whole numbers, 1 and 0.

    Raises:
        DdmError: a file that is missing or no such table; a column that it lacks; no rows; a value
            that is missing or of another kind.
    """
    # Slow to import, and only large tables need it.
    import pandas as pd

    if not path.is_file():
        raise DdmError(f"{path} is missing: the download stopped early, download it anew")
    try:
        header = [str(name) for name in pd.read_csv(path, nrows=0).columns]
        _require_columns(path, header, columns)
        columns = {**columns, **{n: kind for n, kind in (optional or {}).items() if n in header}}
        table = pd.read_csv(
            path,
            usecols=list(columns),
            dtype={name: str for name, kind in columns.items() if kind in _TEXTS},
            # "NA" is a name like any other: only an empty field is missing.
            keep_default_na=False,
            low_memory=False,
        )
    except UnicodeDecodeError as error:
        raise DdmError(f"{path} is not UTF-8 text: it is damaged, download it anew") from error
    except pd.errors.EmptyDataError as error:
        raise DdmError(f"{path} is empty: the download stopped early, download it anew") from error
    except pd.errors.ParserError as error:
        reason = " ".join(str(error).split())
        raise DdmError(f"{path} is no valid CSV ({reason}): download it anew") from error
    if table.empty:
        raise DdmError(f"{path} lists no images: the download stopped early, download it anew")
    return {name: _checked(path, name, kind, table[name]) for name, kind in columns.items()}


_TEXTS = (Column.TEXT, Column.TEXT_OR_BLANK)


def _require_columns(path: Path, header: list[str], columns: Mapping[str, Column]) -> None:
    lacking = [name for name in columns if name not in header]
    if lacking:
        # The first column often has no name: it numbers the rows.
        found = ", ".join(repr(name) for name in header if not name.startswith("Unnamed:"))
        raise DdmError(
            f"{path} has no column {lacking[0]!r}, only {found}: it is another version's or was "
            "edited, download it anew"
        )


def _checked(path: Path, name: str, kind: Column, column: Any) -> NDArray[Any]:
    """The values as one type; raises `DdmError` where one is not of the kind."""
    import pandas as pd

    if kind in _TEXTS:
        texts: NDArray[np.object_] = column.fillna("").to_numpy(dtype=object)
        wrong = texts == "" if kind is Column.TEXT else np.zeros(len(texts), bool)
        values: NDArray[Any] = texts
    else:
        numbers = column
        if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)):
            # One value of another kind makes texts of all.
            numbers = column.astype(str).replace({"True": "1", "False": "0"})
        floats = pd.to_numeric(numbers, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        if kind is Column.INTEGER_OR_BLANK:
            blank = (column.astype(str) == "").to_numpy()
            floats = np.where(blank, -1, floats)
        wrong = ~np.isfinite(floats)
        if kind is not Column.NUMBER:
            wrong |= np.mod(np.where(wrong, 0, floats), 1) != 0
        whole = kind is not Column.NUMBER and not wrong.any()
        values = floats.astype(np.int64) if whole else floats
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        given = column.iloc[row]
        told = "is empty" if pd.isna(given) or given == "" else f"is {str(given)!r}"
        raise DdmError(
            f"{path}, row {row + 1}: {name} {told}, not {kind.value}; the download stopped early "
            "or was edited, download it anew"
        )
    return values
