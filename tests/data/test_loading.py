"""The order of batches is a function of seed and epoch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddm.data.base import ImageDataset
from ddm.data.loading import EpochBatches, IndexedImages, batches, keep_in_memory
from synthetic import make_dataset


@given(
    n=st.integers(1, 60), batch=st.integers(1, 8), world=st.integers(1, 3), epoch=st.integers(0, 3)
)
def test_ranks_share_what_one_process_sees(n, batch, world, epoch):
    if n < batch * world:
        with pytest.raises(ValueError, match="do not fill a batch"):
            EpochBatches(n, batch, 0, epoch, world_size=world)
        return
    one = list(EpochBatches(n, batch * world, 0, epoch))
    ranks = [list(EpochBatches(n, batch, 0, epoch, rank=r, world_size=world)) for r in range(world)]
    assert [[i for part in parts for i in part] for parts in zip(*ranks, strict=True)] == one
    seen = [i for b in one for i in b]
    assert len(set(seen)) == len(seen) and set(seen) <= set(range(n))
    assert len(one) == n // (batch * world) == len(EpochBatches(n, batch * world, 0, epoch))


def test_a_later_start_sees_the_rest_and_keeps_its_length():
    whole = EpochBatches(50, 8, seed=1, epoch=2)
    rest = EpochBatches(50, 8, seed=1, epoch=2, start=4)
    assert list(rest) == list(whole)[4:]
    assert len(rest) == len(whole) == 6


def test_epochs_and_seeds_differ_and_repeat():
    orders = [list(EpochBatches(50, 8, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len({str(order) for order in orders}) == 4
    assert orders[0] == list(EpochBatches(50, 8, 0, 0))


@given(
    domains=st.lists(st.integers(-1, 6), min_size=8, max_size=80),
    together=st.integers(1, 9),
    epoch=st.integers(0, 2),
)
def test_samples_of_a_domain_are_drawn_together(domains, together, epoch):
    index = np.array(domains)
    one = EpochBatches(len(index), len(index), 0, epoch, domains=index, together=together)
    (order,) = list(one)
    assert sorted(order) == list(range(len(index)))
    if together == 1:
        assert [order] == list(EpochBatches(len(index), len(index), 0, epoch))
        return
    # Each domain lies in as few pieces as its size asks for, of unknown domain each by itself.
    drawn = index[order]
    for domain in set(domains) - {-1}:
        own = drawn == domain
        pieces = int(own[0]) + int((own[1:] & ~own[:-1]).sum())
        assert pieces <= -(-int(own.sum()) // together)


def test_with_many_domains_few_samples_are_alone():
    index = np.arange(2400) % 240
    alone = {}
    for together in (1, 8):
        parts = EpochBatches(2400, 240, 0, 0, domains=index, together=together)
        share = [np.bincount(index[part], minlength=240)[index[part]] == 1 for part in parts]
        alone[together] = np.mean(share)
    assert alone[1] > 0.3 and alone[8] < 0.02


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batched", [True, False])
def test_batches_hold_image_domain_and_stable_index(workers, batched):
    dataset = make_dataset(each=4)
    reader = dataset.read
    if not batched:
        object.__setattr__(dataset, "read", reader.__call__)
    chosen = np.array([30, 2, 17, 5])
    loader = batches(IndexedImages(dataset, chosen), None, 3, workers)
    images, domains, index = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert index.tolist() == chosen.tolist()
    assert domains.tolist() == dataset.domains.index[chosen].tolist()
    assert images.dtype == torch.uint8 and images.shape == (4, 3, 32, 32)
    assert np.array_equal(images[1].permute(1, 2, 0).numpy(), reader(2))


def counting(dataset: ImageDataset, dtype: type) -> tuple[ImageDataset, list[int]]:
    """The data set, read one by one, and which images were read."""
    read, asked = dataset.read, []

    def one(index: int) -> np.ndarray:
        asked.append(index)
        return (read(index) / (1 if dtype is np.uint8 else 255)).astype(dtype)

    return replace(dataset, read=one), asked


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_kept_in_memory_are_read_once(dtype, monkeypatch):
    monkeypatch.setattr("ddm.data.loading.default_workers", lambda dataset: 0)
    dataset, asked = counting(make_dataset(each=4), dtype)
    chosen = np.array([30, 2, 17, 5])
    kept = keep_in_memory(IndexedImages(dataset, chosen))
    assert sorted(asked[1:]) == sorted(chosen)  # The first one tells the type.
    asked.clear()
    images, domains, index = kept.__getitems__([3, 0, 3])
    assert not asked and index.tolist() == [5, 30, 5]
    expected = IndexedImages(dataset, chosen).__getitems__([3, 0, 3])
    assert torch.equal(images, expected[0]) and images.dtype == expected[0].dtype
    assert torch.equal(domains, expected[1])
    assert np.array_equal(kept.dataset.read(17), dataset.read(17))
    with pytest.raises(IndexError, match=r"images \[3, 4\]"):
        kept.dataset.read.batch([17, 3, 4])


def test_images_that_take_too_much_memory_are_left_where_they_are():
    dataset, asked = counting(make_dataset(each=4), np.uint8)
    images = IndexedImages(dataset, np.arange(10))
    assert keep_in_memory(images, limit=10 * 32 * 32 * 3 - 1) is images and len(asked) == 1
    in_an_array = IndexedImages(make_dataset(each=4), np.arange(10))
    assert keep_in_memory(in_an_array) is in_an_array
