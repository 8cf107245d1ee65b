"""SimCLR against equation 1 of the paper, written as loops."""

from __future__ import annotations

import math

import pytest
import torch
from lightly.loss import NTXentLoss
from torch import Tensor, nn

from ddm.errors import DdmError
from ddm.methods import METHODS, SimCLR, find_method
from ddm.methods.simclr import SimCLRSettings, nt_xent

N, DIM = 5, 12


def make(head_start: int = 0, temperature: float = 0.3) -> SimCLR:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, DIM))
    return SimCLR(encoder, DIM, head_start, SimCLRSettings(temperature, 16, 8)).double()


def two_views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(N, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2)]


def equation_1(z: Tensor, temperature: float) -> float:
    """Rows k and N + k are the two views of image k."""

    def similarity(i: int, j: int) -> float:
        return float(z[i] @ z[j] / (z[i].norm() * z[j].norm())) / temperature

    def pair(i: int, j: int) -> float:
        others = sum(math.exp(similarity(i, k)) for k in range(len(z)) if k != i)
        return -math.log(math.exp(similarity(i, j)) / others)

    n = len(z) // 2
    return sum(pair(k, n + k) + pair(n + k, k) for k in range(n)) / (2 * n)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_is_equation_1(temperature: float) -> None:
    method, views = make(temperature=temperature), two_views()
    loss = method(views).loss
    with torch.no_grad():
        z = method.head(method.encoder(torch.cat(views)))
    assert loss.item() == pytest.approx(equation_1(z, temperature), rel=1e-9)
    assert loss.item() == pytest.approx(NTXentLoss(temperature)(*z.chunk(2)).item(), rel=1e-9)


def test_features_are_those_of_each_view() -> None:
    method, views = make(), two_views()
    features = method(views).features
    assert features.shape == (2, N, DIM) and features.requires_grad
    for found, view in zip(features, views, strict=True):
        torch.testing.assert_close(found, method.encoder(view))


@pytest.mark.parametrize("head_start", [0, 4])
def test_head_sees_only_what_follows_head_start(head_start: int) -> None:
    method, views = make(head_start), two_views()
    loss = method(views).loss
    loss.backward()
    weight = method.encoder[1].weight
    hidden = weight.grad[:4].abs().max()
    assert (hidden == 0) == (head_start == 4)
    assert weight.grad[4:].abs().sum(1).min() > 0
    assert method.head.layers[0].in_features == DIM - head_start
    with torch.no_grad():
        weight[:4] += 1
    assert (method(views).loss == loss) == (head_start == 4)


@pytest.mark.parametrize("head_start", [-1, DIM, DIM + 1])
def test_head_start_out_of_range(head_start: int) -> None:
    with pytest.raises(ValueError, match=rf"head_start={head_start} .*feature_dim={DIM}"):
        make(head_start)


def test_strong_views_for_large_images_and_mild_sharp_ones_for_small() -> None:
    # Appendix A and B.9 of the paper.
    large, small = make().views(224), make().views(32)
    for views in (large, small):
        assert len(views) == 2 and views[0] == views[1]
    assert (large[0].brightness, large[0].hue, large[0].blur) == (0.8, 0.2, 0.5)
    assert (small[0].brightness, small[0].hue, small[0].blur) == (0.4, 0.1, 0.0)
    assert large[0].jitter == 0.8 and large[0].grayscale == 0.2


def in_domains(z: Tensor, domains: list[int], temperature: float, other_domains: float) -> float:
    """The loss of `nt_xent` as its docstring has it, view by view."""
    n = len(domains)
    unit = z / z.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(2 * n):
        positive = (i + n) % (2 * n)
        top = math.exp(float(unit[i] @ unit[positive]) / temperature)
        below = top
        for k in range(2 * n):
            if k in (i, positive):
                continue
            a, b = domains[i % n], domains[k % n]
            weight = other_domains if a >= 0 and b >= 0 and a != b else 1.0
            below += weight * math.exp(float(unit[i] @ unit[k]) / temperature)
        total -= math.log(top / below)
    return total / (2 * n)


@pytest.mark.parametrize("other_domains", [0.0, 0.3])
@pytest.mark.parametrize("domains", [[0, 1, 0, 1, 1], [0, -1, 1, 1, -1], [0, 1, 2, 3, 4]])
def test_negatives_of_other_domains_have_their_weight(
    domains: list[int], other_domains: float
) -> None:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(2, N, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    loss = nt_xent(z, 0.3, torch.tensor(domains), other_domains)
    expected = in_domains(z.detach().flatten(0, 1), domains, 0.3, other_domains)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    loss.backward()
    assert z.grad is not None and z.grad.isfinite().all()


def test_with_full_weight_or_one_domain_it_is_simclr() -> None:
    method, views = make(temperature=0.3), two_views()
    with torch.no_grad():
        z = torch.stack(method.head(method.encoder(torch.cat(views))).chunk(2))
        plain = method(views).loss.item()
        spread = torch.arange(N)
        assert nt_xent(z, 0.3, spread, 1.0).item() == pytest.approx(plain, rel=1e-9)
        for same in (torch.zeros(N, dtype=torch.long), torch.full((N,), -1)):
            assert nt_xent(z, 0.3, same, 0.0).item() == pytest.approx(plain, rel=1e-9)


def test_domains_are_asked_for_only_where_they_count() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, DIM))
    asking = SimCLR(encoder, DIM, 0, SimCLRSettings(other_domains=0.0, hidden_dim=16)).double()
    assert asking.needs_domains and not make().needs_domains
    with pytest.raises(ValueError, match=r"SimCLR .*needs the domain of each image"):
        asking(two_views())
    domains = torch.tensor([0, 0, 1, 1, 1])
    assert asking(two_views(), domains).loss != asking(two_views(), domains.flip(0)).loss
    plain = make()
    assert plain(two_views(), domains).loss == plain(two_views()).loss


def test_methods_by_name() -> None:
    assert {name: find_method(name) for name in METHODS} == METHODS
    with pytest.raises(DdmError, match="method 'SimCRL' is unknown; did you mean simclr"):
        find_method("SimCRL")
    with pytest.raises(DdmError, match="choose one of simclr, moco, byol"):
        find_method("???")
