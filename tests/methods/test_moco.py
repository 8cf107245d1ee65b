"""MoCo v2 against equation 1 of its paper, and its queue against a list."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightly.loss import NTXentLoss
from torch import nn

from ddm.methods import MoCo
from ddm.methods.moco import KeyQueue, MoCoSettings


def make(queue_size: int = 12, head_start: int = 0) -> MoCo:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    settings = MoCoSettings(queue_size=queue_size, hidden_dim=8, output_dim=5, momentum=0.9)
    return MoCo(encoder, 6, head_start, settings).double()


def two_views(n: int = 4, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(n, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2)]


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def test_loss_is_equation_1():
    method, views = make(), two_views()
    with torch.no_grad():
        for p in method.key_encoder.parameters():
            p.add_(0.1)
        q = unit(method.head(method.encoder(views[0])))
        k = unit(method.key_head.model(method.key_encoder.model(views[1])))
    total = 0.0
    for i in range(4):
        scores = [q[i] @ k[i], *(q[i] @ old for old in method.queue.keys)]
        exponents = [torch.exp(s / 0.2) for s in scores]
        total -= torch.log(exponents[0] / sum(exponents)).item()
    output = method(views)
    assert output.loss.item() == pytest.approx(total / 4, rel=1e-12)
    assert output.features.shape == (2, 4, 6)
    key_features = method.key_encoder.model(views[1])
    assert torch.equal(output.features[1], key_features) and output.features[0].requires_grad
    output.loss.backward()
    assert all(p.grad is None for p in method.key_encoder.parameters())


@given(size=st.integers(1, 9), batches=st.lists(st.integers(1, 9), max_size=8))
def test_queue_keeps_the_newest_keys(size, batches):
    queue = KeyQueue(size, 2)
    kept = queue.keys.tolist()
    count = 0
    for n in batches:
        new = torch.arange(count, count + n, dtype=torch.float32)[:, None].repeat(1, 2)
        if n > size:
            continue
        queue.push(new)
        kept = (kept + new.tolist())[-size:]
        count += n
    assert sorted(queue.keys.tolist()) == sorted(kept)


@pytest.mark.parametrize(("queue_size", "batch"), [(3, 4), (12, 13)])
def test_a_batch_larger_than_the_queue_is_refused(queue_size, batch):
    method = make(queue_size=queue_size)
    before = method.queue.keys.clone()
    with pytest.raises(ValueError, match=f"queue_size={queue_size} is smaller than .* {batch}"):
        method([torch.rand(batch, 3, 2, 2, dtype=torch.float64)] * 2)
    assert torch.equal(method.queue.keys, before)


def test_queue_is_saved_where_lightlys_drops_the_tail():
    method = make(queue_size=6)
    method(two_views())
    method(two_views(seed=2))
    other = make(queue_size=6)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert torch.equal(other.queue.keys, method.queue.keys) and int(other.queue.position) == 2
    bank = NTXentLoss(memory_bank_size=(6, 2))
    assert not any("bank" in name for name in bank.state_dict()), "lightly saves its bank now"
    # The other fault that the queue is for: of two batches of 4 a bank of 6 keeps only 4 + 2.
    bare = NTXentLoss(memory_bank_size=(6, 2))
    newest = []
    for start in (0, 4):
        keys = unit(torch.stack([torch.arange(start, start + 4.0), torch.ones(4)], 1))
        bare(keys.clone().requires_grad_(), keys)
        newest = (newest + keys.tolist())[-6:]
    held = (
        bare.memory_bank.bank.T.tolist()
        if bare.memory_bank.bank.shape[0] == 2
        else (bare.memory_bank.bank.tolist())
    )
    missing = [
        k
        for k in newest
        if min(sum(abs(a - b) for a, b in zip(k, h, strict=True)) for h in held) > 1e-5
    ]
    assert missing, "lightly keeps the newest keys now: this queue may go"


def test_keys_follow_by_momentum_and_evaluation_leaves_the_queue():
    method, views = make(), two_views()
    before = [p.clone() for p in method.key_encoder.parameters()]
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(1.0)
    method.after_step()
    for old, new in zip(before, method.key_encoder.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)
    keys = method.queue.keys.clone()
    method.eval()(views)
    assert torch.equal(method.queue.keys, keys)


def test_the_head_sees_the_invariant_portion_alone():
    method, views = make(head_start=2), two_views()
    method(views).loss.backward()
    gradient = method.encoder[1].weight.grad
    assert (gradient[:2] == 0).all() and (gradient[2:] != 0).any()
