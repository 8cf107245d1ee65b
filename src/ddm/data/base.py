"""What every data source gives: images that can be read by index, and a table about them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ddm.data.keys import Keys
from ddm.domains import DomainTable, index_names

SPLITS = ("train", "val", "test")
NO_LABEL = -1

#: Reads one image, shape (H, W, C): uint8, or float32 in [0, 1] where 8 bits would lose too much.
#: Square, the same size and type for every index.
ImageReader = Callable[[int], NDArray[np.uint8] | NDArray[np.float32]]
R = TypeVar("R", bound="Resizable")


class Resizable:
    """An :data:`ImageReader` whose images can be had at any size."""

    size: int

    def resized(self: R, size: int) -> R:
        """A reader of the same images, ``size`` pixels a side."""
        other = copy.copy(self)
        other.size = size
        return other


@dataclass(frozen=True)
class Labels:
    """One way of naming what the images show.

    Args:
        index: class of each sample, shape (N,), ``-1`` where there is none.
        names: the classes' names.
    """

    index: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def from_names(cls, names: Sequence[str | None]) -> Labels:
        """Build from one name a sample; ``None`` or an empty string means no label."""
        return cls(*index_names(names))

    def subset(self, samples: NDArray[np.int64]) -> Labels:
        return Labels(self.index[samples], self.names)


@dataclass(frozen=True)
class ImageDataset:
    """Images from several domains and what is known about each.

    Args:
        name: what to call the data in tables and reports.
        keys: a stable name of each image, unique: a path relative to the root, say. Kept as
            :class:`~ddm.data.keys.Keys`.
        read: reads image ``i`` as uint8, or as float32 in [0, 1], shape (size, size, channels).
        size: side of the square images, in pixels.
        channels: 3 for colour, 1 for grey, any other number for multispectral images.
        domains: the domain of each image.
        splits: ``"train"``, ``"val"`` or ``"test"`` of each image, shape (N,).
        groups: shape (N,); images of one group never part at a split, and intervals resample
            groups.
        labels: ways of naming the content, the main one first; empty where there are no classes.
        instances: shape (N,); images that show the very same thing in different domains share a
            number, ``-1`` where that is not known. Cross-domain retrieval needs it.
        skipped: images that could not be read, as (key, reason).
        enlarged: how many images have fewer pixels than ``size`` in their files.
        official_splits: the name that the data's authors give to each image's split, shape (N,),
            where they have more than three: ``"id_val"``, ``"val"`` ...; None where they have not.
        metadata: what else is known of the images and a metric or a protocol needs: name of the
            column -> values, shape (N,).
    """

    name: str
    keys: Sequence[str]
    read: ImageReader
    size: int
    channels: int
    domains: DomainTable
    splits: NDArray[np.str_]
    groups: NDArray[np.int64]
    labels: Mapping[str, Labels] = field(default_factory=dict)
    instances: NDArray[np.int64] | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    enlarged: int = 0
    official_splits: NDArray[np.str_] | None = None
    metadata: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", Keys(self.keys))
        n = len(self.keys)
        columns: dict[str, NDArray[Any]] = {
            "domains": self.domains.index,
            "splits": self.splits,
            "groups": self.groups,
            **{f"labels[{k!r}]": v.index for k, v in self.labels.items()},
            **{f"metadata[{k!r}]": v for k, v in self.metadata.items()},
        }
        if self.official_splits is not None:
            columns["official_splits"] = self.official_splits
        if self.instances is not None:
            columns["instances"] = self.instances
        for column, values in columns.items():
            if values.shape != (n,):
                raise ValueError(f"{column} has shape {values.shape}, but there are {n} keys")
        strange = set(np.unique(self.splits)) - set(SPLITS)
        if strange:
            raise ValueError(f"splits must be among {SPLITS}, found {sorted(strange)}")

    def __len__(self) -> int:
        return len(self.keys)

    def select(
        self, domains: Sequence[str] | None = None, splits: Sequence[str] | None = None
    ) -> NDArray[np.int64]:
        """Indices of the images in the named domains and splits (all of them for ``None``)."""
        chosen = np.ones(len(self), bool)
        if domains is not None:
            wanted = [self.domains.names.index(name) for name in domains]
            chosen &= np.isin(self.domains.index, wanted)
        if splits is not None:
            chosen &= np.isin(self.splits, splits)
        return np.flatnonzero(chosen).astype(np.int64)

    def shared_classes(self, label: str) -> int:
        """How many classes of a way of naming occur in two domains or more.

        Where it is 0, whoever tells the domains apart tells the classes apart.
        """
        classes, domains = self.labels[label].index, self.domains.index
        known = (classes >= 0) & (domains >= 0)
        pairs = np.unique(np.stack([classes[known], domains[known]]), axis=1)
        return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())

    def resized(self, size: int) -> ImageDataset:
        """The same images, read at another size from where they lie.

        As they are where ``read`` has no method ``resized`` (:class:`Resizable`); ``enlarged`` is
        not counted anew.
        """
        resized = getattr(self.read, "resized", None)
        return self if resized is None else replace(self, read=resized(size), size=size)

    def only(self, samples: NDArray[np.int64]) -> ImageDataset:
        """Some of the images, as if the others had never been there.

        Domains and labels that only the others have lose their names; those without an image
        keep them. ``skipped`` and ``enlarged`` stay as they are.

        Args:
            samples: which ones, in which order, shape (M,).
        """
        domains, names = _names_of_only(self.domains.index, self.domains.names, samples)
        official, instances = self.official_splits, self.instances
        return replace(
            self,
            keys=[self.keys[int(i)] for i in samples],
            read=_Selected(self.read, samples),
            domains=DomainTable(domains, names, self.domains.confidence[samples]),
            splits=self.splits[samples],
            groups=self.groups[samples],
            labels={
                name: Labels(*_names_of_only(labels.index, labels.names, samples))
                for name, labels in self.labels.items()
            },
            instances=None if instances is None else instances[samples],
            official_splits=None if official is None else official[samples],
            metadata={name: values[samples] for name, values in self.metadata.items()},
        )


class _Selected:
    """A reader of some of another's images. It can what the other can."""

    def __init__(self, read: ImageReader, samples: NDArray[np.int64]) -> None:
        self.read = read
        self.samples = samples

    def __call__(self, i: int) -> NDArray[np.uint8] | NDArray[np.float32]:
        return self.read(int(self.samples[i]))

    # What the other lacks is an AttributeError here too, so that `hasattr` tells.
    @property
    def batch(self) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
        batch = self.read.batch  # type: ignore[attr-defined]
        return lambda indices: batch(self.samples[indices])

    @property
    def resized(self) -> Callable[[int], _Selected]:
        resized = self.read.resized  # type: ignore[attr-defined]
        return lambda size: _Selected(resized(size), self.samples)

    @property
    def path_of(self) -> Callable[[int], str]:
        path_of = self.read.path_of  # type: ignore[attr-defined]
        return lambda i: path_of(int(self.samples[i]))


def _names_of_only(
    index: NDArray[np.int64], names: Sequence[str], samples: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number the names of some samples anew, without the names that only other samples have.

    Args:
        index: name of each sample, shape (N,), -1 for none.
        names: the names.
        samples: which samples, shape (M,).

    Returns:
        Number of each of the M, shape (M,), -1 for none; and the names that are left.
    """
    lost = np.setdiff1d(index, index[samples])
    kept = np.setdiff1d(np.arange(len(names)), lost)
    number = np.full(len(names) + 1, NO_LABEL)  # The last is that of -1.
    number[kept] = np.arange(len(kept))
    return number[index[samples]], tuple(names[i] for i in kept)


def split_by_group(
    groups: Sequence[str], fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
) -> NDArray[np.str_]:
    """Assign train, val or test to each sample by a hash of its group's name.

    The hash depends on the name alone: adding images never moves the others, and no random state is
    needed to repeat a split.

    Args:
        groups: the group of each sample, N names.
        fractions: expected shares of train, val and test; they sum to 1.

    Returns:
        Array of ``"train"``, ``"val"``, ``"test"``, shape (N,).
    """
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) < 0:
        raise ValueError(f"fractions must be at least 0 and sum to 1, not {fractions}")
    edges = np.cumsum(fractions)[:2]
    # No table of the groups: where every image is its own, it would be the larger part.
    places = (
        int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
        for group in groups
    )
    place = np.fromiter(places, np.float64, count=len(groups))
    where = np.searchsorted(edges, place, side="right")
    return np.asarray(SPLITS)[where]
