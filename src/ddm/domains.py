"""The domain of every sample: given by the data, or discovered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ddm.errors import DdmError

UNKNOWN = -1


@dataclass
class DomainTable:
    """Sample index -> domain.

    A sample keeps its index for the life of a data set, so that domains which are discovered or
    corrected later need no new data: only this table changes.

    Args:
        index: domain of each sample, shape (N,), ``-1`` where it is unknown.
        names: the domains' names; ``names[index[i]]`` is the domain of sample ``i``.
        confidence: how sure the domain is, shape (N,), in [0, 1]; 1 where it was given.

    Raises:
        ValueError: an index outside ``[-1, len(names))``, shapes that differ, names that repeat.
    """

    index: NDArray[np.int64]
    names: tuple[str, ...]
    confidence: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def __post_init__(self) -> None:
        self.index = np.asarray(self.index, dtype=np.int64)
        self.names = tuple(self.names)
        if self.confidence.size == 0:
            self.confidence = (self.index != UNKNOWN).astype(np.float32)
        self.confidence = np.asarray(self.confidence, dtype=np.float32)
        if self.index.ndim != 1 or self.confidence.shape != self.index.shape:
            raise ValueError(
                "index and confidence must both have shape (N,), "
                f"not {self.index.shape} and {self.confidence.shape}"
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"domain names repeat: {self.names}")
        if self.index.size and not (
            UNKNOWN <= self.index.min() <= self.index.max() < len(self.names)
        ):
            raise ValueError(
                f"domain indices must lie in [-1, {len(self.names)}), "
                f"found {self.index.min()} to {self.index.max()}"
            )

    @classmethod
    def from_names(cls, names: Sequence[str | None]) -> DomainTable:
        """Build a table from one name a sample.

        ``None``, an empty string, or NaN (an empty cell of pandas) means unknown.

        Raises:
            DdmError: a name that is no text.
        """
        # NaN alone differs from itself.
        names = ["" if name is None or name != name else name for name in names]
        strange = next((name for name in names if not isinstance(name, str)), None)
        if strange is not None:
            raise DdmError(f"domain {strange!r} is no text: give names, such as str({strange!r})")
        distinct = tuple(sorted({name for name in names if name}))
        position = {name: i for i, name in enumerate(distinct)}
        index = np.fromiter(
            (position[name] if name else UNKNOWN for name in names), np.int64, count=len(names)
        )
        return cls(index, distinct)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def num_domains(self) -> int:
        return len(self.names)

    def counts(self) -> NDArray[np.int64]:
        """Samples of each domain, shape (num_domains,)."""
        return np.bincount(self.index[self.index != UNKNOWN], minlength=self.num_domains).astype(
            np.int64
        )

    def subset(self, samples: NDArray[np.int64]) -> DomainTable:
        """The table of some samples; names stay, so that indices keep their meaning."""
        return DomainTable(self.index[samples], self.names, self.confidence[samples])

    def updated(self, samples: NDArray[np.int64], table: DomainTable) -> DomainTable:
        """This table with other entries for some samples.

        Args:
            samples: which ones, shape (M,).
            table: their domains, under the same names.
        """
        if table.names != self.names:
            raise ValueError(f"names differ: {table.names} and {self.names}")
        index, confidence = self.index.copy(), self.confidence.copy()
        index[samples], confidence[samples] = table.index, table.confidence
        return DomainTable(index, self.names, confidence)
