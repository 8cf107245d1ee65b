"""The order of batches is a function of seed and epoch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddm.data.loading import EpochBatches, IndexedImages, batches
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
