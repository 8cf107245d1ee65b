"""The names of many images, in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

_CODEC = ("utf-8", "surrogateescape")


class Keys(Sequence[str]):
    """An immutable sequence of texts, end to end in one block of bytes.

    A million paths as Python strings take 100 MB and more, and each worker of a ``DataLoader``
    would copy them all sooner or later, because Python writes a reference count into every string
    that it touches. Here a path costs its own bytes and eight more. It equals a tuple of the same
    texts.

    Args:
        names: the texts; another ``Keys`` shares its block.
    """

    _block: bytes
    _edges: NDArray[np.int64]

    def __init__(self, names: Iterable[str]) -> None:
        if isinstance(names, Keys):
            self._block, self._edges = names._block, names._edges
            return
        block, edges = bytearray(), [0]
        for name in names:
            block += name.encode(*_CODEC)
            edges.append(len(block))
        self._block = bytes(block)
        self._edges = np.array(edges, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._edges) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[str, ...]: ...
    def __getitem__(self, i: int | slice) -> str | tuple[str, ...]:
        if isinstance(i, slice):
            return tuple(self[j] for j in range(len(self))[i])
        i = range(len(self))[i]
        return self._block[self._edges[i] : self._edges[i + 1]].decode(*_CODEC)

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Keys):
            return self._block == other._block and bool(np.array_equal(self._edges, other._edges))
        if isinstance(other, tuple):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))  # What is equal must hash alike.

    def __repr__(self) -> str:
        return f"Keys({len(self)} names)"
