"""Batches of a data set: ``(images, domain, index)``, in an order that a seed and an epoch fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from ddm.cores import cores
from ddm.data.base import ImageDataset

#: Bytes of images that are kept in memory rather than read in each epoch.
KEPT = 2 << 30
#: images (N, C, H, W) uint8, or float32 in [0, 1]; domain (N,) int64, -1 unknown; index (N,) int64
#: into the whole data set
Batch = tuple[Tensor, Tensor, Tensor]


class IndexedImages(Dataset[Batch]):
    """Some images of a data set, fetched a batch at a time.

    Args:
        dataset: the whole data set.
        indices: which of its images, shape (M,).
    """

    def __init__(self, dataset: ImageDataset, indices: NDArray[np.int64]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        index = self.indices[np.asarray(positions, dtype=np.int64)]
        read = self.dataset.read
        # Sources that hold their images in one array hand over a batch in one go.
        batch = getattr(read, "batch", None)
        images = batch(index) if batch else np.stack([read(int(i)) for i in index])
        return (
            torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
            torch.from_numpy(self.dataset.domains.index[index]),
            torch.from_numpy(index),
        )


class EpochBatches(Sampler[list[int]]):
    """The batches of one epoch, from any batch on.

    The order is a function of seed and epoch alone: there is no state to save, and a run that is
    resumed sees what it would have seen. Each rank takes its share of the same global batch, so
    that W ranks see together what one process with a W times larger batch sees. What does not fill
    a global batch at the end of an epoch is left out of that epoch.

    Args:
        num_samples: size of the data set.
        batch_size: samples in a batch, on each rank.
        seed: of the order.
        epoch: of the order.
        start: batches to skip, because they were seen before the run was interrupted.
        rank: of this process.
        world_size: number of processes.
        domains: of each sample, shape (N,), -1 for unknown. Needed for ``together``.
        together: samples of one domain that are drawn together: where there are many domains, else
            most samples of a batch would be the only ones of theirs. An epoch still holds each
            sample once; domains' remainders, and those that the end of a batch parts, are fewer.

    Raises:
        ValueError: the data set does not fill one batch.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        domains: NDArray[np.int64] | None = None,
        together: int = 1,
    ) -> None:
        if num_samples < batch_size * world_size:
            raise ValueError(
                f"{num_samples} samples do not fill a batch of {batch_size * world_size}"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self.start = start
        self.rank = rank
        self.world_size = world_size
        self.domains = domains
        self.together = together

    @property
    def sampler(self) -> EpochBatches:
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go on to another epoch, from its start; the present one stays as it is."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        """Batches of the whole epoch, the skipped ones too: progress is counted from its start."""
        return self.num_samples // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.num_samples)
        if self.domains is not None and self.together > 1:
            order = _drawn_together(order, self.domains, self.together, rng)
        order = order[: len(self) * self.batch_size * self.world_size]
        batches = order.reshape(len(self), self.world_size, self.batch_size)[:, self.rank]
        yield from batches[self.start :].tolist()


def _drawn_together(
    order: NDArray[np.int64],
    domains: NDArray[np.int64],
    together: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The order with samples of a domain side by side, ``together`` of them; groups at random."""
    of = domains[order]
    by_domain = np.argsort(of, kind="stable")
    _, first, counts = np.unique(of[by_domain], return_index=True, return_counts=True)
    nth = np.empty(len(order), np.int64)
    nth[by_domain] = np.arange(len(order)) - np.repeat(first, counts)
    # Those of unknown domain have none in common.
    nth[of >= 0] //= together
    _, group = np.unique(np.stack([of, nth]), axis=1, return_inverse=True)
    place = rng.permutation(group.max() + 1)[group.ravel()]
    return order[np.argsort(place, kind="stable")]


def default_workers(dataset: ImageDataset) -> int:
    """Processes that decode images: one a core, at most 8.

    None for an array in memory, nor where there is one core, which they would only take turns on.
    """
    if hasattr(dataset.read, "batch") or cores() == 1:
        return 0
    return min(8, cores())


def _as_it_is(batch: Any) -> Any:
    return batch


def batches(
    images: IndexedImages, sampler: Sampler[list[int]] | None, batch_size: int, workers: int
) -> DataLoader[Batch]:
    """A loader over ``sampler``'s batches; in order, to the last image, where it is None."""
    common: dict[str, Any] = {
        "collate_fn": _as_it_is,
        "num_workers": workers,
        "pin_memory": torch.cuda.is_available(),
        "persistent_workers": workers > 0 and sampler is not None,
    }
    if sampler is None:
        return DataLoader(images, batch_size=batch_size, **common)
    return DataLoader(images, batch_sampler=sampler, **common)


class KeptImages:
    """Some images of a data set, in one array.

    Args:
        images: shape (M, H, W, C).
        row: place of each image of the data set among them, -1 for those that are not, shape (N,).
    """

    def __init__(self, images: NDArray[Any], row: NDArray[np.int64]) -> None:
        self.images = images
        self.row = row

    def __call__(self, index: int) -> NDArray[Any]:
        image: NDArray[Any] = self.batch([index])[0]
        return image

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
        """Several images at once, shape (M, H, W, C).

        Raises:
            IndexError: one that was not kept.
        """
        rows = self.row[indices]
        if (rows < 0).any():
            raise IndexError(f"of images {np.asarray(indices)[rows < 0].tolist()} none was kept")
        images: NDArray[Any] = self.images[rows]
        return images


def keep_in_memory(images: IndexedImages, limit: int = KEPT) -> IndexedImages:
    """The same images, read now and kept, if that takes no more than ``limit`` bytes.

    They then need not be decoded in every epoch. The others of the data set are not kept, and
    cannot be read from what is returned.
    """
    dataset = images.dataset
    if hasattr(dataset.read, "batch") or not len(images):
        return images
    first = dataset.read(int(images.indices[0]))
    if first.nbytes * len(images) > limit:
        return images
    row = np.full(len(dataset), -1)
    row[images.indices] = np.arange(len(images))
    kept = np.empty((len(images), *first.shape), first.dtype)
    loader = batches(images, None, 512, default_workers(dataset))
    for pixels, _, index in tqdm(loader, desc="Reading images", unit="batch", leave=False):
        kept[row[index.numpy()]] = pixels.permute(0, 2, 3, 1).numpy()
    return IndexedImages(replace(dataset, read=KeptImages(kept, row)), images.indices)
