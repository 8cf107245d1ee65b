"""Every term against a slow formula in float64: loops over domains, pairs and samples.

A reference takes the parameters and the features twice, the second time (``*_at``) as constants:
what the term keeps out of the gradient (targets, bandwidths, the half of a game that belongs to the
other player) reads those. Its finite differences are the very gradient that the term must have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ddm.objectives import (
    INVARIANCE,
    VARIANT,
    AdversarialInvariance,
    ConfusionInvariance,
    CORALInvariance,
    CrossCorrelationIndependence,
    CrossEntropyVariant,
    DomainBatch,
    HSICIndependence,
    InstanceInvariance,
    MMDInvariance,
    NeighbourInvariance,
    PrototypeInvariance,
    PrototypeVariant,
    build,
    reverse_gradient,
    settings_of,
    standardize,
)

EPS = 1e-5
DIM, DOMAINS, VARIANT_DIM = 6, 4, 2

Params = dict[str, np.ndarray]


# --- the formulas --------------------------------------------------------------------------------


def rows_of(d: list[int]) -> dict[int, list[int]]:
    return {k: [r for r, k_ in enumerate(d) if k_ == k] for k in sorted(set(d) - {-1})}


def balanced_mean(value: Callable[[int, int], float], d: list[int]) -> float:
    """Mean over present domains of the mean over their rows of ``value(row, domain)``."""
    means = []
    for k, rows in rows_of(d).items():
        means.append(sum(value(r, k) for r in rows) / len(rows))
    return sum(means) / len(means)


def slow_standardize(x: np.ndarray, d: list[int]) -> np.ndarray:
    result = np.empty_like(x)
    for j in range(x.shape[1]):
        mean = balanced_mean(lambda r, k, j=j: x[r, j], d)
        variance = balanced_mean(lambda r, k, j=j, mean=mean: (x[r, j] - mean) ** 2, d)
        result[:, j] = (x[:, j] - mean) / math.sqrt(variance + EPS)
    return result


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - z.max() - math.log(sum(math.exp(v - z.max()) for v in z))


def unit(v: np.ndarray) -> np.ndarray:
    return v / max(math.sqrt(sum(a * a for a in v)), 1e-2)


def slow_cross_entropy(logits: list[np.ndarray], d: list[int]) -> float:
    return balanced_mean(lambda r, k: -log_softmax(logits[r])[k], d)


def perceptron(p: Params, row: np.ndarray) -> np.ndarray:
    hidden = p["discriminator.0.weight"] @ row + p["discriminator.0.bias"]
    hidden = np.array([max(0.0, h) for h in hidden])
    return p["discriminator.2.weight"] @ hidden + p["discriminator.2.bias"]


def cross_entropy(p: Params, x, p_at: Params, x_at, d: list[int], views: int) -> float:
    h = slow_standardize(x, d)
    return slow_cross_entropy([p["classifier.weight"] @ r + p["classifier.bias"] for r in h], d)


def prototype_variant(p: Params, x, p_at: Params, x_at, d: list[int], views: int) -> float:
    h = slow_standardize(x, d)
    logits = [np.array([unit(r) @ c / 0.1 for c in p["prototypes"]]) for r in h]
    return slow_cross_entropy(logits, d)


def adversarial(p: Params, x, p_at: Params, x_at, d: list[int], views: int) -> float:
    def ce(p: Params, x: np.ndarray) -> float:
        return slow_cross_entropy([perceptron(p, r) for r in slow_standardize(x, d)], d)

    # The cross-entropy itself at x = x_at, descending in the parameters, ascending in the features.
    return ce(p, x_at) + ce(p_at, x_at) - ce(p_at, x)


def confusion(p: Params, x, p_at: Params, x_at, d: list[int], views: int) -> float:
    found = slow_cross_entropy([perceptron(p, r) for r in slow_standardize(x_at, d)], d)
    h, seen = slow_standardize(x, d), rows_of(d)

    def to_uniform(r: int, k: int) -> float:
        answer = log_softmax(perceptron(p_at, h[r]))
        return -sum(answer[s] / len(seen) for s in seen)

    return found + balanced_mean(to_uniform, d)


def coral(p: Params, x, p_at: Params, x_at, d: list[int], views: int) -> float:
    h = slow_standardize(x, d)
    moments = []
    for rows in rows_of(d).values():
        if len(rows) < views + 1:  # Of a single sample the views.
            continue
        mean = sum(h[r] for r in rows) / len(rows)
        covariance = sum(np.outer(h[r] - mean, h[r] - mean) for r in rows) / (len(rows) - 1)
        moments.append((mean, covariance))
    values = []
    for a in range(len(moments)):
        for b in range(a + 1, len(moments)):
            (mean_a, cov_a), (mean_b, cov_b) = moments[a], moments[b]
            values.append(np.mean((mean_a - mean_b) ** 2) + np.mean((cov_a - cov_b) ** 2))
    return sum(values) / len(values) if values else 0.0


def mean_squared_distance(h: np.ndarray, d: list[int]) -> float:
    return EPS + balanced_mean(
        lambda i, _: balanced_mean(lambda j, _: sum((h[i] - h[j]) ** 2), d), d
    )


def mmd(p: Params, x, p_at: Params, x_at, d: list[int], views: int) -> float:
    h = slow_standardize(x, d)
    width = mean_squared_distance(slow_standardize(x_at, d), d)

    def kernel(i: int, j: int) -> float:
        distance = sum((h[i] - h[j]) ** 2)
        return sum(math.exp(-distance / (s * width)) for s in (0.25, 0.5, 1, 2, 4)) / 5

    def mean_kernel(rows: list[int], others: list[int]) -> float:
        return sum(kernel(i, j) for i in rows for j in others) / len(rows) / len(others)

    groups = list(rows_of(d).values())
    values = []
    for a in range(len(groups)):
        for b in range(a + 1, len(groups)):
            one, two = groups[a], groups[b]
            own = mean_kernel(one, one) + mean_kernel(two, two)
            values.append(own - 2 * mean_kernel(one, two))
    return sum(values) / len(values)


def sinkhorn(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """SwAV's algorithm on the rows of one domain and one view."""
    q = np.exp(scores / epsilon)
    for _ in range(iterations):
        for c in range(q.shape[1]):
            q[:, c] /= q[:, c].sum()
        for r in range(q.shape[0]):
            q[r] /= q[r].sum()
    return q


def prototype_invariance(p: Params, x, p_at: Params, x_at, d: list[int], views: int) -> float:
    def scores(p: Params, x: np.ndarray) -> np.ndarray:
        prototypes = [unit(c) for c in p["prototypes"]]
        return np.array([[unit(r) @ c for c in prototypes] for r in slow_standardize(x, d)])

    n = len(d) // views
    fixed, targets = scores(p_at, x_at), np.zeros((len(d), len(p["prototypes"])))
    for v in range(views):
        for rows in rows_of(d[:n]).values():
            here = [v * n + r for r in rows]
            targets[here] = sinkhorn(fixed[here], 0.05, 3)
    predicted = scores(p, x)

    def swapped(r: int, k: int) -> float:
        sample, view = r % n, r // n
        others = [u for u in range(views) if u != view] or [view]
        answer = log_softmax(predicted[r] / 0.1)
        return -sum(targets[u * n + sample] @ answer for u in others) / len(others)

    return balanced_mean(swapped, d)


def directions_within(x: np.ndarray, d: list[int]) -> np.ndarray:
    h, result = slow_standardize(x, d), np.zeros_like(x)
    for members in rows_of(d).values():
        for j in range(x.shape[1]):
            mean = sum(h[r, j] for r in members) / len(members)
            variance = sum((h[r, j] - mean) ** 2 for r in members) / len(members)
            for r in members:
                result[r, j] = (h[r, j] - mean) / math.sqrt(variance + EPS)
    return np.array([unit(row) for row in result])


def instance_invariance(p: Params, x, p_at: Params, x_at, d: list[int], views: int) -> float:
    n, z = len(d) // views, directions_within(x, d)

    def told_apart(r: int, k: int) -> float:
        own = [i for i in range(len(d)) if d[i] == k and i != r]
        answer = log_softmax(np.array([z[r] @ z[i] / 0.2 for i in own]))
        positive = [own.index(i) for i in own if i % n == r % n]
        return -sum(answer[i] for i in positive) / (views - 1)

    # Each sample weighs the same, not each domain.
    known = [r for r in range(len(d)) if d[r] != -1]
    several = len({d[r] for r in known}) > 1
    return sum(told_apart(r, d[r]) for r in known) / len(known) if several else 0.0


def neighbour_invariance(p: Params, x, p_at: Params, x_at, d: list[int], views: int) -> float:
    n, entries, theirs = len(d) // views, p["entries"], p["entry_domains"]
    now, then = directions_within(x, d), directions_within(x_at, d)

    def attraction(r: int, k: int) -> float:
        if d[:n].count(k) < 2:
            return 0.0
        sample = unit(sum(then[v * n + r % n] for v in range(views)) / views)
        others = [e for e in range(len(entries)) if theirs[e] not in (k, -1)]
        near = max(others, key=lambda e: sample @ entries[e])
        own = [e for e in range(len(entries)) if theirs[e] == k]
        if sum(entries[near] @ entries[e] > sample @ entries[near] for e in own) >= 3:
            return 0.0
        same = [e for e in range(len(entries)) if theirs[e] == theirs[near]]
        answer = log_softmax(np.array([now[r] @ entries[e] / 0.1 for e in same]))
        return -answer[same.index(near)]

    return balanced_mean(attraction, d)


def cross_correlation(p: Params, x, p_at: Params, x_at, d: list[int], views: int) -> float:
    h = slow_standardize(x, d)
    squares = []
    for a in range(VARIANT_DIM):
        for b in range(VARIANT_DIM, DIM):
            squares.append(balanced_mean(lambda r, k, a=a, b=b: h[r, a] * h[r, b], d) ** 2)
    return sum(squares) / len(squares)


def hsic(p: Params, x, p_at: Params, x_at, d: list[int], views: int) -> float:
    def centred(h: np.ndarray, h_at: np.ndarray) -> Callable[[int, int], float]:
        width = mean_squared_distance(h_at, d)

        def k(i: int, j: int) -> float:
            return math.exp(-sum((h[i] - h[j]) ** 2) / width)

        of_row = [balanced_mean(lambda j, _, i=i: k(i, j), d) for i in range(len(d))]
        everywhere = balanced_mean(lambda i, _: of_row[i], d)
        return lambda i, j: k(i, j) - of_row[i] - of_row[j] + everywhere

    h, h_at = slow_standardize(x, d), slow_standardize(x_at, d)
    k = centred(h[:, :VARIANT_DIM], h_at[:, :VARIANT_DIM])
    l = centred(h[:, VARIANT_DIM:], h_at[:, VARIANT_DIM:])

    def product(one: Callable[[int, int], float], two: Callable[[int, int], float]) -> float:
        return balanced_mean(lambda i, _: balanced_mean(lambda j, _: one(i, j) * two(i, j), d), d)

    return product(k, l) / math.sqrt(product(k, k) * product(l, l) + 1e-12)


# --- the terms and the batches -------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    make: Callable[[], nn.Module]
    formula: Callable[..., float]
    views: int = 1
    learnt_per_domain: bool = False


def fixed_prototypes() -> PrototypeVariant:
    # In eval mode: training moves the prototypes, which has tests of its own below.
    term = PrototypeVariant(DIM, DOMAINS)
    term.prototypes.copy_(nn.functional.normalize(torch.randn(DOMAINS, DIM), dim=1))
    term.seen.fill_(True)
    return term.eval()


def swapping() -> PrototypeInvariance:
    return PrototypeInvariance(DIM, DOMAINS, num_prototypes=5)


def full_memory() -> NeighbourInvariance:
    # In eval mode: training enters the rows, which has tests of its own below.
    term = NeighbourInvariance(DIM, memory=24)
    term.entries.copy_(nn.functional.normalize(torch.randn(24, DIM), dim=1))
    term.entry_domains.copy_(torch.arange(24) % (DOMAINS + 1) - 1)
    term.position.fill_(24)
    return term.eval()


TERMS = {
    "cross_entropy": Term(
        lambda: CrossEntropyVariant(DIM, DOMAINS), cross_entropy, learnt_per_domain=True
    ),
    "prototype_variant": Term(fixed_prototypes, prototype_variant, learnt_per_domain=True),
    "adversarial": Term(
        lambda: AdversarialInvariance(DIM, DOMAINS, 7), adversarial, learnt_per_domain=True
    ),
    "confusion": Term(
        lambda: ConfusionInvariance(DIM, DOMAINS, 7), confusion, learnt_per_domain=True
    ),
    "coral": Term(CORALInvariance, coral),
    "mmd": Term(MMDInvariance, mmd),
    "prototypes_1_view": Term(swapping, prototype_invariance, 1),
    "prototypes_2_views": Term(swapping, prototype_invariance, 2),
    "prototypes_3_views": Term(swapping, prototype_invariance, 3),
    "instances_2_views": Term(InstanceInvariance, instance_invariance, 2),
    "instances_3_views": Term(InstanceInvariance, instance_invariance, 3),
    "neighbours_1_view": Term(full_memory, neighbour_invariance, 1, learnt_per_domain=True),
    "neighbours_2_views": Term(full_memory, neighbour_invariance, 2, learnt_per_domain=True),
    "cross_correlation": Term(CrossCorrelationIndependence, cross_correlation),
    "hsic": Term(HSICIndependence, hsic),
}

BATCHES = {
    "equal": [0, 1, 2, 3, 3, 2, 1, 0],
    "unequal": [2, 0, 0, 1, 3, 0, 2, 0, 1, 2, 0, 3],
    "unknown": [-1, 0, 1, 1, -1, 0, 2, 2, 3, -1, 0, 3],
    "one_with_a_single_sample": [0, 0, 3, 1, 1, 0, 1],
    "missing": [3, 1, 1, 3, 1, 3, 1],
    "two_samples": [2, 0],
}
SILENT = {
    "one_domain": [1, 1, 1, 1],
    "all_unknown": [-1, -1, -1],
    "one_sample": [2],
    "one_known": [-1, 2],
}

every_term = pytest.mark.parametrize("name", TERMS)


def made(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(3)
    return TERMS[name].make().to(dtype)


def random_features(rows: int, seed: int = 0) -> np.ndarray:
    """Of uneven scale and skewed, so that no moment happens to vanish."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, DIM)) + 0.3 * rng.exponential(size=(rows, DIM))
    return x * np.linspace(0.5, 2, DIM) + rng.normal(size=DIM)


def apply(term: nn.Module, x: torch.Tensor, d: list[int], views: int = 1) -> torch.Tensor:
    """The term of features (views x N, DIM); ``d`` are the domains of one view."""
    batch = DomainBatch.from_index(torch.tensor(d), DOMAINS, views, x.dtype)
    x = standardize(x, batch)
    if isinstance(term, CrossCorrelationIndependence | HSICIndependence):
        return term(x[:, :VARIANT_DIM], x[:, VARIANT_DIM:], batch)
    return term(x, batch)


def arrays(term: nn.Module) -> Params:
    return {k: v.detach().numpy().copy() for k, v in term.state_dict().items()}


def value_and_gradients(
    name: str, x: np.ndarray, d: list[int], dtype: torch.dtype = torch.float64
) -> tuple[float, np.ndarray, dict[str, np.ndarray]]:
    term, views = made(name, dtype), TERMS[name].views
    features = torch.tensor(x, dtype=dtype, requires_grad=True)
    loss = apply(term, features, d, views)
    assert loss.shape == () and loss.dtype == dtype
    loss.backward()
    gradients = {k: p.grad.numpy() for k, p in term.named_parameters()}
    return loss.item(), features.grad.numpy(), gradients


def slopes(f: Callable[[float], float], step: float = 1e-5) -> float:
    return (f(step) - f(-step)) / (2 * step)


def directions(*shapes: tuple[int, ...]) -> Iterator[list[np.ndarray]]:
    """Two random directions: a wrong gradient agrees with neither, save by a miracle."""
    rng = np.random.default_rng(5)
    for _ in range(2):
        yield [rng.normal(size=shape) for shape in shapes]


# --- value and gradient --------------------------------------------------------------------------


@pytest.mark.parametrize("domains", BATCHES)
@every_term
def test_value_and_gradient_are_the_formulas(name: str, domains: str) -> None:
    check(name, random_features(len(BATCHES[domains]) * TERMS[name].views), BATCHES[domains])


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@every_term
def test_scale_of_features(name: str, scale: float) -> None:
    d = BATCHES["unknown"]
    check(name, random_features(len(d) * TERMS[name].views), d, scale)


def check(name: str, z: np.ndarray, d: list[int], scale: float = 1.0) -> None:
    views, formula = TERMS[name].views, TERMS[name].formula
    # Differentiated by z, so that steps and tolerances need not know the scale.
    loss, gradient, of_parameters = value_and_gradients(name, scale * z, d)
    p = arrays(made(name))
    names = list(of_parameters)

    def at(dz: np.ndarray | float, dp: Params) -> float:
        moved = {k: v + dp.get(k, 0) for k, v in p.items()}
        return formula(moved, scale * (z + dz), p, scale * z, d * views, views)

    expected = at(0.0, {})
    assert loss == pytest.approx(expected, rel=1e-8, abs=1e-13)
    for dz, *dp in directions(z.shape, *(of_parameters[k].shape for k in names)):
        slope = slopes(lambda t, dz=dz: at(t * dz, {}))
        found = scale * (gradient * dz).sum()
        assert found == pytest.approx(slope, rel=1e-5, abs=1e-8 * abs(expected) + 1e-15)
        if names:
            moves = dict(zip(names, dp, strict=True))
            slope = slopes(lambda t, m=moves: at(0.0, {k: t * v for k, v in m.items()}))
            found = sum((of_parameters[k] * moves[k]).sum() for k in names)
            assert found == pytest.approx(slope, rel=1e-5, abs=1e-8 * abs(expected))


@pytest.mark.parametrize(
    "name", ["cross_entropy", "prototype_variant", "coral", "cross_correlation"]
)
def test_gradcheck_where_nothing_is_detached(name: str) -> None:
    # Element by element, which the two directions above are not.
    term, d = made(name), BATCHES["unknown"][:8]
    x = torch.tensor(random_features(len(d)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: apply(term, x, d), (x,))
    parameters = dict(term.named_parameters())
    if parameters:

        def of(*values: torch.Tensor) -> torch.Tensor:
            state = dict(zip(parameters, values, strict=True))
            batch = DomainBatch.from_index(torch.tensor(d), DOMAINS, 1, x.dtype)
            return torch.func.functional_call(term, state, (standardize(x.detach(), batch), batch))

        assert torch.autograd.gradcheck(of, tuple(parameters.values()))


@pytest.mark.parametrize("domains", ["equal", "unequal", "unknown"])
def test_standardize(domains: str) -> None:
    d = BATCHES[domains]
    x = random_features(len(d))
    batch = DomainBatch.from_index(torch.tensor(d), DOMAINS, dtype=torch.float64)
    features = torch.tensor(x, requires_grad=True)
    h = standardize(features, batch)
    np.testing.assert_allclose(h.detach(), slow_standardize(x, d), rtol=1e-10)
    assert torch.autograd.gradcheck(lambda x: standardize(x, batch), (features,))
    # Each domain weighs the same in the mean and the variance, whatever its size.
    moments = [
        balanced_mean(lambda r, k, j=j, n=n: h[r, j].item() ** n, d)
        for j in range(DIM)
        for n in (1, 2)
    ]
    np.testing.assert_allclose(moments, [0, 1] * DIM, atol=1e-4)


@pytest.mark.parametrize("name", ["adversarial", "confusion"])
def test_who_gets_which_gradient(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    d = BATCHES["unknown"]
    x = random_features(len(d))
    _, of_features, of_parameters = value_and_gradients(name, x, d)
    # The same cross-entropy without any trick, from the term's own discriminator.
    term = made(name)
    features = torch.tensor(x, requires_grad=True)
    batch = DomainBatch.from_index(torch.tensor(d), DOMAINS, dtype=torch.float64)
    log_p = term.discriminator(standardize(features, batch)).log_softmax(1)
    rows = rows_of(d)
    plain = -sum(log_p[r, k] / len(rows[k]) / len(rows) for k in rows for r in rows[k])
    plain.backward(retain_graph=True)
    for k, p in term.named_parameters():
        np.testing.assert_allclose(of_parameters[k], p.grad, rtol=1e-9, atol=1e-14)
    if name == "adversarial":
        np.testing.assert_allclose(of_features, -features.grad, rtol=1e-9, atol=1e-14)
        return
    features.grad = None
    (-sum(log_p[r].mean() / len(rows[k]) / len(rows) for k in rows for r in rows[k])).backward()
    np.testing.assert_allclose(of_features, features.grad, rtol=1e-9, atol=1e-14)


def test_reverse_gradient() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    y = reverse_gradient(x)
    assert torch.equal(y, x)
    (y * torch.arange(6.0).view(3, 2)).sum().backward()
    assert torch.equal(x.grad, -torch.arange(6.0).view(3, 2))


# --- batches with little or nothing to say -------------------------------------------------------


@every_term
def test_unknown_samples_take_no_part(name: str) -> None:
    d, views = BATCHES["unknown"], TERMS[name].views
    x = random_features(len(d) * views)
    loss, gradient, of_parameters = value_and_gradients(name, x, d)
    known = np.array([k >= 0 for k in d])
    rows = np.tile(known, views)
    alone = value_and_gradients(name, x[rows], [k for k in d if k >= 0])
    assert loss == pytest.approx(alone[0], rel=1e-12)
    np.testing.assert_allclose(gradient[rows], alone[1], rtol=1e-9, atol=1e-14)
    assert (gradient[~rows] == 0).all()
    for k, g in of_parameters.items():
        np.testing.assert_allclose(g, alone[2][k], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e9])
@pytest.mark.parametrize("domains", SILENT)
@every_term
def test_fewer_than_two_domains_give_exactly_zero(
    name: str, domains: str, scale: float, dtype: torch.dtype
) -> None:
    d = SILENT[domains]
    x = scale * random_features(len(d) * TERMS[name].views)
    loss, gradient, of_parameters = value_and_gradients(name, x, d, dtype)
    assert loss == 0
    assert (gradient == 0).all()
    assert all((g == 0).all() for g in of_parameters.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, 1.0, 1e6])
@every_term
def test_identical_features(name: str, level: float, dtype: torch.dtype) -> None:
    # A collapsed encoder: nothing to divide by.
    d = BATCHES["unequal"]
    x = np.full((len(d) * TERMS[name].views, DIM), level)
    loss, gradient, of_parameters = value_and_gradients(name, x, d, dtype)
    p, views = arrays(made(name)), TERMS[name].views
    if level <= 1:
        expected = TERMS[name].formula(p, x, p, x, d * views, views)
        # In float32 the mean of identical numbers is not quite that number; EPS lifts the rest.
        assert loss == pytest.approx(expected, abs=1e-9 if dtype == torch.float64 else 1e-2)
    assert np.isfinite(loss)
    # Finite, and not so large either that one step would throw the encoder to infinity.
    assert abs(gradient).max() < 1e5
    assert all(abs(g).max() < 1e5 for g in of_parameters.values())


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@every_term
def test_float32_is_close_to_float64(name: str, scale: float) -> None:
    d = BATCHES["unequal"]
    x = scale * random_features(len(d) * TERMS[name].views)
    loss, gradient, _ = value_and_gradients(name, x, d)
    loss32, gradient32, _ = value_and_gradients(name, x, d, torch.float32)
    # Terms are differences of numbers of order one; float32 resolves 1e-7 of those.
    assert loss32 == pytest.approx(loss, rel=2e-4, abs=1e-5)
    if scale >= 1:
        np.testing.assert_allclose(gradient32, gradient, rtol=1e-3, atol=1e-3 * abs(gradient).max())
    else:
        assert np.isfinite(gradient32).all()


def test_coral_leaves_out_domains_with_a_single_sample() -> None:
    # Two domains, but only one covariance: no pair is left.
    d = [0, 0, 1, 0]
    loss, gradient, _ = value_and_gradients("coral", random_features(4), d)
    assert loss == 0 and (gradient == 0).all()


def test_views_of_a_single_sample_are_no_covariance() -> None:
    batch = DomainBatch.from_index(torch.tensor([0, 0, 0, 1]), 2, num_views=2)
    assert CORALInvariance()(torch.randn(8, DIM, generator=torch.manual_seed(0)), batch) == 0


# --- invariances ---------------------------------------------------------------------------------

few = settings(max_examples=8, deadline=None, derandomize=True)
some_domains = st.lists(st.integers(-1, DOMAINS - 1), min_size=2, max_size=14)
seeds = st.integers(0, 2**16)


@every_term
@given(d=some_domains, seed=seeds)
@few
def test_order_of_samples(name: str, d: list[int], seed: int) -> None:
    views, n = TERMS[name].views, len(d)
    x = random_features(n * views, seed)
    order = np.random.default_rng(seed).permutation(n)
    everywhere = np.concatenate([v * n + order for v in range(views)])
    loss, gradient, of_parameters = value_and_gradients(name, x, d)
    again = value_and_gradients(name, x[everywhere], [d[i] for i in order])
    assert again[0] == pytest.approx(loss, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(again[1], gradient[everywhere], rtol=1e-6, atol=1e-10)
    for k, g in of_parameters.items():
        np.testing.assert_allclose(again[2][k], g, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("name", [k for k, t in TERMS.items() if not t.learnt_per_domain])
@given(d=some_domains, new=st.permutations(range(DOMAINS)), seed=seeds)
@few
def test_names_of_domains(name: str, d: list[int], new: list[int], seed: int) -> None:
    x = random_features(len(d) * TERMS[name].views, seed)
    loss, gradient, _ = value_and_gradients(name, x, d)
    again = value_and_gradients(name, x, [new[k] if k >= 0 else -1 for k in d])
    assert again[0] == pytest.approx(loss, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(again[1], gradient, rtol=1e-6, atol=1e-10)


@every_term
@given(
    d=some_domains,
    scale=st.lists(st.floats(0.1, 10), min_size=DIM, max_size=DIM),
    shift=st.lists(st.floats(-10, 10), min_size=DIM, max_size=DIM),
    seed=seeds,
)
@few
def test_scale_and_shift_of_each_dimension(
    name: str, d: list[int], scale: list[float], shift: list[float], seed: int
) -> None:
    # Far above EPS, where the standardisation is exact.
    x = 1e4 * random_features(len(d) * TERMS[name].views, seed)
    loss, _, _ = value_and_gradients(name, x, d)
    again, _, _ = value_and_gradients(name, x * scale + 1e4 * np.array(shift), d)
    assert again == pytest.approx(loss, rel=1e-5, abs=1e-6)


# --- prototypes ----------------------------------------------------------------------------------


def test_momentum_prototypes_after_two_updates() -> None:
    term = PrototypeVariant(DIM, DOMAINS, momentum=0.7).double()
    batches = [
        (random_features(6, 1), [0, 0, 1, 1, -1, 1]),
        (random_features(5, 2), [1, 3, 1, 0, 3]),
    ]
    kept: dict[int, np.ndarray] = {}
    for x, d in batches:
        loss = apply(term, torch.tensor(x), d)
        h = slow_standardize(x, d)
        for k, rows in rows_of(d).items():
            mean = sum(unit(h[r]) for r in rows) / len(rows)
            kept[k] = unit(0.7 * kept[k] + 0.3 * mean if k in kept else mean)
        # The loss is that of the moved prototypes, over the domains seen so far.
        seen = sorted(kept)
        logits = [np.array([unit(r) @ kept[k] / 0.1 for k in seen]) for r in h]
        renamed = [seen.index(k) if k >= 0 else -1 for k in d]
        assert loss.item() == pytest.approx(slow_cross_entropy(logits, renamed), rel=1e-9)
    expected = np.zeros((DOMAINS, DIM))
    for k, prototype in kept.items():
        expected[k] = prototype
    np.testing.assert_allclose(term.prototypes, expected, rtol=1e-9, atol=1e-12)
    assert term.seen.tolist() == [True, True, False, True]


def test_momentum_prototypes_stay_in_eval_mode() -> None:
    term = made("prototype_variant")
    before = term.prototypes.clone()
    apply(term, torch.tensor(random_features(8)), BATCHES["equal"])
    assert torch.equal(term.prototypes, before)


@pytest.mark.parametrize("domains", SILENT)
def test_momentum_prototypes_learn_nothing_from_one_domain(domains: str) -> None:
    # Standardised by itself alone, a domain has no direction that tells it from the others.
    term = made("prototype_variant").train()
    term.seen[2] = False
    before, seen = term.prototypes.clone(), term.seen.clone()
    d = SILENT[domains]
    apply(term, torch.tensor(random_features(len(d))), d)
    assert torch.equal(term.prototypes, before)
    assert torch.equal(term.seen, seen)


def test_unseen_domains_never_win() -> None:
    term = PrototypeVariant(DIM, DOMAINS).double()
    x = torch.tensor(random_features(4), requires_grad=True)
    loss = apply(term, x, [0, 1, 0, 1])
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(x.grad).all()
    # Two domains only: the loss is that of a module made for two.
    two = PrototypeVariant(DIM, 2).double()
    batch = DomainBatch.from_index(torch.tensor([0, 1, 0, 1]), 2, dtype=torch.float64)
    assert loss.item() == pytest.approx(two(standardize(x, batch), batch).item(), rel=1e-12)
    # Rows of a domain that no training batch held give no NaN either.
    term.eval()
    x = torch.tensor(random_features(4), requires_grad=True)
    loss = apply(term, x, [0, 1, 2, -1])
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(x.grad).all()


def test_momentum_prototypes_before_any_batch() -> None:
    term = PrototypeVariant(DIM, DOMAINS).double().eval()
    loss = apply(term, torch.tensor(random_features(4)), [0, 1, 0, 1])
    assert torch.isfinite(loss)


def test_two_forwards_before_one_backward() -> None:
    # One call a view, then one backward: the second call moves the prototypes of the first.
    for name in TERMS:
        term = made(name).train()
        views = TERMS[name].views
        x = torch.tensor(random_features(8 * views), requires_grad=True)
        first = apply(term, x, BATCHES["equal"], views)
        second = apply(term, 2 * x, BATCHES["equal"][::-1], views)
        (first + second).backward()
        assert torch.isfinite(x.grad).all()


def test_sinkhorn_shares_each_prototype_between_the_rows_of_a_domain() -> None:
    term = PrototypeInvariance(DIM, DOMAINS, num_prototypes=3, iterations=50).double()
    d = torch.tensor([0, 1, 0, 0, -1, 1, 0, 1, 1])
    one_hot = DomainBatch.from_index(d, DOMAINS, dtype=torch.float64).one_hot
    rng = np.random.default_rng(0)
    q = term.targets(torch.tensor(rng.uniform(-1, 1, size=(9, 3))), one_hot)
    np.testing.assert_allclose(q.sum(1), [1, 1, 1, 1, 0, 1, 1, 1, 1], rtol=1e-9)
    for k in (0, 1):
        np.testing.assert_allclose(q[d == k].sum(0), [4 / 3] * 3, rtol=1e-3)


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_sinkhorn_survives_float32_extremes(epsilon: float) -> None:
    # The lowest and the highest cosine: exp(1 / 0.01) is no float32.
    term = PrototypeInvariance(DIM, DOMAINS, num_prototypes=4, epsilon=epsilon)
    scores = torch.full((6, 4), -1.0)
    scores[:, 0] = 1.0
    d = torch.tensor([0, 0, 0, 1, 1, -1])
    q = term.targets(scores, DomainBatch.from_index(d, DOMAINS).one_hot)
    assert torch.isfinite(q).all()
    np.testing.assert_allclose(q.sum(1), [1, 1, 1, 1, 1, 0], rtol=1e-5)


# --- confusion -----------------------------------------------------------------------------------


def test_confusion_is_over_the_domains_that_training_has_met() -> None:
    term = ConfusionInvariance(DIM, DOMAINS).double()
    x = torch.tensor(random_features(6))
    for d, seen in (
        ([2, 2, 2, -1, -1, 2], []),
        ([0, 2, 0, 2, 0, -1], [0, 2]),
        ([0, 3] * 3, [0, 2, 3]),
    ):
        apply(term.train(), x, d)
        assert term.seen.nonzero().flatten().tolist() == seen
    # Evaluation meets nobody.
    apply(term.eval(), x, [0, 1] * 3)
    assert not term.seen[1]


def test_confusion_settles_where_a_domain_never_occurs() -> None:
    # A discriminator that rules out the two absent domains and cannot tell the other two apart.
    term = ConfusionInvariance(DIM, DOMAINS).double()
    last = term.discriminator[2]
    nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([0.0, -50.0, 0.0, -50.0], dtype=torch.float64)
    loss = apply(term, torch.tensor(random_features(6)), [0, 2] * 3)
    # Its own cross-entropy is log 2, and the confusion as low as it can be: log 2 too.
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_checkpoints_of_confusion_without_the_domains_seen() -> None:
    old, term = (ConfusionInvariance(DIM, DOMAINS) for _ in range(2))
    state = old.state_dict()
    del state["seen"]
    term.seen.fill_(True)
    term.load_state_dict(state)
    assert not term.seen.any() and "seen" not in state
    assert torch.equal(term.discriminator[0].weight, old.discriminator[0].weight)


# --- properties that the docstrings claim --------------------------------------------------------


@given(seed=seeds, d=some_domains)
@few
def test_independence_lies_between_0_and_1(seed: int, d: list[int]) -> None:
    x = random_features(len(d), seed)
    for name in ("cross_correlation", "hsic"):
        assert 0 <= value_and_gradients(name, x, d)[0] <= 1 + 1e-9


def test_hsic_of_a_portion_with_itself_is_1() -> None:
    d = BATCHES["unequal"]
    x = torch.tensor(random_features(len(d)))
    batch = DomainBatch.from_index(torch.tensor(d), DOMAINS, dtype=torch.float64)
    x = standardize(x, batch)
    assert float(HSICIndependence()(x, x, batch)) == pytest.approx(1, abs=1e-6)


def test_hsic_sees_what_correlation_does_not() -> None:
    x = torch.linspace(-1, 1, 41, dtype=torch.float64)[:, None]
    batch = DomainBatch.from_index(torch.arange(41) % 2, 2, dtype=torch.float64)
    x, y = standardize(x, batch), standardize(x.square(), batch)
    assert float(CrossCorrelationIndependence()(x, y, batch)) < 1e-3
    assert float(HSICIndependence()(x, y, batch)) > 0.2


@pytest.mark.parametrize("name", ["coral", "mmd"])
def test_discrepancy_is_zero_for_equal_domains_and_grows_with_a_shift(name: str) -> None:
    half = random_features(6)
    d = [0] * 6 + [1] * 6
    values = [
        value_and_gradients(name, np.concatenate([half, half + shift]), d)[0]
        for shift in (0.0, 0.3, 1.0)
    ]
    assert values[0] == pytest.approx(0, abs=1e-12)
    assert values[0] < values[1] < values[2]


# --- instances -----------------------------------------------------------------------------------


def test_instances_of_other_domains_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 2, 5, DIM, generator=generator, dtype=torch.float64)
    d, term = [0] * 5 + [1] * 5, InstanceInvariance().double()

    def loss(other: torch.Tensor) -> torch.Tensor:
        batch = DomainBatch.from_index(torch.tensor(d), 2, 2, torch.float64)
        return term(torch.cat([one, other], 1).flatten(0, 1), batch)

    # Where a domain lies and how wide it is tells none of its samples apart.
    torch.testing.assert_close(loss(other), loss(100 * other - 7), rtol=1e-4, atol=0)


def test_instances_need_two_views() -> None:
    with pytest.raises(ValueError, match=r"two views of each sample.*torch\.stack"):
        apply(InstanceInvariance(), torch.tensor(random_features(8)), [0, 1] * 4)


# --- neighbours ----------------------------------------------------------------------------------


def two_styles(n: int = 40, seed: int = 0) -> tuple[torch.Tensor, list[int]]:
    """The same n things in two domains, which differ in place and scale."""
    generator = torch.Generator().manual_seed(seed)
    things = torch.randn(n, DIM, generator=generator, dtype=torch.float64)
    return torch.cat([things, 3 * things + 5]), [0] * n + [1] * n


def test_neighbours_count_once_the_memory_is_full() -> None:
    x, d = two_styles()
    term = NeighbourInvariance(DIM, memory=100).double()
    losses = [apply(term, x.requires_grad_(), d) for _ in range(3)]
    assert losses[0] == 0 and losses[1] == 0 and losses[2] > 0
    assert int(term.position) == 240 and (term.entry_domains >= 0).all()
    before = term.entries.clone()
    apply(term.eval(), x, d)
    assert torch.equal(term.entries, before) and int(term.position) == 240


@pytest.mark.parametrize("d", [[1] * 8, [-1] * 8, [0, 1, -1, -1, -1, -1, -1, -1]])
def test_what_says_nothing_of_content_matches_nobody(d: list[int]) -> None:
    term = NeighbourInvariance(DIM, memory=8).double()
    apply(term, torch.tensor(random_features(8)), d)
    assert (term.entry_domains == -1).all() and int(term.position) == 8


def test_the_oldest_entries_make_way() -> None:
    term = NeighbourInvariance(2, memory=3)
    for value in range(5):
        term.remember(torch.full((1, 2), float(value)), torch.tensor([value]))
    assert term.entries[:, 0].tolist() == [3.0, 4.0, 2.0]
    assert term.entry_domains.tolist() == [3, 4, 2]
    # More rows than there is room for: the last ones stay.
    term.remember(torch.arange(10.0).view(5, 2), torch.arange(5))
    assert sorted(term.entry_domains.tolist()) == [2, 3, 4]


def test_the_same_thing_in_another_domain_is_found() -> None:
    x, d = two_styles()
    term = NeighbourInvariance(DIM, memory=80).double()
    apply(term, x, d)
    # Place and scale of the domains do not count: each finds its twin.
    nearest, found = term.neighbours(term.entries, term.entry_domains)
    assert found.all() and torch.equal(nearest, torch.arange(80).roll(40))


def test_what_is_alike_from_one_side_only_is_no_neighbour() -> None:
    term = NeighbourInvariance(2, memory=6)
    angle = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.05, 3.0])
    term.remember(torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([0, 0, 0, 0, 1, 1]))
    # Domain 0 crowds round the entry at 0.05, whose three nearest are those at 0 to 0.2. Both
    # entries of domain 1 are among the three nearest of anyone.
    _, found = term.neighbours(term.entries, term.entry_domains)
    assert found.tolist() == [1, 1, 1, 0, 1, 1]


def test_unknown_domains_have_no_neighbours() -> None:
    term = full_memory()
    rows = nn.functional.normalize(torch.randn(8, DIM), dim=1)
    assert (term.neighbours(rows, torch.full((8,), -1))[1] == 0).all()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("instances", dict(temperature=0.0), "temperature=0.0 must be a finite number above 0"),
        ("instances", dict(temperature=float("nan")), "temperature=nan must be"),
        ("neighbours", dict(memory=0), "memory=0 must be a whole number, 1 at least"),
        ("neighbours", dict(mutual=1.5), "mutual=1.5 must be a whole number"),
        ("neighbours", dict(memory=float("nan")), "memory=nan must be a whole number"),
        ("neighbours", dict(memory=16.0), "memory=16.0 must be a whole number"),
        ("neighbours", dict(temperature=-1), "temperature=-1 must be"),
        ("prototypes", dict(epsilon=float("inf")), "epsilon=inf must be a finite"),
        ("prototypes", dict(num_prototypes=0), "num_prototypes=0 must be a whole"),
        ("prototypes", dict(iterations=0), "iterations=0 must be a whole"),
        ("adversarial", dict(hidden_dim=0), "hidden_dim=0 must be a whole"),
        ("confusion", dict(hidden_dim=0), "hidden_dim=0 must be a whole"),
        ("mmd", dict(scales=()), "must hold one number at least"),
        ("mmd", dict(scales=(1.0, 0.0)), "scales=0.0 must be a finite number above 0"),
    ],
)
def test_settings_that_would_give_no_number(kind: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(INVARIANCE[kind], 8, 3, **settings)


@pytest.mark.parametrize("settings", [dict(temperature=0), dict(momentum=1.0), dict(momentum=-0.1)])
def test_settings_of_momentum_prototypes(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        build(VARIANT["prototypes"], 8, 3, **settings)


def test_settings_and_their_defaults() -> None:
    assert settings_of(INVARIANCE["neighbours"]) == dict(memory=4096, mutual=3, temperature=0.1)
    assert settings_of(INVARIANCE["coral"]) == settings_of(INVARIANCE["mmd"]) == {}
    made = build(INVARIANCE["neighbours"], 8, 3, memory=16)
    assert made.entries.shape == (16, 8) and made.mutual == 3
