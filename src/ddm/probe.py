"""Probes over stored features: a linear one and nearest neighbours; intervals over groups."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import coo_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
#: One line of the table of results.
Row = dict[str, Any]

#: Inverse strengths of the L2 penalty that a linear probe chooses from, on validation data.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
#: Strengths of the penalty that ridge regression chooses from.
RIDGE_PENALTIES = (1.0, 1e1, 1e2, 1e3, 1e4)


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression on standardised features, the usual linear probe.

    Args:
        scaler: fitted on the training features.
        model: fitted on the scaled training features.
        penalty: the chosen inverse penalty.
    """

    scaler: StandardScaler
    model: LogisticRegression
    penalty: float

    @classmethod
    def fit(
        cls,
        train: tuple[Floats, Ints],
        validation: tuple[Floats, Ints],
        score: Callable[[Ints], float] | None = None,
    ) -> LinearProbe:
        """Fit for each penalty, keep the best on the validation data.

        Args:
            train: features (N, D) and classes (N,).
            validation: the same of other samples; without any the strongest penalty but one is
                kept.
            score: of the classes predicted for the validation data, what is to be high; their
                accuracy by default.

        Raises:
            ValueError: fewer than two classes to train on.
        """
        x, y = train
        if len(np.unique(y)) < 2:
            raise ValueError("a probe needs two classes to tell apart")
        scaler = _scaler(x)
        scaled = scaler.transform(x)
        best: tuple[float, float, LogisticRegression] | None = None
        weights = None
        for penalty in PENALTIES:
            model = LogisticRegression(C=penalty, max_iter=300, tol=1e-3, warm_start=True)
            if weights is not None:
                model.coef_, model.intercept_ = weights
            with warnings.catch_warnings():
                # Weak penalties converge slowly; one that stops early competes as it is.
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(scaled, y)
            weights = model.coef_.copy(), model.intercept_.copy()
            if len(validation[1]):
                predicted = model.predict(scaler.transform(validation[0]))
                value = score(predicted) if score else float((predicted == validation[1]).mean())
            else:
                value = -abs(np.log10(penalty) + 2)
            if best is None or value > best[0]:
                best = value, penalty, model
        assert best is not None
        return cls(scaler, best[2], best[1])

    def predict(self, features: Floats) -> Ints:
        """Classes of features of shape (N, D)."""
        predicted: Ints = self.model.predict(self.scaler.transform(features))
        return predicted


@dataclass(frozen=True)
class RidgeProbe:
    """Ridge regression on standardised features: a linear probe of a number.

    Args:
        scaler: fitted on the training features.
        model: fitted on the scaled training features.
        penalty: the chosen penalty.
    """

    scaler: StandardScaler
    model: Ridge
    penalty: float

    @classmethod
    def fit(
        cls,
        train: tuple[Floats, Floats],
        validation: tuple[Floats, Floats],
        score: Callable[[Floats], float],
    ) -> RidgeProbe:
        """Fit for each penalty, keep the best on the validation data.

        Args:
            train: features (N, D) and targets (N,).
            validation: the same of other samples; without any the middle penalty is kept.
            score: of the targets predicted for the validation data, what is to be high.
        """
        scaler = _scaler(train[0])
        scaled = scaler.transform(train[0])
        best: tuple[float, float, Ridge] | None = None
        for penalty in RIDGE_PENALTIES:
            model = Ridge(alpha=penalty).fit(scaled, train[1])
            if len(validation[1]):
                value = score(model.predict(scaler.transform(validation[0])))
            else:
                value = -abs(RIDGE_PENALTIES.index(penalty) - len(RIDGE_PENALTIES) // 2)
            if best is None or value > best[0]:
                best = value, penalty, model
        assert best is not None
        return cls(scaler, best[2], best[1])

    def predict(self, features: Floats) -> Floats:
        """Targets of features of shape (N, D)."""
        predicted: Floats = self.model.predict(self.scaler.transform(features))
        return predicted


def _scaler(features: Floats) -> StandardScaler:
    """Brings each dimension to mean 0 and deviation 1.

    One in which hardly anything varies here, though it may elsewhere (a unit that is dead on these
    domains), would drown all others there, and overflow: it is scaled as they are on the whole.
    """
    scaler = StandardScaler().fit(features)
    deviation = np.sqrt(scaler.var_)
    typical = np.sqrt(np.mean(scaler.var_))
    scaler.scale_ = np.where(deviation > 1e-6 * typical, scaler.scale_, typical or 1.0)
    return scaler


def knn_predict(
    train: tuple[Floats, Ints], features: Floats, k: int = 20, temperature: float = 0.07
) -> Ints:
    """Weighted vote of the nearest neighbours by cosine.

    Wu et al., 2018 (arXiv 1805.01978), with the k and temperature of DINO (arXiv 2104.14294). A k
    above the number of training samples takes all of them.

    Args:
        train: features (N, D) and classes (N,).
        features: shape (M, D).
        k: how many neighbours vote.
        temperature: a neighbour at cosine s has ``exp(s / temperature)`` votes.

    Returns:
        Classes, shape (M,).
    """
    bank = F.normalize(torch.from_numpy(np.ascontiguousarray(train[0])).float(), dim=1)
    names, labels = np.unique(train[1], return_inverse=True)
    one_hot = F.one_hot(torch.from_numpy(labels), len(names)).float()
    predictions = []
    for part in torch.from_numpy(np.ascontiguousarray(features)).float().split(1024):
        similarity, neighbours = (F.normalize(part, dim=1) @ bank.T).topk(min(k, len(bank)))
        votes = (similarity / temperature).exp()[:, :, None] * one_hot[neighbours]
        predictions.append(votes.sum(1).argmax(1))
    chosen: Ints = names[torch.cat(predictions).numpy()] if predictions else np.empty(0, np.int64)
    return chosen


def largest_class(train: Ints) -> int:
    """What one answers without any skill: the class that is largest in training.

    Args:
        train: classes of the training samples, shape (N,), N above 0.
    """
    names, counts = np.unique(train, return_counts=True)
    return int(names[counts.argmax()])


@dataclass(frozen=True)
class Interval:
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float


def bootstrap(
    parts: list[tuple[NDArray[np.bool_], Ints]],
    seed: int = 0,
    resamples: int = 1000,
    classes: Sequence[Ints] | None = None,
) -> tuple[list[Interval], Interval, Interval]:
    """Accuracy of several parts (domains), their mean and their worst, with intervals over groups.

    Groups are resampled, not samples: variants of one thing succeed and fail together, and so do
    the drawings of one thing in several domains. Percentile method, which is too narrow for few
    groups: 95% intervals hold the truth in 84% of cases with five, in 90% with ten. A single group
    says nothing of others, so that its interval is the whole range.

    Args:
        parts: for each part, which samples were right, shape (n,), and their groups, shape (n,).
        seed: of the resampling.
        resamples: how many.
        classes: for each part, the samples' true classes, shape (n,): balanced accuracy then, the
            mean over the part's classes of the accuracy on each.

    Returns:
        One interval a part, that of their mean, and that of the part which is worst. (The minimum
        over parts of each resample would be biased low, and could miss the figure itself.)

    Raises:
        ValueError: a part without samples.
    """
    if classes is None:
        exact, accuracy = _resample(parts, seed, resamples)
    else:
        exact, accuracy = _resample_balanced(parts, classes, seed, resamples)
    each = [_interval(exact[i], accuracy[:, i]) for i in range(len(parts))]
    # A resample without any sample of some part says nothing about their mean.
    mean = _interval(exact.mean(), accuracy.mean(axis=1))
    each = [
        i if _groups([part]) > 1 else Interval(i.value, 0.0, 1.0)
        for i, part in zip(each, parts, strict=True)
    ]
    if _groups(parts) < 2:
        mean = Interval(mean.value, 0.0, 1.0)
    return each, mean, each[int(exact.argmin())]


def paired_difference(
    parts: list[tuple[NDArray[np.bool_], NDArray[np.bool_], Ints]],
    seed: int = 0,
    resamples: int = 1000,
) -> Interval:
    """How much more often a second probe is right than a first one, on the very same samples.

    The mean over parts (domains) of the difference in accuracy. Groups are resampled as in
    :func:`bootstrap`, for both at once: what makes a sample hard for either cancels, so that the
    interval is narrower than two separate ones suggest.

    Args:
        parts: for each part, which samples the first and the second got right, each of shape (n,),
            and the samples' groups, shape (n,).
        seed: of the resampling.
        resamples: how many.

    Returns:
        The second less the first, and its interval.

    Raises:
        ValueError: a part without samples.
    """
    exact, difference = _resample(
        [(second.astype(np.int64) - first, groups) for first, second, groups in parts],
        seed,
        resamples,
    )
    if _groups([(second, groups) for _, second, groups in parts]) < 2:
        return Interval(float(exact.mean()), -1.0, 1.0)
    return _interval(exact.mean(), difference.mean(axis=1))


def _groups(parts: Sequence[tuple[NDArray[Any], Ints]]) -> int:
    """How many groups there are in all."""
    return len(np.unique(np.concatenate([groups for _, groups in parts])))


def _resample(
    parts: Sequence[tuple[NDArray[Any], Ints]], seed: int, resamples: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of each part, shape (P,), and the same under resampled groups, shape (resamples, P)."""
    if not parts or any(len(values) == 0 for values, _ in parts):
        raise ValueError("accuracy of no samples")
    all_groups, place = np.unique(np.concatenate([g for _, g in parts]), return_inverse=True)
    part = np.repeat(np.arange(len(parts)), [len(groups) for _, groups in parts])
    values = np.concatenate([v for v, _ in parts]).astype(np.float64)
    shape = (len(parts), len(all_groups))
    # Sparse: most groups have samples in few of many parts. Entries of one place add up.
    sums = coo_array((values, (part, place)), shape).tocsr()
    sizes = coo_array((np.ones(len(part)), (part, place)), shape).tocsr()
    rng = np.random.default_rng(seed)
    share = np.full(len(all_groups), 1 / len(all_groups))
    means = []
    # Some at a time: all would take gigabytes where each of 100,000 images is its own group.
    for begin in range(0, resamples, 50):
        size = min(50, resamples - begin)
        draws = rng.multinomial(len(all_groups), share, size=size).T.astype(np.float64)
        # A resample without one sample of a part says nothing of it.
        with np.errstate(invalid="ignore"):
            means.append(np.asarray((sums @ draws) / (sizes @ draws)).T)
    return np.asarray(sums.sum(1) / sizes.sum(1)), np.concatenate(means)


def _resample_balanced(
    parts: Sequence[tuple[NDArray[Any], Ints]], classes: Sequence[Ints], seed: int, resamples: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As :func:`_resample`, of the mean over the classes of each part."""
    cells, owner = [], []
    for number, ((values, groups), mine) in enumerate(zip(parts, classes, strict=True)):
        for one in np.unique(mine):
            cells.append((values[mine == one], groups[mine == one]))
            owner.append(number)
    exact, means = _resample(cells, seed, resamples)
    of_part = [np.array(owner) == number for number in range(len(parts))]
    with warnings.catch_warnings():
        # A resample without one sample of any class of a part, as above.
        warnings.filterwarnings("ignore", "Mean of empty slice")
        balanced = np.stack([np.nanmean(means[:, mine], axis=1) for mine in of_part], axis=1)
    return np.array([exact[mine].mean() for mine in of_part]), balanced


def _interval(value: float, sample: NDArray[np.float64]) -> Interval:
    low, high = np.nanpercentile(sample, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def summarize(
    common: Row,
    parts: Mapping[str, tuple[NDArray[np.bool_], Ints]],
    seed: int,
    classes: Mapping[str, Ints] | None = None,
    unskilled: Mapping[str, NDArray[np.bool_]] | None = None,
) -> list[Row]:
    """The rows of one figure: each domain, and the :data:`~ddm.domains.SUMMARIES`, with intervals.

    Args:
        common: what the rows share.
        parts: for each domain, which samples were right, shape (n,), and their groups, shape (n,).
        seed: of the bootstrap.
        classes: for each domain, the samples' true classes, shape (n,): the figures are then
            balanced accuracies, the mean over the domain's classes of the accuracy on each. To
            answer with the largest class everywhere, as a probe may on a domain that it cannot
            read, is then worth no more than any other single answer.
        unskilled: for each domain, which samples an answer without skill gets right, shape (n,):
            the same figure of it is each row's ``chance``.
    """

    def row(domain: str, interval: Interval, which: Sequence[str]) -> Row:
        chosen = [parts[name] for name in which]
        n = sum(len(right) for right, _ in chosen)
        found = {**common, "domain": domain, **asdict(interval), "n": n, "groups": _groups(chosen)}
        if unskilled is not None:
            found["chance"] = float(np.mean([chance([name]) for name in which]))
            if domain == "pooled":
                found["chance"] = chance(which)
        return found

    def chance(which: Sequence[str]) -> float:
        assert unskilled is not None
        right = np.concatenate([unskilled[name] for name in which])
        if classes is None:
            return float(right.mean())
        of = np.concatenate([classes[name] for name in which])
        return float(np.mean([right[of == one].mean() for one in np.unique(of)]))

    names = list(parts)
    truth = None if classes is None else [classes[name] for name in names]
    each, mean, worst = bootstrap(list(parts.values()), seed, classes=truth)
    rights, groups = zip(*parts.values(), strict=True)
    together = (np.concatenate(rights), np.concatenate(groups))
    (pooled,), _, _ = bootstrap(
        [together], seed, classes=None if truth is None else [np.concatenate(truth)]
    )
    return [
        *(row(name, interval, [name]) for name, interval in zip(names, each, strict=True)),
        row("mean", mean, names),
        row("pooled", pooled, names),
        row("worst", worst, [names[each.index(worst)]]),
    ]
