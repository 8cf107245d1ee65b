"""Which files of a folder were found readable before, so that they need not be decoded again.

A file is taken for the same while its name, its length and the time of its last change are. Only
folders of many images are remembered: a few are checked anew as fast. One file for each folder and
size of its images, in the user's cache.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ddm.data.cache import cache_dir
from ddm.errors import DdmError
from ddm.files import atomic

#: Images from which on it is worth it.
REMEMBERED_FROM = 5000


class Memory:
    """What is known of a folder's files from the last time they were looked at.

    Args:
        root: the folder.
        keys: the files' names, N of them.
        reader: reads them; of images that are no files nothing is known (:func:`file_states`).
        size: side that images are read with, in pixels.
        channels: channels that they are read with.

    Attributes:
        same: which files were readable and have not changed since, shape (N,).
        enlarged: which of these have fewer pixels than they are read with, shape (N,).
    """

    def __init__(
        self,
        root: Path,
        keys: Sequence[str],
        reader: object,
        size: int,
        channels: int,
    ) -> None:
        self.same = np.zeros(len(keys), bool)
        self.enlarged = np.zeros(len(keys), bool)
        self._now: NDArray[np.uint64] | None = None
        self._then = np.zeros(0, np.uint64), np.zeros(0, bool)
        if len(keys) < REMEMBERED_FROM:
            return
        try:
            folder = cache_dir()
        except DdmError:
            return  # It costs time alone.
        # A question of its own for each size: going back and forth would forget both.
        asked = os.fsencode(root.resolve()) + f"\0{size}\0{channels}".encode()
        self._store = folder / "checked" / f"{hashlib.sha256(asked).hexdigest()[:32]}.npz"
        self._now = file_states(keys, reader)
        if self._now is None:
            return
        # Never written, or damaged: all is looked at again.
        with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile):
            with np.load(self._store, allow_pickle=False) as stored:
                then, enlarged = stored["digests"], stored["enlarged"]
            self._then = then, enlarged
            if len(then):
                place = np.searchsorted(then, self._now).clip(max=len(then) - 1)
                self.same = (then[place] == self._now) & (self._now > 0)
                self.enlarged = self.same & enlarged[place]

    def keep(self, kept: Sequence[int], enlarged: NDArray[np.bool_]) -> None:
        """Remember the readable files for the next time, if anything is new about them.

        A cache that cannot be written is no one's trouble.

        Args:
            kept: positions of the readable ones.
            enlarged: which of all files have fewer pixels than they are read with, shape (N,).
        """
        if self._now is None or self.same[list(kept)].all():
            return
        found, flags = self._now[list(kept)], enlarged[list(kept)]
        # Of the folder's other files, such as those of classes that were not asked for, what was
        # known stays known.
        found = np.concatenate([found, self._then[0]])
        flags = np.concatenate([flags, self._then[1]])
        found, order = np.unique(found, return_index=True)
        flags = flags[order]
        with suppress(OSError), atomic(self._store) as temporary, open(temporary, "wb") as file:
            np.savez(file, digests=found, enlarged=flags)


def file_states(keys: Sequence[str], reader: object) -> NDArray[np.uint64] | None:
    """A number for each file by its name, length and time of last change; 0 where there is none.

    Args:
        keys: the files' names, N of them.
        reader: reads them; its method ``path_of`` says where the i-th lies.

    Returns:
        Array of shape (N,); None of a reader without that method, whose images are no files of
        their own, such as rows of an array.
    """
    path_of: Callable[[int], str] | None = getattr(reader, "path_of", None)
    if path_of is None:
        return None
    found = np.zeros(len(keys), np.uint64)
    for i, key in enumerate(keys):
        with suppress(OSError):
            status = os.stat(path_of(i))
            text = f"{key}\0{status.st_size}\0{status.st_mtime_ns}"
            digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8)
            found[i] = int.from_bytes(digest.digest(), "little")
    return found
