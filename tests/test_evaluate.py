"""Evaluation of a run: what is measured on what, and that it leaks nothing."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from ddm.config import ModuleConfig, PretrainConfig
from ddm.data.base import Labels
from ddm.domains import DomainTable
from ddm.embed import embed
from ddm.errors import DdmError
from ddm.evaluate import evaluate, split_hashes, summary_table, untrained_domains
from ddm.pretrain import pretrain
from ddm.probe import LinearProbe
from ddm.protocols import SeenUnseen, standardize_domains
from ddm.run_folder import RunFolder
from synthetic import make_dataset


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


def find(rows, **keys):
    found = [r for r in rows if all(r[k] == v for k, v in keys.items())]
    assert len(found) == 1, (keys, len(found))
    return found[0]


def test_hashes_of_splits_follow_names_and_domains_alone(dataset):
    hashes = split_hashes(dataset)
    assert len(set(hashes.values())) == 3
    order = np.random.default_rng(0).permutation(len(dataset))
    shuffled = replace(
        dataset,
        keys=tuple(dataset.keys[i] for i in order),
        domains=dataset.domains.subset(order),
        splits=dataset.splits[order],
        groups=dataset.groups[order],
        labels={},
        instances=None,
    )
    assert split_hashes(shuffled) == hashes
    one = np.flatnonzero(dataset.splits == "test")[0]
    moved = dataset.splits.copy()
    moved[one] = "val"
    changed = split_hashes(replace(dataset, splits=moved))
    assert changed["train"] == hashes["train"] and changed["test"] != hashes["test"]


def test_a_run_is_evaluated_on_all_portions(tmp_path, dataset):
    config = PretrainConfig(
        output=str(tmp_path / "run"), size=32, epochs=1, batch_size=16, warmup_epochs=0,
        held_out=["outline"], accelerator="cpu", ddm=ModuleConfig(variant_dim=40),
    )  # fmt: skip
    run = pretrain(config, dataset)
    results = evaluate(run.path, dataset)
    assert json.loads(run.results_file.read_text()) == json.loads(json.dumps(results))
    assert (results["feature_dim"], results["variant_dim"]) == (192, 40)
    portions = {"all", "invariant", "variant", "whitened", "standardized"}
    assert {r["portion"] for r in results["rows"]} == portions
    assert {r["measure"] for r in results["rows"]} == {
        "linear", "linear_balanced", "linear_validation", "knn", "knn_balanced", "retrieval",
        "leakage",
    }  # fmt: skip
    for r in results["rows"]:
        assert 0 <= r["low"] <= r["value"] <= r["high"] <= 1, r
    assert {r["domain"] for r in results["rows"] if r["side"] == "unseen"} == {
        "outline", "mean", "pooled", "worst",
    }  # fmt: skip
    answers = pd.read_parquet(run.predictions_file)
    key = dict(measure="linear", portion="all", side="unseen", trained_on="seen", domain="outline")
    mine = answers[(answers[list(key)] == pd.Series(key)).all(axis=1)]
    assert mine["right"].mean() == find(results["rows"], **key)["value"]
    assert set(dataset.splits[mine["sample"]]) == {"test"}
    again = evaluate(run.path, dataset)
    assert again["rows"] == results["rows"]
    # The map that whitens is fitted to training images of seen domains.
    features = np.load(run.features_file)
    training = np.flatnonzero(
        (dataset.domains.index != dataset.domains.names.index("outline"))
        & (dataset.splits == "train")
    )
    fitted = load_file(run.whitening_file)
    np.testing.assert_allclose(fitted["mean"], features[training].mean(0), rtol=1e-4, atol=1e-6)
    whitened = (features - fitted["mean"]) @ fitted["matrix"]
    expected = SeenUnseen(dataset, ("outline",)).evaluate({"whitened": whitened})
    assert [r for r in results["rows"] if r["portion"] == "whitened"] == expected
    values = {p: [r["value"] for r in results["rows"] if r["portion"] == p] for p in portions}
    assert values["whitened"] != values["all"]
    script = run.path / "load_encoder.py"
    names = {"__file__": str(script)}
    exec(compile(script.read_text(), script.name, "exec"), names)
    assert names["whitened"].shape == (2, 192)
    table = summary_table(results["rows"])
    assert "linear class, trained on own" in table and "unseen" in table


def test_perfect_and_useless_features_are_told_apart(dataset):
    """Portion a holds the class, portion b the domain; each probe finds what is there."""
    rng = np.random.default_rng(0)
    noise = lambda: 0.1 * rng.standard_normal((len(dataset), 3)).astype(np.float32)  # noqa: E731
    eye = np.eye(3, dtype=np.float32)
    portions = {
        "a": eye[dataset.labels["class"].index] + noise(),
        "b": eye[dataset.domains.index] + noise(),
    }
    rows = SeenUnseen(dataset, ("night",)).evaluate(portions)
    common = dict(domain="mean")
    for measure in ("linear", "knn"):
        for side in ("seen", "unseen"):
            key = dict(measure=measure, side=side, trained_on="seen", **common)
            assert find(rows, portion="a", **key)["value"] == 1
            assert find(rows, portion="b", **key)["value"] < 0.7
    assert find(rows, measure="leakage", portion="b", **common)["value"] == 1
    assert find(rows, measure="leakage", portion="a", **common)["value"] < 0.8


def test_standardizing_takes_place_and_scale_of_a_domain_out(dataset):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((len(dataset), 3)).astype(np.float32)
    features[:, 2] = dataset.domains.index  # Dead in each domain.
    moved = features * [1, 5, 1] + np.array([0, 9, 0])
    moved = np.where((dataset.domains.index == 1)[:, None], moved, features).astype(np.float32)
    expected = np.empty_like(features)
    for domain in range(3):
        members = np.flatnonzero(dataset.domains.index == domain)
        training = [features[i] for i in members if dataset.splits[i] == "train"]
        mean, deviation = np.mean(training, 0), np.std(training, 0)
        deviation[2] = features[dataset.splits == "train", 2].std()
        expected[members] = (features[members] - mean) / deviation
    for each in (features, moved):
        np.testing.assert_allclose(standardize_domains(each, dataset), expected, atol=1e-4)
    assert (expected[:, 2] == 0).all()
    # Images of unknown domain have the mean of all; a domain without a mean of its own has none.
    index = np.where(dataset.domains.index == 2, -1, dataset.domains.index)
    two = replace(dataset, domains=DomainTable(index, dataset.domains.names[:2]))
    found = standardize_domains(features, two)[index < 0]
    training = features[dataset.splits == "train"]
    np.testing.assert_allclose(
        found[:, :2], ((features - training.mean(0)) / training.std(0))[index < 0, :2], atol=1e-4
    )
    lonely = np.where(
        (dataset.domains.index == 2) & (dataset.splits == "train"), "val", dataset.splits
    )
    assert standardize_domains(features, replace(dataset, splits=lonely)) is None
    untrained = np.full_like(dataset.splits, "test")
    assert standardize_domains(features, replace(dataset, splits=untrained)) is None


def test_retrieval_finds_the_same_thing_in_the_other_domains(dataset):
    one_hot = np.eye(dataset.instances.max() + 1, dtype=np.float32)[dataset.instances]
    rows = SeenUnseen(dataset, ("night",)).evaluate({"all": one_hot})
    for side in ("seen", "unseen"):
        r = find(rows, measure="retrieval", side=side, domain="mean")
        tests = (dataset.splits == "test").sum() // 3
        # Each seen domain looks in the one other, the unseen one looks in both.
        assert r["value"] == 1 and r["n"] == tests * 2
        assert r["chance"] == pytest.approx(1 / tests)


def test_chance_of_retrieval_where_things_have_several_pictures(dataset):
    few = replace(dataset, instances=dataset.instances % 4)
    noise = np.random.default_rng(0).normal(size=(len(dataset), 5)).astype(np.float32)
    rows = SeenUnseen(few, ("night",)).evaluate({"all": noise})
    tests = dataset.splits == "test"
    seen = [np.flatnonzero(tests & (dataset.domains.index == d)) for d in (0, 1, 2)]
    seen = [of for of in seen if dataset.domains.names[dataset.domains.index[of[0]]] != "night"]
    one, other = (few.instances[of] for of in seen)
    shares = [(query == gallery[:, None]).mean() for query, gallery in ((one, other), (other, one))]
    r = find(rows, measure="retrieval", side="seen", domain="mean")
    assert r["chance"] == pytest.approx(np.mean(shares)) and r["chance"] > 0.2


def test_pooled_leakage_has_the_chance_of_the_largest_domain(dataset):
    index = np.where(np.arange(len(dataset)) % 10 == 0, 1, 0)
    unequal = replace(dataset, domains=DomainTable(index, ("large", "small")))
    nothing = np.zeros((len(dataset), 3), np.float32)
    rows = [r for r in SeenUnseen(unequal, ()).evaluate({"all": nothing}) if r["label"] == "domain"]
    pooled, mean = (find(rows, domain=name) for name in ("pooled", "mean"))
    assert pooled["chance"] == pytest.approx(pooled["value"])
    assert pooled["chance"] == np.mean(index[dataset.splits == "test"] == 0) > 0.8
    assert mean["chance"] == mean["value"] == 0.5


def test_a_domain_that_no_image_was_trained_on_is_unseen(tmp_path, dataset, capsys):
    """As a manifest may say whose column `split` holds `test` alone for it."""
    outline = dataset.domains.index == dataset.domains.names.index("outline")
    apart = replace(dataset, splits=np.where(outline, "test", dataset.splits))
    config = PretrainConfig(
        output=str(tmp_path / "run"), size=32, epochs=1, batch_size=16, warmup_epochs=0,
        accelerator="cpu", ddm=ModuleConfig(variant_dim=40),
    )  # fmt: skip
    results = evaluate(pretrain(config, apart).path, apart)
    assert results["unseen"] == ["outline"]
    assert "no figures of standardised features" in capsys.readouterr().err
    rows = [r for r in results["rows"] if r["measure"] in ("linear", "retrieval")]
    unseen = {r["domain"] for r in rows if r["side"] == "unseen"}
    assert unseen == {"outline", "mean", "pooled", "worst"}
    assert {r["domain"] for r in rows if r["side"] == "seen"} >= {"filled", "night"}
    assert not [r for r in rows if r["side"] == "seen" and r["domain"] == "outline"]
    # With all splits to train on, it is not.
    everything = replace(config, output=str(tmp_path / "all"), train_split="all")
    assert untrained_domains(everything, apart) == ()


def test_chance_is_the_largest_class_and_of_balanced_accuracy_one_of_all(dataset):
    """Features that say nothing get it: more than one over their number, where they are unequal."""
    given = dataset.labels["class"]
    merged = Labels(np.minimum(given.index, 1), given.names[:2])
    unequal = replace(dataset, labels={"class": merged})
    nothing = np.zeros((len(dataset), 3), np.float32)
    rows = SeenUnseen(unequal, ("night",)).evaluate({"all": nothing})
    tests = merged.index[dataset.splits == "test"]
    for side in ("seen", "unseen"):
        r = find(rows, measure="linear", trained_on="seen", side=side, domain="mean")
        assert r["chance"] == pytest.approx(r["value"]) == np.mean(tests == 1) > 0.5
        r = find(rows, measure="linear_balanced", trained_on="seen", side=side, domain="mean")
        assert r["chance"] == r["value"] == 0.5


def test_chance_of_a_probe_on_the_unseen_domain_is_that_of_its_own_labels(dataset):
    given = dataset.labels["class"]
    night = dataset.domains.index == dataset.domains.names.index("night")
    # Mostly the first class there, mostly the second elsewhere.
    index = np.where(night, np.maximum(given.index - 1, 0), np.minimum(given.index, 1))
    labels = {"class": Labels(index, given.names[:2])}
    nothing = np.zeros((len(dataset), 3), np.float32)
    rows = SeenUnseen(replace(dataset, labels=labels), ("night",)).evaluate({"all": nothing})
    tests = index[night & (dataset.splits == "test")]
    for trained_on, answer in (("seen", 1), ("own", 0)):
        r = find(rows, measure="linear", trained_on=trained_on, side="unseen", domain="night")
        assert r["chance"] == pytest.approx(r["value"]) == np.mean(tests == answer) != 0.5


def test_domains_without_training_images_are_not_asked_for(dataset):
    # As in WILDS, whose test split is of domains that no other split has.
    night = dataset.domains.index == dataset.domains.names.index("night")
    apart = replace(dataset, splits=np.where(night, "test", dataset.splits))
    features = np.eye(3, dtype=np.float32)[dataset.domains.index]
    rows = [r for r in SeenUnseen(apart, ()).evaluate({"all": features}) if r["label"] == "domain"]
    assert {r["domain"] for r in rows} == {"filled", "outline", "mean", "pooled", "worst"}
    assert {r["value"] for r in rows} == {1} and {r["chance"] for r in rows} == {1 / 2}


def test_what_runs_are_chosen_by_is_the_probe_on_validation_images_of_seen_domains(dataset):
    rng = np.random.default_rng(0)
    features = 0.6 * rng.standard_normal((len(dataset), 3)).astype(np.float32)
    features += np.eye(3, dtype=np.float32)[dataset.labels["class"].index]
    # Of images to test, and of the unseen domain, anything may be said.
    other = features.copy()
    other[(dataset.splits == "test") | (dataset.domains.index == 2)] = 0
    unseen = dataset.domains.names[2]

    def chosen_by(features):
        rows = SeenUnseen(dataset, (unseen,)).evaluate({"all": features})
        return [r for r in rows if r["measure"] == "linear_validation"]

    rows = chosen_by(features)
    assert rows == chosen_by(other)
    assert {r["side"] for r in rows} == {"seen"}
    classes = dataset.labels["class"].index
    seen = dataset.domains.index < 2
    train, val = (np.flatnonzero(seen & (dataset.splits == s)) for s in ("train", "val"))
    probe = LinearProbe.fit((features[train], classes[train]), (features[val], classes[val]))
    right = probe.predict(features[val]) == classes[val]
    for domain in (0, 1):
        value = right[dataset.domains.index[val] == domain].mean()
        assert find(rows, domain=dataset.domains.names[domain])["value"] == value
    assert 0.4 < right.mean() < 1


def test_the_unseen_domain_plays_no_part_in_any_choice(dataset):
    """Scrambling its training images and labels changes nothing but its own probe."""
    rng = np.random.default_rng(1)
    features = rng.standard_normal((len(dataset), 8)).astype(np.float32)
    features[:, :3] += 2 * np.eye(3)[dataset.labels["class"].index]
    spoilt = features.copy()
    training = dataset.select(("night",), ("train", "val"))
    spoilt[training] = rng.standard_normal((len(training), 8))
    before = SeenUnseen(dataset, ("night",)).evaluate({"all": features})
    after = SeenUnseen(dataset, ("night",)).evaluate({"all": spoilt})
    kept = [r for r in before if r["trained_on"] != "own"]
    assert kept == [r for r in after if r["trained_on"] != "own"] and len(kept) < len(before)


def test_without_labels_and_things_only_leakage_is_left(dataset):
    bare = replace(dataset, labels={}, instances=None)
    rows = SeenUnseen(bare, ()).evaluate({"all": np.eye(3, dtype=np.float32)[bare.domains.index]})
    assert {r["measure"] for r in rows} == {"leakage"}
    assert find(rows, domain="mean")["value"] == 1


def test_features_are_stored_once_and_again_for_another_encoder(tmp_path, dataset):
    class Mean(torch.nn.Module):
        calls = 0

        def forward(self, x):
            Mean.calls += 1
            return x.mean((2, 3))

    store = tmp_path / "features.npy"
    first = embed(Mean(), dataset, 32, store, "one")
    calls = Mean.calls
    assert first.shape == (len(dataset), 3) and isinstance(first, np.memmap)
    assert np.array_equal(embed(Mean(), dataset, 32, store, "one"), first) and Mean.calls == calls
    embed(Mean(), dataset, 32, store, "two")
    assert Mean.calls == 2 * calls
    # A note that a full disk cut short is no reason to give up.
    store.with_suffix(".json").write_text("")
    assert np.array_equal(embed(Mean(), dataset, 32, store, "two"), first)
    assert Mean.calls == 3 * calls


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x.mean((2, 3)) / 0, "not finite"),
        (lambda x: x, r"shape \(108, 3, 32, 32\), not \(N, D\)"),
    ],
)
def test_bad_features_are_refused_and_leave_nothing(tmp_path, dataset, forward, message):
    encoder = torch.nn.Identity()
    encoder.forward = forward
    with pytest.raises(DdmError, match=message):
        embed(encoder, dataset, 32, tmp_path / "features.npy", "x")
    assert list(tmp_path.iterdir()) == []


def test_the_splits_of_the_run_are_kept(tmp_path, dataset):
    """Were the splits drawn anew, training images could end up in the test."""
    run = RunFolder(tmp_path)
    run.save_domains(dataset)
    moved = replace(dataset, splits=np.roll(dataset.splits, 7))
    assert (run.with_saved_domains(moved).splits == dataset.splits).all()
