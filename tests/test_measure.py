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
