"""Which parameters decay, at which rate, and how the rate runs."""

import copy

import pytest
import torch
from lightly.utils.lars import LARS
from torch import nn

from ddm.optimizers import (
    OptimizerSettings,
    clip_gradients,
    cosine_with_warmup,
    make_optimizer,
)


def test_schedule_rises_then_falls_along_a_cosine():
    factor = cosine_with_warmup(steps=110, warmup=10)
    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == factor(10) == pytest.approx(1)
    assert factor(60) == pytest.approx(0.5)
    assert factor(110) == pytest.approx(0)


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_norms_and_biases_are_not_decayed_and_the_rate_follows_the_batch(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    frozen = nn.Linear(2, 2).requires_grad_(False)
    settings = OptimizerSettings(name, learning_rate=0.1, weight_decay=0.01)
    optimizer = make_optimizer([model, frozen], settings, batch=512)
    decayed, free = optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[2].weight)}
    assert {id(p) for p in free["params"]} == {
        id(p) for p in (model[0].bias, model[1].weight, model[1].bias, model[2].bias)
    }
    assert decayed["lr"] == pytest.approx(0.2)


def test_the_rate_can_grow_with_the_root_of_the_batch():
    settings = OptimizerSettings("sgd", 0.1, 0.0, scaling="sqrt")
    optimizer = make_optimizer([nn.Linear(2, 2)], settings, batch=1024)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "adam"}, "name='adam' is unknown; choose one of lars, sgd, adamw"),
        ({"scaling": "root"}, "scaling='root' is unknown; choose one of linear, sqrt"),
    ],
)
def test_unknown_optimizers_are_refused(wrong, message):
    settings = OptimizerSettings(**{"name": "sgd", "learning_rate": 0.1, "weight_decay": 0} | wrong)
    with pytest.raises(ValueError, match=message):
        make_optimizer([nn.Linear(2, 2)], settings, batch=256)


def test_each_gradient_is_cut_by_itself():
    long, short = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    long.grad, short.grad = torch.tensor([30.0, 40.0]), torch.tensor([0.3, 0.4])
    optimizer = torch.optim.SGD([long, short], 0.1)
    clip_gradients(optimizer, OptimizerSettings("sgd", 0.1, 0.0))
    assert long.grad.tolist() == [30, 40]
    clip_gradients(optimizer, OptimizerSettings("sgd", 0.1, 0.0, clip_norm=3.0))
    torch.testing.assert_close(long.grad, torch.tensor([1.8, 2.4]))
    torch.testing.assert_close(short.grad, torch.tensor([0.3, 0.4]))


def test_lars_without_decay_keeps_its_trust_ratio():
    def step(decay):
        torch.manual_seed(0)
        layer = nn.Linear(8, 8)
        before = layer.weight.detach().clone()
        settings = OptimizerSettings("lars", learning_rate=1.2, weight_decay=decay)
        optimizer = make_optimizer([layer], settings, batch=256)
        layer(torch.randn(16, 8)).square().sum().backward()
        optimizer.step()
        return float((layer.weight.detach() - before).norm() / before.norm())

    assert step(0.0) == pytest.approx(step(1e-6), rel=1e-3)
    assert step(0.0) < 0.01


def lightlys_lars(model):
    """Weights decay, norms and biases do not."""
    decayed, free = (
        [p for p in model.parameters() if (p.ndim > 1) == weights] for weights in (True, False)
    )
    groups = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
    return LARS(groups, lr=1.2, momentum=0.9, weight_decay=1e-2)


def test_lars_takes_the_steps_of_another_library():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    theirs = copy.deepcopy(ours)
    settings = OptimizerSettings("lars", learning_rate=1.2, weight_decay=1e-2)
    mine, peer = make_optimizer([ours], settings, batch=256), lightlys_lars(theirs)
    for _ in range(4):
        x = torch.randn(8, 6, dtype=torch.float64)
        for model, optimizer in ((ours, mine), (theirs, peer)):
            optimizer.zero_grad()
            (model(x) - x[:, :3]).square().sum().backward()
            optimizer.step()
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_checkpoint_of_the_other_library_goes_on():
    torch.manual_seed(0)
    theirs, x = nn.Linear(4, 3), torch.randn(8, 4)
    peer = lightlys_lars(theirs)
    theirs(x).square().sum().backward()
    peer.step()
    ours = copy.deepcopy(theirs)
    settings = OptimizerSettings("lars", learning_rate=1.2, weight_decay=1e-2)
    mine = make_optimizer([ours], settings, batch=256)
    # A copy: both would else move the same momentum.
    mine.load_state_dict(copy.deepcopy(peer.state_dict()))
    for model, optimizer in ((ours, mine), (theirs, peer)):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected)
