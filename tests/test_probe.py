"""Probes against scikit-learn and plain loops; intervals against what is known of the binomial."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import StandardScaler

from ddm.probe import (
    PENALTIES,
    Interval,
    LinearProbe,
    RidgeProbe,
    bootstrap,
    knn_predict,
    largest_class,
    paired_difference,
    summarize,
)

Data = tuple[np.ndarray, np.ndarray]


def blobs(n: int, classes: int = 3, dim: int = 6, noise: float = 1.5, seed: int = 0) -> Data:
    """Overlapping classes, named 10, 20, ...; dimensions of very different scale."""
    centers = np.random.default_rng(99).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=n)
    x = (centers[y] + noise * rng.normal(size=(n, dim))) * np.logspace(-2, 2, dim) + 5
    return x.astype(np.float32), 10 * (y + 1)


def sklearn_probe(train: Data, penalty: float) -> tuple[StandardScaler, LogisticRegression]:
    scaler = StandardScaler().fit(train[0])
    model = LogisticRegression(C=penalty, max_iter=10_000, tol=1e-8)
    return scaler, model.fit(scaler.transform(train[0]), train[1])


# --- linear probe --------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_linear_probe_is_scikit_learns(classes: int) -> None:
    train, validation, test = (blobs(300, classes, seed=s) for s in range(3))
    probe = LinearProbe.fit(train, validation)
    scores = {}
    for penalty in PENALTIES:
        scaler, model = sklearn_probe(train, penalty)
        scores[penalty] = model.score(scaler.transform(validation[0]), validation[1])
    # Ours stops earlier: one sample of the validation data may fall on the other side.
    assert scores[probe.penalty] >= max(scores.values()) - 1.5 / len(validation[1])
    scaler, model = sklearn_probe(train, probe.penalty)
    np.testing.assert_allclose(
        probe.model.predict_proba(probe.scaler.transform(test[0])),
        model.predict_proba(scaler.transform(test[0])),
        atol=0.01,
    )
    same = probe.predict(test[0]) == model.predict(scaler.transform(test[0]))
    assert same.mean() > 0.99
    assert set(probe.predict(test[0])) <= set(train[1])


def test_penalty_is_chosen_on_the_validation_data() -> None:
    train = blobs(60, noise=3.0)
    chosen = set()
    for seed in range(12):
        validation = blobs(40, noise=3.0, seed=100 + seed)
        probe = LinearProbe.fit(train, validation)
        chosen.add(probe.penalty)
        assert probe.penalty == probe.model.C
    assert len(chosen) > 1


def test_probe_learns_from_the_training_data_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation = blobs(100), blobs(50, seed=1)
    # Validation data chooses among penalties; where there is one alone they do nothing.
    monkeypatch.setattr("ddm.probe.PENALTIES", (0.1,))
    probe = LinearProbe.fit(train, validation)
    np.testing.assert_allclose(probe.scaler.mean_, train[0].mean(0), rtol=1e-4)
    other = LinearProbe.fit(train, (validation[0] * 3 + 1, validation[1][::-1]))
    np.testing.assert_array_equal(other.model.coef_, probe.model.coef_)


def test_without_validation_data_the_strongest_penalty_but_one() -> None:
    empty = np.empty((0, 6), np.float32), np.empty(0, np.int64)
    assert LinearProbe.fit(blobs(100), empty).penalty == sorted(PENALTIES)[1]


def test_constant_dimension() -> None:
    x, y = blobs(100)
    x[:, 2] = 7.0
    assert np.isfinite(LinearProbe.fit((x, y), (x, y)).model.coef_).all()


def test_dimension_that_is_dead_in_training_does_not_drown_the_others() -> None:
    # A unit that is silent on the seen domains but for rounding, and not on an unseen one.
    x, y = blobs(100)
    noise = np.random.default_rng(3).normal(size=(len(x), 1)).astype(np.float32)
    silent = np.hstack([x, 1e-30 * noise])
    loud = np.hstack([x, 1e3 * noise])
    with np.errstate(over="raise"):
        probe = LinearProbe.fit((silent, y), (silent, y))
        np.testing.assert_array_equal(probe.predict(loud), probe.predict(silent))
        ridge = RidgeProbe.fit((silent, x[:, 0]), (silent, x[:, 0]), lambda found: -found.var())
        np.testing.assert_allclose(ridge.predict(loud), ridge.predict(silent), rtol=1e-4)
    assert (probe.predict(loud) == LinearProbe.fit((x, y), (x, y)).predict(x)).all()
    # Nor is anything changed where dimensions are merely of unlike size.
    scaled = LinearProbe.fit((x * [1e-2, 1, 1, 1, 1, 1], y), (x, y))
    np.testing.assert_allclose(scaled.scaler.scale_[0], 1e-2 * probe.scaler.scale_[0], rtol=1e-3)


def test_one_class_cannot_be_told_apart() -> None:
    x, y = blobs(20)
    with pytest.raises(ValueError, match="two classes"):
        LinearProbe.fit((x, np.zeros_like(y)), (x, y))


# --- nearest neighbours --------------------------------------------------------------------------


def slow_knn(train: Data, features: np.ndarray, k: int, temperature: float) -> list[int]:
    predictions = []
    for h in features:
        cosines = []
        for x, y in zip(*train, strict=True):
            cosine = float(h @ x / (np.linalg.norm(h) * np.linalg.norm(x)))
            cosines.append((cosine, int(y)))
        votes: dict[int, float] = {}
        for cosine, y in sorted(cosines, reverse=True)[:k]:
            votes[y] = votes.get(y, 0.0) + math.exp(cosine / temperature)
        predictions.append(max(votes, key=lambda y: votes[y]))
    return predictions


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 10.0)])
def test_knn_is_a_loop_over_neighbours(k: int, temperature: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 4)).astype(np.float32), 7 * rng.integers(4, size=80)
    features = rng.normal(size=(60, 4)).astype(np.float32)
    found = knn_predict((x, y), features, k, temperature)
    assert found.tolist() == slow_knn((x, y), features, k, temperature)


def test_knn_in_parts_is_knn() -> None:
    # More queries than are compared at a time.
    train = blobs(50)
    features, _ = blobs(1500, seed=1)
    whole = knn_predict(train, features)
    one_by_one = np.concatenate(
        [knn_predict(train, features[i : i + 100]) for i in range(0, 1500, 100)]
    )
    np.testing.assert_array_equal(whole, one_by_one)


def test_knn_with_fewer_samples_than_neighbours() -> None:
    x, y = blobs(8)
    assert knn_predict((x, y), x, k=20).tolist() == slow_knn((x, y), x, 8, 0.07)


def test_knn_of_nothing_and_of_views_in_memory() -> None:
    x, y = blobs(30)
    assert knn_predict((x, y), x[:0]).shape == (0,)
    # Columns of a portion are not contiguous; a store mapped read-only cannot be written to.
    portion = np.concatenate([x, x], 1)[:, 6:]
    portion.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(knn_predict((portion, y), portion), knn_predict((x, y), x))


# --- intervals -----------------------------------------------------------------------------------


def answers(n: int, accuracy: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < accuracy


def test_values_are_exact() -> None:
    parts = [
        (np.array([True, True, False, True]), np.array([0, 0, 1, 2])),
        (np.array([False, True]), np.array([1, 5])),
    ]
    each, mean, worst = bootstrap(parts)
    assert [i.value for i in each] == [0.75, 0.5]
    assert mean.value == 0.625
    assert worst.value == 0.5
    for interval in (*each, mean, worst):
        assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_interval_is_the_binomials() -> None:
    right = answers(400, 0.7)
    (interval,), mean, worst = bootstrap([(right, np.arange(400))], resamples=4000)
    half = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert interval.low == pytest.approx(right.mean() - half, abs=0.006)
    assert interval.high == pytest.approx(right.mean() + half, abs=0.006)
    # One part is its own mean and its own worst.
    assert interval == mean == worst


def test_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    covered = 0
    for seed in range(200):
        (interval,), _, _ = bootstrap(
            [(answers(120, 0.6, seed), np.arange(120))], seed=seed, resamples=300
        )
        covered += interval.low <= 0.6 <= interval.high
    assert 180 <= covered < 200


def test_interval_covers_with_groups_of_uneven_size() -> None:
    # Members of a group are right together: by samples alone, the interval would be far too narrow.
    covered, covered_naive = 0, 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(80), rng.integers(1, 9, size=80))
        right = (rng.random(80) < 0.6)[groups]
        (interval,), _, _ = bootstrap([(right, groups)], resamples=300)
        (naive,), _, _ = bootstrap([(right, np.arange(len(right)))], resamples=300)
        covered += interval.low <= 0.6 <= interval.high
        covered_naive += naive.low <= 0.6 <= naive.high
    assert covered >= 132
    assert covered_naive < 120


@pytest.mark.parametrize(("few", "said"), [(5, 0.84), (10, 0.90)])
def test_interval_of_few_groups_is_too_narrow_as_it_is_said_to_be(few: int, said: float) -> None:
    covered = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(few), 40)
        right = rng.random(few * 40) < rng.beta(6, 4, few)[groups]
        (interval,), _, _ = bootstrap([(right, groups)], resamples=300)
        covered.append(interval.low <= 0.6 <= interval.high)
    # Three standard errors of a share of 400.
    assert abs(np.mean(covered) - said) < 3 * (said * (1 - said) / 400) ** 0.5


def test_copies_within_a_group_tell_nothing_new() -> None:
    right, groups = answers(60, 0.7), np.arange(60)
    once = bootstrap([(right, groups)])
    assert bootstrap([(np.repeat(right, 10), np.repeat(groups, 10))]) == once
    (narrow,), _, _ = bootstrap([(np.repeat(right, 10), np.arange(600))])
    (wide,), _, _ = once
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)


def test_a_single_group_says_nothing_of_others() -> None:
    right = answers(200, 0.7)
    (one, many), mean, _ = bootstrap([(right, np.zeros(200)), (right, np.arange(200))])
    assert (one.low, one.value, one.high) == (0, right.mean(), 1)
    assert 0 < many.low < mean.low < mean.high < many.high + 0.1
    _, mean, _ = bootstrap([(right, np.zeros(200)), (~right, np.zeros(200))])
    assert (mean.low, mean.value, mean.high) == (0, 0.5, 1)
    found = paired_difference([(~right, right, np.zeros(200))])
    assert (found.low, found.high) == (-1, 1) and found.value > 0


def test_groups_reach_across_domains() -> None:
    # The same things drawn in two domains: a second drawing is no second thing.
    right = answers(200, 0.7)
    _, alone, _ = bootstrap([(right, np.arange(200))])
    _, shared, _ = bootstrap([(right, np.arange(200)), (right, np.arange(200))])
    _, apart, _ = bootstrap([(right, np.arange(200)), (right, np.arange(200, 400))])
    assert shared == alone
    assert apart.high - apart.low < 0.85 * (alone.high - alone.low)


def test_worst_domain() -> None:
    # One domain far below the others is the worst in every resample.
    parts = [
        (answers(300, p, seed), 1000 * seed + np.arange(300)) for seed, p in enumerate((0.9, 0.3))
    ]
    each, mean, worst = bootstrap(parts)
    assert worst == each[1]
    assert mean.low > worst.high


def test_names_of_groups_do_not_matter() -> None:
    right, groups = answers(50, 0.7), np.repeat(np.arange(10), 5)
    assert bootstrap([(right, groups)]) == bootstrap([(right, 1000 + 7 * groups)])


def test_seed_decides() -> None:
    parts = [(answers(50, 0.7), np.arange(50))]
    assert bootstrap(parts, seed=1) == bootstrap(parts, seed=1)
    assert bootstrap(parts, seed=1) != bootstrap(parts, seed=2)


def test_part_that_some_resamples_miss() -> None:
    # Two groups of 21: an eighth of the resamples hold nothing of that part.
    parts = [(answers(19, 0.5), np.arange(19)), (np.array([True] * 2), np.array([19, 20]))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        each, mean, worst = bootstrap(parts)
    assert each[1] == Interval(1.0, 1.0, 1.0)
    assert all(math.isfinite(v) for i in (mean, worst) for v in (i.low, i.high))


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [(np.empty(0, bool), np.empty(0, np.int64))],
        [(np.ones(2, bool), np.arange(2)), (np.empty(0, bool), np.empty(0, np.int64))],
    ],
)
def test_accuracy_of_nothing(parts: list) -> None:
    with pytest.raises(ValueError, match="no samples"):
        bootstrap(parts)


def test_paired_difference() -> None:
    first, second = answers(200, 0.5), answers(200, 0.5, seed=1)
    # Right where the first is, and on a tenth of the rest: hardly anything differs.
    better = first | answers(200, 0.1, seed=2)
    groups = np.arange(200)
    for other in (second, better):
        found = paired_difference([(first, other, groups), (second, second, groups)])
        assert found.value == pytest.approx((other.mean() - first.mean() + 0) / 2)
        assert found.low <= found.value <= found.high
    assert paired_difference([(first, first, groups)]) == Interval(0.0, 0.0, 0.0)
    swapped = paired_difference([(better, first, groups)])
    found = paired_difference([(first, better, groups)])
    assert (found.value, found.low) == pytest.approx((-swapped.value, -swapped.high))
    # What makes a sample hard for both cancels.
    (one,), _, _ = bootstrap([(first, groups)])
    assert found.low > 0 and found.high - found.low < 0.7 * (one.high - one.low)
    with pytest.raises(ValueError, match="no samples"):
        paired_difference([])


def test_summary_rows() -> None:
    """Each domain, their mean, all samples pooled, and the worst with its own samples."""
    common = {"measure": "linear", "chance": 0.5}
    parts = {
        "photo": (np.array([True, True, True, False]), np.arange(4)),
        "sketch": (np.array([True, False]), np.arange(2)),
    }
    rows = summarize(common, parts, seed=0)
    assert [(r["domain"], r["value"], r["n"]) for r in rows] == [
        ("photo", 0.75, 4),
        ("sketch", 0.5, 2),
        ("mean", 0.625, 6),
        ("pooled", pytest.approx(4 / 6), 6),
        ("worst", 0.5, 2),
    ]
    assert all(r["measure"] == "linear" and r["low"] <= r["value"] <= r["high"] for r in rows)
    assert "domain" not in common
    assert [r["groups"] for r in rows] == [4, 2, 4, 4, 2]


def test_chance_is_what_one_answer_to_all_gets_on_each_domain() -> None:
    """As scikit-learn's dummy classifier, which answers with the largest class of training."""
    from sklearn.dummy import DummyClassifier
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    train = rng.choice(3, 50, p=(0.5, 0.3, 0.2))
    dummy = DummyClassifier().fit(np.zeros((50, 1)), train)
    # The second domain has few of that class, the third none.
    odds = ((0.6, 0.2, 0.2), (0.1, 0.1, 0.8), (0, 0.5, 0.5))
    truth = {
        name: rng.choice(3, 40 + n, p=p)
        for n, (name, p) in enumerate(zip("abc", odds, strict=True))
    }
    parts = {d: (t == 2, np.arange(len(t))) for d, t in truth.items()}
    answer = largest_class(train)
    unskilled = {d: t == answer for d, t in truth.items()}
    for classes, measure in ((None, accuracy_score), (truth, balanced_accuracy_score)):
        rows = {r["domain"]: r for r in summarize({}, parts, 0, classes, unskilled)}
        found = {d: measure(t, dummy.predict(np.zeros((len(t), 1)))) for d, t in truth.items()}
        for domain in truth:
            assert rows[domain]["chance"] == pytest.approx(found[domain])
        assert rows["mean"]["chance"] == pytest.approx(np.mean([*found.values()]))
        together = np.concatenate([*truth.values()])
        expected = measure(together, dummy.predict(np.zeros((len(together), 1))))
        assert rows["pooled"]["chance"] == pytest.approx(expected)
        worst = min(truth, key=lambda d: rows[d]["value"])
        assert rows["worst"]["chance"] == rows[worst]["chance"]


def test_summary_rows_balanced() -> None:
    """As scikit-learn's balanced accuracy; answering with the largest class is chance."""
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    truth = {d: rng.choice(3, 60, p=(0.7, 0.2, 0.1)) for d in ("photo", "sketch")}
    guess = {"photo": rng.integers(3, size=60), "sketch": np.zeros(60, np.int64)}
    parts = {d: (guess[d] == truth[d], np.arange(60)) for d in truth}
    rows = {r["domain"]: r for r in summarize({}, parts, seed=0, classes=truth)}
    for domain, true in truth.items():
        expected = balanced_accuracy_score(true, guess[domain])
        assert rows[domain]["value"] == pytest.approx(expected)
        assert rows[domain]["low"] <= expected <= rows[domain]["high"]
    # One answer to all is right for one class of three, whichever samples are drawn.
    assert [rows["sketch"][k] for k in ("low", "value", "high")] == pytest.approx([1 / 3] * 3)
    together = balanced_accuracy_score(*(np.concatenate([*d.values()]) for d in (truth, guess)))
    assert rows["pooled"]["value"] == pytest.approx(together)
    # Where classes are of one size in every group, it is the accuracy.
    equal = {d: np.arange(60) % 3 for d in truth}
    parts = {d: (guess[d] == equal[d], np.arange(60) // 3) for d in truth}
    for one, other in zip(
        summarize({}, parts, seed=0, classes=equal), summarize({}, parts, seed=0), strict=True
    ):
        assert one == pytest.approx(other)


def test_balanced_interval_covers_the_truth() -> None:
    covered = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        truth = rng.choice(3, 200, p=(0.7, 0.2, 0.1))
        right = rng.random(200) < np.array([0.8, 0.5, 0.3])[truth]
        parts, groups = {"photo": (right, np.arange(200))}, {"photo": truth}
        row = summarize({}, parts, seed=seed, classes=groups)[0]
        covered += row["low"] <= (0.8 + 0.5 + 0.3) / 3 <= row["high"]
    assert 132 <= covered < 150


def test_half_precision_votes_as_single_does() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    features = (rng.normal(size=(300, 16)) + 3 * np.eye(4, 16)[labels]).astype(np.float16)
    half = knn_predict((features[:200], labels[:200]), features[200:])
    single = features.astype(np.float32)
    np.testing.assert_array_equal(half, knn_predict((single[:200], labels[:200]), single[200:]))
    assert (half == labels[200:]).mean() > 0.8


def test_resamples_are_the_same_in_parts_as_at_once() -> None:
    rng = np.random.default_rng(0)
    values, groups = rng.random(60) < 0.7, np.repeat(np.arange(20), 3)
    (part,), _, _ = bootstrap([(values, groups)], seed=3)
    draws = np.random.default_rng(3).multinomial(20, np.full(20, 1 / 20), size=1000)
    means = draws @ values.reshape(20, 3).sum(1) / draws.sum(1) / 3
    np.testing.assert_allclose([part.low, part.high], np.percentile(means, [2.5, 97.5]))
