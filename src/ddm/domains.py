"""The domain of every sample: given by the data, or discovered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddm.errors import DdmError

UNKNOWN = -1
#: What stands for several domains in place of a domain's name: the mean over domains, the accuracy
#: over all their samples together, the domain that is worst.
SUMMARIES = ("mean", "pooled", "worst")


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
        ValueError: an index that is no integer or outside ``[-1, len(names))``, a confidence
            outside [0, 1], shapes that differ, names that repeat.
        DdmError: a name that stands for a summary (:data:`SUMMARIES`).
    """

    index: NDArray[np.int64]
    names: tuple[str, ...]
    confidence: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def __post_init__(self) -> None:
        given = np.asarray(self.index)
        if given.size and given.dtype.kind not in "iu":
            raise ValueError(
                f"index must hold integers, not {given.dtype}: {UNKNOWN} where the domain is "
                "unknown; for names use DomainTable.from_names"
            )
        self.index = given.astype(np.int64)
        self.names = tuple(self.names)
        self.confidence = np.asarray(self.confidence, dtype=np.float32)
        if self.confidence.size == 0:
            self.confidence = (self.index != UNKNOWN).astype(np.float32)
        if self.index.ndim != 1 or self.confidence.shape != self.index.shape:
            raise ValueError(
                "index and confidence must both have shape (N,), "
                f"not {self.index.shape} and {self.confidence.shape}"
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"domain names repeat: {self.names}")
        taken = [name for name in self.names if name in SUMMARIES]
        if taken:
            raise DdmError(
                f"the name {taken[0]!r} stands for a summary over domains in the results "
                f"({', '.join(SUMMARIES)}); rename it"
            )
        # Shares of votes may sum to a little over 1. NaN lies nowhere.
        if self.confidence.size and not (
            0 <= self.confidence.min() <= self.confidence.max() <= 1 + 1e-5
        ):
            raise ValueError(
                "confidence must lie in [0, 1], "
                f"found {self.confidence.min():g} to {self.confidence.max():g}"
            )
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

        Args:
            names: of the samples' domains, N of them. ``None``, an empty string, or an empty cell
                of pandas (NaN, NA, NaT) means unknown.

        Returns:
            The table; the distinct names in alphabetical order, each confidence 1 or, for unknown
            domains, 0.

        Raises:
            DdmError: a name that is no text, or that stands for a summary (:data:`SUMMARIES`).
        """
        return cls(*index_names(names))

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
        """The table of some samples; names stay, so that indices keep their meaning.

        Args:
            samples: which ones, in which order, shape (M,).
        """
        return DomainTable(self.index[samples], self.names, self.confidence[samples])

    def updated(self, samples: NDArray[np.int64], table: DomainTable) -> DomainTable:
        """This table with other entries for some samples.

        Args:
            samples: which ones, shape (M,).
            table: their domains, under the same names.

        Raises:
            ValueError: other names.
        """
        if table.names != self.names:
            raise ValueError(f"names differ: {table.names} and {self.names}")
        index, confidence = self.index.copy(), self.confidence.copy()
        index[samples], confidence[samples] = table.index, table.confidence
        return DomainTable(index, self.names, confidence)


def index_names(names: Sequence[str | None]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number names.

    Args:
        names: N of them; ``None``, an empty string, or an empty cell of pandas means none.

    Returns:
        Number of each, shape (N,), -1 for none; and the distinct names in alphabetical order.

    Raises:
        DdmError: a name that is no text.
    """
    names = ["" if _is_empty(name) else name for name in names]
    strange = next((name for name in names if not isinstance(name, str)), None)
    if strange is not None:
        raise DdmError(f"the name {strange!r} is no text: give names, such as str({strange!r})")
    distinct = tuple(sorted({name for name in names if name}))
    position = {name: i for i, name in enumerate(distinct)}
    index = np.fromiter(
        (position[name] if name else UNKNOWN for name in names), np.int64, count=len(names)
    )
    return index, distinct


def _is_empty(name: Any) -> bool:
    """Whether it is None or an empty cell of pandas: NaN and NaT differ from themselves."""
    if name is None:
        return True
    try:
        return bool(name != name)
    except TypeError:  # NA cannot say.
        return True
