"""Features from anywhere get the figures that a run's get."""

import numpy as np
import pytest

from ddm.errors import DdmError
from ddm.evaluate import evaluate, summary_table
from ddm.measure import measure
from ddm.pretrain import pretrain
from synthetic import make_dataset
from test_pretrain import config


def names(index, of):
    return [None if i < 0 else of[i] for i in index]


def test_they_are_those_of_the_evaluation(tmp_path):
    dataset = make_dataset(each=8)
    run = pretrain(config(tmp_path, epochs=1, held_out=["night"]), dataset)
    expected = evaluate(run.path, dataset)
    classes = dataset.labels["class"]
    rows = measure(
        np.load(run.features_file),
        names(dataset.domains.index, dataset.domains.names),
        names(classes.index, classes.names),
        unseen=["night"],
        variant_dim=expected["variant_dim"],
        splits=dataset.splits.tolist(),
        groups=[f"{group:04}" for group in dataset.groups],
        instances=[f"{instance:04}" for instance in dataset.instances],
    )
    assert rows == expected["rows"]
    assert "leakage domain" in summary_table(rows)


def test_without_labels_there_is_leakage():
    rng = np.random.default_rng(0)
    domain = np.arange(300) % 3
    features = rng.normal(size=(300, 8)).astype(np.float32) + 4 * domain[:, None]
    rows = measure(features, [f"d{i}" for i in domain])
    assert {row["measure"] for row in rows} == {"leakage"}
    found = {row["portion"]: row["value"] for row in rows if row["domain"] == "mean"}
    # Each domain at mean 0 tells nothing of it.
    assert found["all"] > 0.95 and found["standardized"] < 0.6
    assert set(found) == {"all", "standardized", "whitened"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(features=[[1.0, 2.0]] * 6), "must be a NumPy array"),
        (dict(features=np.zeros(6)), r"array of shape \(N, D\)"),
        (dict(features=np.full((6, 2), np.nan)), "not finite"),
        (dict(domains=["a"] * 5), "domains are 5, but there are 6 features"),
        (dict(labels=["x"] * 7), "labels 'class' are 7"),
        (dict(features=np.zeros((6, 2), object)), "must be real numbers, not object"),
        (dict(features=np.zeros((6, 2), complex)), "must be real numbers, not complex128"),
        (dict(groups=[0] * 6), "the name 0 is no text"),
        (dict(seed=-1), "seed=-1 must not be negative"),
        (dict(labels={"kind": ["x"]}), "labels 'kind' are 1"),
        (dict(labels=[1] * 6), "the name 1 is no text"),
        (dict(splits=["train", "test", "valid"] * 2), r"splits \['valid'\] are unknown; use train"),
        (dict(unseen=["c"]), r"unseen=\['c'\]: no such domain; there are a, b"),
    ],
)
def test_what_is_refused(changes, message):
    given = dict(features=np.zeros((6, 2), np.float32), domains=["a", "b"] * 3)
    with pytest.raises(DdmError, match=message):
        measure(**{**given, **changes})


def test_half_precision_and_integers_are_measured_as_single_precision():
    rng = np.random.default_rng(0)
    domain, label = np.arange(240) % 2, np.arange(240) // 2 % 3
    numbers = np.rint(rng.normal(size=(240, 6)) + 300 * np.eye(3, 6)[label])
    texts = [f"d{i}" for i in domain], [f"c{i}" for i in label]
    things = [f"t{i // 2}" for i in range(240)]
    single = measure(numbers.astype(np.float32), *texts, instances=things)
    assert any(row["measure"] == "knn" and row["value"] > 0.9 for row in single)
    for kind in (np.float16, np.int64, np.float64):
        assert measure(numbers.astype(kind), *texts, instances=things) == single


def test_an_image_without_a_group_is_its_own():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 4)).astype(np.float32)
    domains, classes = [f"d{i % 2}" for i in range(200)], [f"c{i // 2 % 2}" for i in range(200)]
    groups = [("", None)[i % 2] for i in range(200)]
    rows = measure(features, domains, classes, groups=groups)
    seen = next(r for r in rows if (r["measure"], r["domain"]) == ("linear", "d0"))
    assert seen["groups"] == seen["n"] > 5
