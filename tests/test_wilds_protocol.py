"""The protocol of WILDS: its splits, its scores, from the command to the table."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml

import wilds_trees
from ddm.bench import bench
from ddm.config import FinetuneConfig, ModuleConfig, PretrainConfig
from ddm.data.wilds import load_wilds
from ddm.data.wilds.metrics import wilds_score
from ddm.errors import DdmError
from ddm.evaluate import evaluate, summary_table
from ddm.finetune import finetune
from ddm.pretrain import pretrain
from ddm.probe import RidgeProbe
from ddm.protocols import WildsSplits
from ddm.report import write_report


def features_of(dataset, target):
    """Features that know the target nearly, so that no probe can miss it by much."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(len(dataset), 6)).astype(np.float32)
    noise[:, 0] += 20 * np.asarray(target, np.float32)
    return noise


def test_scores_are_those_of_the_splits(tmp_path):
    wilds_trees.camelyon17(tmp_path)
    dataset = load_wilds(tmp_path / "camelyon17_v1.0", size=8)
    protocol = WildsSplits(dataset)
    assert WildsSplits.fits(dataset) and protocol.name == "camelyon17"
    label = dataset.labels["class"].index
    rows = protocol.rows({"all": features_of(dataset, label)})
    assert [r["domain"] for r in rows] == ["id_val", "val", "test"]
    for row in rows:
        chosen = dataset.official_splits == row["domain"]
        assert row["n"] == chosen.sum() and row["score"] == "accuracy"
        assert 0.5 < row["value"] <= 1 and row["low"] <= row["value"] <= row["high"]
        assert row["further"]["accuracy"] == row["value"]
    # Labels of the test split play no part in what is trained.
    turned = replace(
        dataset.labels["class"], index=np.where(dataset.official_splits == "test", 1 - label, label)
    )
    other = WildsSplits(replace(dataset, labels={"class": turned})).rows(
        {"all": features_of(dataset, label)}
    )
    assert [r["value"] for r in other[:2]] == [r["value"] for r in rows[:2]]
    assert other[2]["value"] == pytest.approx(1 - rows[2]["value"])


def test_wealth_is_judged_by_its_correlation(tmp_path):
    wilds_trees.poverty(tmp_path)
    values = {}
    for fold in ("A", "B"):
        dataset = load_wilds(tmp_path / "poverty_v1.1", size=8, fold=fold)
        features = features_of(dataset, dataset.metadata["y"])
        rows = WildsSplits(dataset).rows({"all": features})
        official = dataset.official_splits
        train, test, val = (np.flatnonzero(official == s) for s in ("train", "test", "val"))

        def score(predicted, chosen, dataset=dataset):
            columns = {k: v[chosen] for k, v in dataset.metadata.items()}
            return wilds_score("poverty", predicted, columns["y"], columns).value

        probe = RidgeProbe.fit(
            (features[train], dataset.metadata["y"][train]),
            (features[val], dataset.metadata["y"][val]),
            lambda predicted, val=val: score(predicted, val),
        )
        row = next(r for r in rows if r["domain"] == "test")
        assert row["value"] == pytest.approx(score(probe.predict(features[test]), test))
        assert row["score"] == "r, the lower of urban and rural" and row["value"] > 0.7
        values[fold] = row["n"], row["value"]
    assert values["A"] != values["B"]


def test_from_the_images_to_the_table(tmp_path):
    wilds_trees.camelyon17(tmp_path)
    base = dict(size=8, epochs=1, batch_size=8, workers=0, accelerator="cpu")
    base["images"] = str(tmp_path / "camelyon17_v1.0")
    grid = {"base": base, "variants": {"plain": {"ddm.enabled": False}, "ddm": {}}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    text = bench(tmp_path / "grid.yaml", tmp_path / "results")
    record = json.loads((tmp_path / "results" / "plain_none_0.json").read_text())
    (row,) = [
        r
        for r in record["rows"]
        if (r["measure"], r["side"], r["portion"]) == ("wilds", "test", "all")
    ]
    heads, _, cells = (line.split("|") for line in text.splitlines()[4:7])
    assert cells[heads.index(" test: accuracy ")].split()[0] == f"{100 * row['value']:.1f}"


def test_report_and_summary_of_such_a_run(tmp_path):
    wilds_trees.camelyon17(tmp_path)
    settings = PretrainConfig(
        images=str(tmp_path / "camelyon17_v1.0"),
        output=str(tmp_path / "run"),
        size=8,
        epochs=1,
        batch_size=8,
        workers=0,
        accelerator="cpu",
        ddm=ModuleConfig(enabled=False),
    )
    run = pretrain(settings)
    text = summary_table(evaluate(run.path)["rows"])
    lines = [line for line in text.splitlines() if line.startswith("wilds class, accuracy")]
    assert [line.split()[3] for line in lines] == ["id_val", "val", "test"]
    page = write_report([run.path], tmp_path / "report.html").read_text("utf-8")
    said = " ".join(page.split())
    row = next(
        r for r in json.loads(run.results_file.read_text())["rows"]
        if (r["measure"], r["side"], r["portion"]) == ("wilds", "test", "all")
    )  # fmt: skip
    assert (
        f"On the test split of WILDS the official score (accuracy) is {100 * row['value']:.1f}%"
        in said
    )
    assert "read on its other splits by the official score, accuracy" in said
    # They have labels, and all that is tested is of a domain that took no part, whose name no probe
    # could know.
    assert "no labels that a probe" not in said and "No domain was held out" not in said
    assert "finds the domain" not in said
    assert json.loads(run.results_file.read_text())["unseen"] == ["hospital 1", "hospital 2"]
    settings = FinetuneConfig(fractions=(0.05,), steps=1)
    sides = {r["domain"]: r["side"] for r in finetune(run.path, settings)["rows"]}
    assert sides["hospital 2"] == "unseen"
    two = write_report([run.path, copy_of(run.path)], tmp_path / "two.html").read_text("utf-8")
    assert "no paired interval" in two and "evaluated on different images" not in two


def copy_of(run):
    return shutil.copytree(run, run.with_name("other"))


def test_folds_are_povertys(tmp_path):
    wilds_trees.camelyon17(tmp_path)
    settings = dict(output=str(tmp_path / "run"), size=8, splits="B")
    with pytest.raises(DdmError, match="fold"):
        pretrain(PretrainConfig(images=str(tmp_path / "camelyon17_v1.0"), **settings))
    with pytest.raises(DdmError, match="--splits B: a fold of WILDS' poverty, which emoji is not"):
        pretrain(PretrainConfig(images="emoji", **settings))
