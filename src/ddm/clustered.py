"""Errors of figures of several domains, from runs that left several sets of domains out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Mean(NamedTuple):
    """A mean, its standard error, and the degrees of freedom of that; NaN and 0 for none."""

    value: float
    error: float
    freedom: int


def less(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """How much more the first is, of each domain that both have."""
    return {domain: one[domain] - other[domain] for domain in one if domain in other}


def clustered_mean(runs: Sequence[tuple[Any, Mapping[str, float]]]) -> Mean:
    """Mean over sets of left-out domains, with an error that is over sets and over domains.

    Runs that leave the same domains out share what they are trained on, and figures of one domain
    share its images, whatever was left out: of five domains left out in turn every two sets of seen
    ones have three in common. So errors are clustered by both (Cameron, Gelbach & Miller, 2011,
    equation 2.9), never smaller than by either alone. Where each set has a domain of its own, as
    for the unseen one of those, it is the ordinary standard error.

    Args:
        runs: of each, what was left out (anything that can be hashed) and the figure of each domain
            that it was read on. Those of the same set have the same domains.

    Returns:
        The mean over sets of the mean over domains, runs of a set averaged first. Without an error
        where there is one set alone. Degrees of freedom are one less than the fewer of sets and
        domains (of sets, where there is one domain alone).
    """
    sums: dict[tuple[Any, str], list[float]] = {}
    for left_out, figures in runs:
        for domain, figure in figures.items():
            sums.setdefault((left_out, domain), []).append(figure)
    if not sums:
        return Mean(float("nan"), float("nan"), 0)
    cells = np.array([np.mean(values) for values in sums.values()])
    sets, domains = (np.array(_numbers([key[i] for key in sums])) for i in (0, 1))
    weights = 1 / (len(np.unique(sets)) * np.bincount(sets)[sets])
    mean = float(weights @ cells)
    shares = weights * (cells - mean)
    by_set = _variance(shares, sets)
    if by_set is None:
        return Mean(mean, float("nan"), 0)
    by_domain, by_both = _variance(shares, domains), _variance(shares, np.arange(len(shares)))
    freedom = len(np.unique(sets)) - 1
    if by_domain is None or by_both is None:
        return Mean(mean, by_set**0.5, freedom)
    variance = max(by_set + by_domain - by_both, by_set, by_domain)
    return Mean(mean, variance**0.5, min(freedom, len(np.unique(domains)) - 1))


def _numbers(keys: Sequence[Any]) -> list[int]:
    seen: dict[Any, int] = {}
    return [seen.setdefault(key, len(seen)) for key in keys]


def _variance(shares: NDArray[np.float64], clusters: NDArray[np.int64]) -> float | None:
    """Of the sum of shares that hang together within clusters; None for one cluster."""
    sums = np.bincount(clusters, shares)
    n = len(sums)
    return None if n < 2 else float((sums**2).sum() * n / (n - 1))
