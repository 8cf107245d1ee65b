"""Barlow Twins against equation 1 and 2 of its paper."""

import pytest
import torch
from torch import nn

from ddm.methods import BarlowTwins
from ddm.methods.barlow_twins import BarlowTwinsSettings


def make(head_start: int = 0) -> BarlowTwins:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    return BarlowTwins(encoder, 6, head_start, BarlowTwinsSettings(0.5, 0.01, 8, 5)).double()


def two_views(n: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(n, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_loss_is_equation_1():
    method, views = make(), two_views()
    z1, z2 = method.head(method.encoder(torch.cat(views))).detach().chunk(2)
    z1, z2 = z1 - z1.mean(0), z2 - z2.mean(0)
    total = 0.0
    for i in range(5):
        for j in range(5):
            # The epsilon in the deviation is batch norm's, on which the authors' code rests.
            a = (z1[:, i].square().mean() + 1e-5).sqrt()
            b = (z2[:, j].square().mean() + 1e-5).sqrt()
            c = float((z1[:, i] * z2[:, j]).mean() / (a * b))
            total += (1 - c) ** 2 if i == j else 0.01 * c**2
    output = method(views)
    assert output.loss.item() == pytest.approx(0.5 * total, rel=1e-10)
    assert output.features.shape == (2, 7, 6)


def test_the_authors_code_gives_the_same():
    """``bn(z1).T @ bn(z2) / N``, then the diagonal's and the rest's sums of squares."""
    method, views = make(), two_views()
    z1, z2 = method.head(method.encoder(torch.cat(views))).chunk(2)
    bn = nn.BatchNorm1d(5, affine=False).double()
    c = bn(z1).T @ bn(z2) / 7
    off = c.flatten()[:-1].view(4, 6)[:, 1:].flatten()
    expected = (torch.diagonal(c) - 1).pow(2).sum() + 0.01 * off.pow(2).sum()
    torch.testing.assert_close(method(views).loss, 0.5 * expected)


def test_the_head_sees_the_invariant_portion_alone():
    method = make(head_start=2)
    method(two_views()).loss.backward()
    gradient = method.encoder[1].weight.grad
    assert (gradient[:2] == 0).all() and (gradient[2:] != 0).any()
