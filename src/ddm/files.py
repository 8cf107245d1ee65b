"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np


def new_array(path: Path, shape: tuple[int, ...], dtype: type) -> Any:
    """A new memory-mapped ``.npy`` file whose disk space is there.

    The file would be sparse otherwise, and a disk that fills up while it is written to through
    memory ends the process with a signal instead of an error.

    Raises:
        OSError: the disk is full.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


class atomic:
    """Write a file so that it is there whole or not at all.

    ``with atomic(path) as temporary:`` gives a name beside ``path`` to write to, which then takes
    its place. When writing fails, what stood at ``path`` before is still there.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        # Not the process id: of several machines that share a folder two may have the same.
        self.temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}.part")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.temporary

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                os.replace(self.temporary, self.path)
        finally:
            with suppress(OSError):
                self.temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file, in UTF-8, so that it is there whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
