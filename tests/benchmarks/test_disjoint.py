"""Domains that share no classes: what is taken away, and what stays to be asked for."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ddm.data import load_images
from synthetic import make_dataset

PATH = Path(__file__).parents[2] / "benchmarks" / "disjoint.py"
spec = importlib.util.spec_from_file_location("disjoint", PATH)
disjoint = importlib.util.module_from_spec(spec)
spec.loader.exec_module(disjoint)


@pytest.fixture
def dataset(monkeypatch):
    whole = make_dataset()
    emoji = replace(whole, labels={"group": whole.labels["class"]})
    monkeypatch.setattr(disjoint, "load_emoji", lambda size: emoji)
    return emoji


def test_each_class_is_learnt_in_one_domain_and_asked_for_in_all(tmp_path, dataset):
    manifests = disjoint.make_disjoint(tmp_path)
    assert [m.stem for m in manifests] == list(dataset.domains.names)
    for manifest in manifests:
        rows = pd.read_csv(manifest)
        mine = rows["domain"] == manifest.stem
        learnt = rows[~mine & (rows["split"] != "test")]
        assert set(learnt["class"]) == set(dataset.labels["group"].names)
        assert (learnt.groupby("class")["domain"].nunique() == 1).all()
        # Nothing of the domain that is left out is missing, and nothing to be tested on.
        counts = dict(zip(dataset.domains.names, dataset.domains.counts(), strict=True))
        assert mine.sum() == counts[manifest.stem]
        assert (rows["split"] == "test").sum() == (dataset.splits == "test").sum()
        # It is read as it was written, families and all.
        read = load_images(str(manifest), 32)
        assert len(read) == len(rows) and set(read.domains.names) == set(rows["domain"])
        assert len(set(read.groups.tolist())) == rows["group"].nunique()


def test_classes_are_dealt_to_and_fro_by_size():
    sizes = pd.Series({"a": 1, "b": 9, "c": 8, "d": 2, "e": 5, "f": 4})
    owner = disjoint.deal(sizes, ["x", "y", "z"])
    assert owner == {"b": "x", "c": "y", "e": "z", "f": "z", "d": "y", "a": "x"}
    # Equal sizes are in the order of their names, whatever order they come in.
    equal = pd.Series({"b": 3, "a": 3})
    assert disjoint.deal(equal, ["x", "y"]) == {"a": "x", "b": "y"}
