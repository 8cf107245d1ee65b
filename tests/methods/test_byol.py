"""BYOL against equations 1 and 2 of the paper, and its target network against the formula."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from lightly.models.utils import update_momentum
from torch import Tensor, nn

from ddm.methods import BYOL, BarlowTwins
from ddm.methods.base import MomentumCopy
from ddm.methods.byol import BYOLSettings

N, DIM = 5, 12


def make(head_start: int = 0, momentum: float = 0.9) -> BYOL:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, DIM), nn.BatchNorm1d(DIM))
    return BYOL(encoder, DIM, head_start, BYOLSettings(momentum, 16, 8)).double()


def two_views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(N, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2)]


def stepped(method: BYOL, progress: float) -> None:
    """One step of the optimizer, large enough to part the two networks."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.5)
    method(two_views()).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    method.progress = progress
    method.after_step()


def test_loss_is_equation_2() -> None:
    method, views = make(), two_views()
    stepped(method, 0.0)
    loss = method(views).loss
    with torch.no_grad():
        online = method.prediction_head(method.head(method.encoder(torch.cat(views))))
        target = method.target_head.model(method.target_encoder.model(torch.cat(views)))
    total = 0.0
    for q, z in ((online[:N], target[N:]), (online[N:], target[:N])):
        for i in range(N):
            difference = q[i] / q[i].norm() - z[i] / z[i].norm()
            total += sum(float(d) ** 2 for d in difference) / N
    # The paper sums the two directions of 2 - 2 cos; here stands the mean of - cos.
    assert 4 + 4 * loss.item() == pytest.approx(total, rel=1e-9)


def test_features_are_the_online_encoders() -> None:
    method, views = make(), two_views()
    stepped(method, 0.0)
    features = method(views).features
    assert features.shape == (2, N, DIM) and features.requires_grad
    expected = method.encoder(torch.cat(views))
    torch.testing.assert_close(features, torch.stack([expected[:N], expected[N:]]))


@pytest.mark.parametrize("head_start", [0, 4])
def test_heads_see_only_what_follows_head_start(head_start: int) -> None:
    method, views = make(head_start), two_views()
    stepped(method, 0.0)
    loss = method(views).loss
    loss.backward()
    weight = method.encoder[1].weight
    hidden = weight.grad[:4].abs().max()
    assert (hidden == 0) == (head_start == 4)
    assert weight.grad[4:].abs().sum(1).min() > 0
    # Neither the online network nor the target one.
    for encoder in (method.encoder, method.target_encoder.model):
        with torch.no_grad():
            encoder[1].weight[:4] *= torch.randn(4, 1, dtype=torch.float64)
        assert (method(views).loss == loss) == (head_start == 4)


def test_target_starts_as_a_copy_and_gets_no_gradient() -> None:
    method = make()
    for online, copy in (
        (method.encoder, method.target_encoder),
        (method.head, method.target_head),
    ):
        for mine, theirs in zip(copy.parameters(), online.parameters(), strict=True):
            assert torch.equal(mine, theirs) and mine is not theirs
            assert not mine.requires_grad and theirs.requires_grad
    method(two_views()).loss.backward()
    assert all(p.grad is None for p in method.target_encoder.parameters())
    assert all(p.grad is None for p in method.target_head.parameters())
    assert all(p.grad is not None for p in method.encoder.parameters())


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.5, 1.0])
def test_target_follows_by_momentum(progress: float) -> None:
    method = make(momentum=0.9)
    # Until the networks part, their batch norms see the same and need no copying.
    stepped(method, 0.0)
    before = [
        {k: v.clone() for k, v in copy.model.named_parameters()}
        for copy in (method.target_encoder, method.target_head)
    ]
    stepped(method, progress)
    momentum = 1 - (1 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
    pairs = ((method.encoder, method.target_encoder), (method.head, method.target_head))
    for (online, copy), old in zip(pairs, before, strict=True):
        new, moved = dict(online.named_parameters()), 0.0
        for k, value in copy.model.named_parameters():
            torch.testing.assert_close(value, momentum * old[k] + (1 - momentum) * new[k])
            moved += (new[k] - old[k]).abs().sum().item()
            if progress == 1:
                assert torch.equal(value, old[k])
        assert moved > 0
        # The statistics of batch norm: copied, all of them.
        for mine, theirs in zip(copy.model.buffers(), online.buffers(), strict=True):
            assert torch.equal(mine, theirs)
    assert method.encoder[2].num_batches_tracked == 2


def test_momentum_copy_needs_the_same_modules() -> None:
    copy = MomentumCopy(nn.BatchNorm1d(3))
    with pytest.raises(ValueError):
        copy.update(nn.BatchNorm1d(3, track_running_stats=False), 0.5)


def test_views_are_those_of_table_6() -> None:
    first, second = make().views(224)
    assert (first.blur, first.solarize) == (1.0, 0.0)
    assert (second.blur, second.solarize) == (0.1, 0.2)
    for view in (first, second):
        assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.2, 0.1)
        assert view.crop_scale == (0.08, 1.0)
    assert BarlowTwins(nn.Linear(2, 2), 2).views(224) == [first, second]
    # Small images stay sharp.
    assert [v.blur for v in make().views(32)] == [0.0, 0.0]
    assert [v.solarize for v in make().views(32)] == [0.0, 0.2]


def test_lightlys_update_leaves_the_statistics_of_batch_norm_behind() -> None:
    online = nn.BatchNorm1d(3)
    bare, ours = deepcopy(online), MomentumCopy(online)
    online(torch.rand(5, 3) + 4)
    update_momentum(online, bare, 0.9)
    ours.update(online, 0.9)
    assert torch.equal(bare.running_mean, torch.zeros(3)), "lightly follows buffers now"
    assert torch.equal(ours.model.running_mean, online.running_mean)
