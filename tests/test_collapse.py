"""The signs of collapse, on features whose rank and spread are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ddm.collapse import collapse_warning, effective_rank, relative_deviation


def with_singular_values(*values: float, n: int = 50, dim: int = 8) -> Tensor:
    """Centred features with these singular values."""
    generator = torch.Generator().manual_seed(0)
    # Columns orthogonal to the ones vector stay centred.
    left = torch.randn(n, len(values), generator=generator, dtype=torch.float64)
    left, _ = torch.linalg.qr(torch.cat([torch.ones(n, 1, dtype=torch.float64), left], 1))
    right, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    return (
        left[:, 1:] @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right[: len(values)]
    )


def sphere(n: int, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=1)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_counts_equal_directions(rank: int) -> None:
    assert effective_rank(with_singular_values(*[2.0] * rank)) == pytest.approx(rank, rel=1e-6)


def test_effective_rank_is_the_exponential_of_the_entropy() -> None:
    shares = [0.6, 0.3, 0.1]
    expected = math.exp(-sum(p * math.log(p) for p in shares))
    assert effective_rank(with_singular_values(6.0, 3.0, 1.0)) == pytest.approx(expected, rel=1e-6)


def test_effective_rank_ignores_scale_and_common_mean() -> None:
    features = with_singular_values(6.0, 3.0, 1.0)
    rank = effective_rank(features)
    assert effective_rank(1e-3 * features) == pytest.approx(rank, rel=1e-6)
    assert effective_rank(features + 1e4) == pytest.approx(rank, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_effective_rank_of_identical_features(dtype: torch.dtype) -> None:
    assert effective_rank(torch.full((20, 8), 0.1, dtype=dtype)) == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.zeros(20, 8, dtype=dtype)) == pytest.approx(1, abs=1e-6)


def test_deviation() -> None:
    assert relative_deviation(sphere(20_000, 16)) == pytest.approx(1, abs=0.01)
    assert relative_deviation(torch.ones(20, 8)) == pytest.approx(0, abs=1e-9)
    assert relative_deviation(torch.zeros(20, 8)) == 0
    # Only the direction counts: lengths alone are no spread.
    lengths = torch.linspace(1, 9, 20)[:, None]
    assert relative_deviation(lengths * torch.ones(20, 8)) == pytest.approx(0, abs=1e-6)
    assert relative_deviation(7 * sphere(500, 16)) == pytest.approx(
        relative_deviation(sphere(500, 16)), rel=1e-6
    )


def test_deviation_of_two_points() -> None:
    # Half on one axis, half on another: per used dimension a standard deviation of one half.
    features = torch.zeros(1000, 4)
    features[:500, 0] = features[500:, 1] = 3.0
    expected = (0.5 + 0.5 + 0 + 0) / 4 * 4**0.5
    assert relative_deviation(features) == pytest.approx(expected, rel=1e-3)


def warning_for(features: Tensor) -> str | None:
    return collapse_warning(effective_rank(features), relative_deviation(features), features)


def test_warnings() -> None:
    healthy = sphere(256, 64)
    assert warning_for(healthy) is None
    everywhere_the_same = torch.ones(256, 64) + 1e-3 * healthy
    assert "nearly the same features" in warning_for(everywhere_the_same)
    line = torch.randn(256, 1, generator=torch.Generator().manual_seed(0)) * healthy[:1]
    assert "span 1.0 of 64 directions" in warning_for(line)
    # A small batch of a wide encoder is measured by what it could span at most.
    assert warning_for(sphere(16, 2048)) is None
    # Two images lie on a line, however well the encoder does, and three in a plane.
    for few in (2, 3, 4):
        assert warning_for(sphere(few, 192)) is None
