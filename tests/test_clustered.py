"""Clustered errors against ordinary ones, and how often their intervals hold the truth."""

import numpy as np
import pytest
from scipy.stats import t

from ddm.clustered import clustered_mean


def test_a_domain_for_each_set_gives_the_ordinary_error() -> None:
    values = np.random.default_rng(0).normal(size=(5, 3))
    runs = [(f"out-{i}", {f"out-{i}": v}) for i in range(5) for v in values[i]]
    mean, error, freedom = clustered_mean(runs)
    each = values.mean(1)
    assert mean == pytest.approx(each.mean())
    assert error == pytest.approx(each.std(ddof=1) / 5**0.5)
    assert freedom == 4


def test_both_kinds_of_clusters_by_loops() -> None:
    """Sets that leave two of four domains out, read on those; some were run twice."""
    rng = np.random.default_rng(1)
    sets = ["ab", "ab", "bc", "cd", "da", "da"]
    runs = [(s, {d: rng.normal() for d in s}) for s in sets]
    cell = {
        (s, d): np.mean([f[d] for other, f in runs if other == s]) for s in set(sets) for d in s
    }
    expected = np.mean([np.mean([cell[s, d] for d in s]) for s in set(sets)])
    share = {key: (value - expected) / 8 for key, value in cell.items()}
    variances = []
    for of in (lambda k: k[0], lambda k: k[1], lambda k: k):
        names = {of(key) for key in share}
        sums = [sum(v for key, v in share.items() if of(key) == name) for name in names]
        variances.append(sum(s * s for s in sums) * len(names) / (len(names) - 1))
    by_set, by_domain, by_both = variances
    mean, error, freedom = clustered_mean(runs)
    assert mean == pytest.approx(expected)
    assert error**2 == pytest.approx(max(by_set + by_domain - by_both, by_set, by_domain))
    assert freedom == 3


def test_where_there_is_no_error() -> None:
    assert np.isnan(clustered_mean([]).value)
    mean, error, freedom = clustered_mean(
        [("a", {"b": 1.0, "c": 3.0}), ("a", {"b": 3.0, "c": 5.0})]
    )
    assert (mean, freedom) == (3.0, 0) and np.isnan(error)
    # One domain, read in runs of several sets.
    values = np.array([1.0, 2.0, 6.0])
    mean, error, freedom = clustered_mean([(i, {"a": v}) for i, v in enumerate(values)])
    assert error == pytest.approx(values.std(ddof=1) / 3**0.5) and freedom == 2


def test_intervals_over_seen_domains_hold_the_truth() -> None:
    """Five domains that gain differently, each left out in turn: what the seen ones gain. Errors
    over sets alone hold it in half of all cases."""
    rng = np.random.default_rng(0)
    held, over_sets, trials = 0, 0, 400
    names = "abcde"
    for _ in range(trials):
        own = rng.normal(0, 2, 5)
        runs = [
            (out, {d: own[i] + rng.normal(0, 0.5) for i, d in enumerate(names) if d != out})
            for out in names
        ]
        mean, error, freedom = clustered_mean(runs)
        held += abs(mean) <= t.ppf(0.975, freedom) * error
        each = np.array([np.mean(list(figures.values())) for _, figures in runs])
        over_sets += abs(mean) <= t.ppf(0.975, 4) * each.std(ddof=1) / 5**0.5
    assert 0.92 <= held / trials <= 0.99
    assert over_sets / trials < 0.6
