"""SimSiam against equation 4 of its paper."""

import pytest
import torch
from torch import nn

from ddm.methods import SimSiam
from ddm.methods.simsiam import SimSiamSettings


def make(head_start: int = 0) -> SimSiam:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    return SimSiam(encoder, 6, head_start, SimSiamSettings(8, 4)).double()


def two_views() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(4, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2)]


def negative_cosine(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    terms = [-(a / a.norm()) @ (b / b.norm()) for a, b in zip(p, z, strict=True)]
    return torch.stack(terms).mean()


def test_loss_and_gradient_are_equation_4():
    method, views = make(), two_views()
    output = method(views)
    gradients = torch.autograd.grad(output.loss, list(method.parameters()))
    z = method.head(method.encoder(torch.cat(views)))
    p = method.prediction_head(z)
    stopped = z.detach()
    expected = (negative_cosine(p[:4], stopped[4:]) + negative_cosine(p[4:], stopped[:4])) / 2
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for mine, theirs in zip(
        gradients, torch.autograd.grad(expected, list(method.parameters())), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
    assert output.features.shape == (2, 4, 6)


def test_the_head_sees_the_invariant_portion_alone():
    method = make(head_start=2)
    method(two_views()).loss.backward()
    gradient = method.encoder[1].weight.grad
    assert (gradient[:2] == 0).all() and (gradient[2:] != 0).any()
