"""Label fractions, and supervised learning as one of them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ddm.finetune as finetuning
from ddm.cli import main
from ddm.config import FinetuneConfig, ModuleConfig, PretrainConfig
from ddm.domains import DomainTable
from ddm.errors import DdmError
from ddm.finetune import Finetuner, finetune, label_share
from ddm.objectives import DomainBatch
from ddm.pretrain import pretrain
from synthetic import make_dataset, write_folder

QUICK = FinetuneConfig(
    fractions=(0.05, 1.0), steps=20, batch_size=16, learning_rates=(1e-3,), invariance="coral"
)


@pytest.fixture(scope="module")
def dataset():
    return make_dataset(each=30)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    config = PretrainConfig(
        output=str(tmp_path_factory.mktemp("runs") / "run"),
        held_out=["outline"],
        size=32,
        epochs=0,
        batch_size=16,
        accelerator="cpu",
        ddm=ModuleConfig(enabled=False),
    )
    return pretrain(config, dataset)


@given(
    classes=st.lists(st.integers(0, 4), min_size=1, max_size=80),
    fractions=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)),
    seed=st.integers(0, 5),
)
def test_smaller_shares_are_contained_in_larger_ones(classes, fractions, seed):
    classes = np.array(classes)
    small, large = (set(label_share(classes, f, seed)) for f in sorted(fractions))
    assert small <= large
    for number in np.unique(classes):
        mine = (classes == number).sum()
        assert (classes[list(small)] == number).sum() == max(1, round(min(fractions) * mine))
    assert set(label_share(classes, 1.0, seed)) == set(range(len(classes)))


def test_rows_of_heads_and_of_fine_tuning(run, dataset):
    results = finetune(run.path, QUICK, dataset)
    keys = {(r["measure"], r["trained_on"], r["side"], r["domain"]) for r in results["rows"]}
    assert ("head", "seen 5%", "unseen", "outline") in keys
    assert ("finetune", "seen 100%", "seen", "mean") in keys
    assert not any(measure == "head" and share == "seen 100%" for measure, share, _, _ in keys)
    written = json.loads((run.path / "finetune.json").read_text())
    assert written["rows"] == results["rows"] and written["finetune"]["invariance"] == "coral"
    again = finetune(run.path, QUICK, dataset)
    assert again["rows"] == results["rows"]


def test_all_labels_teach_what_random_weights_do_not_know(run, dataset):
    config = FinetuneConfig(fractions=(1.0,), steps=150, batch_size=32, learning_rates=(5e-3,))
    rows = finetune(run.path, config, dataset)["rows"]
    seen = next(r for r in rows if (r["side"], r["domain"]) == ("seen", "mean"))
    train, tests = (dataset.labels["class"].index[dataset.splits == s] for s in ("train", "test"))
    assert seen["chance"] == np.mean(tests == np.bincount(train).argmax())
    assert seen["value"] > 0.6


def test_the_learning_rate_is_chosen_on_validation_images(dataset):
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 8))
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    config = FinetuneConfig(steps=4, batch_size=8, learning_rates=(1e-9, 1e-3))
    tuner = Finetuner(encoder, 8, dataset, "class", 32, config)
    scores = {}

    def stub(self, rate, train, validation):
        scores[rate] = {1e-9: 0.9, 1e-3: 0.3}[rate]
        return scores[rate], rate

    original, Finetuner._at = Finetuner._at, stub
    try:
        assert tuner.run(np.arange(8), np.arange(8)) == 1e-9
    finally:
        Finetuner._at = original
    assert set(scores) == {1e-9, 1e-3}
    tuner.run(np.arange(16), np.arange(16))
    # The encoder that was handed over is the starting point of each run: it stays as it was.
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_without_validation_images_the_last_weights_are_kept(dataset):
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 8))
    config = FinetuneConfig(steps=3, batch_size=8, learning_rates=(1e-2,))
    model = Finetuner(encoder, 8, dataset, "class", 32, config).run(
        np.arange(16), np.empty(0, np.int64)
    )
    assert not torch.equal(model.encoder[1].weight, encoder[1].weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(fractions=(0.0,)), r"fractions=\(0.0,\) must lie in \(0, 1\]"),
        (dict(fractions=()), "must lie in"),
        (dict(learning_rates=(-1.0,)), "must be positive"),
        (dict(steps=0), "steps=0"),
        (dict(seed=-1), "seed=-1 must not be negative"),
        (dict(weight_decay=-1.0), "weight_decay=-1.0 must not be negative"),
        (dict(invariance_weight=float("nan")), "invariance_weight=nan must be a finite number"),
        (dict(invariance="instances"), "fine-tuning has one view only; choose adversarial"),
        (dict(invariance="corral"), "'corral' is unknown; choose one of adversarial"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(DdmError, match=message):
        FinetuneConfig(**changes)


def test_a_rate_that_diverges_is_named(run, dataset):
    config = FinetuneConfig(fractions=(1.0,), steps=30, learning_rates=(1e30,))
    with pytest.raises(DdmError, match=r"not finite at step .* lower learning_rates \(1e\+30\)"):
        finetune(run.path, config, dataset)


def test_the_command_line(tmp_path, capsys):
    images = write_folder(tmp_path / "images", each=12)
    arguments = [
        "--size",
        "16",
        "--epochs",
        "0",
        "--batch_size",
        "16",
        "--accelerator",
        "cpu",
        "--held_out",
        "outline",
    ]
    assert main(["pretrain", str(images), "-o", str(tmp_path / "run"), *arguments]) == 0
    options = ["--fractions", "[0.05, 0.5]", "--steps", "3", "--learning_rates", "[0.001]"]
    assert main(["finetune", str(tmp_path / "run"), *options]) == 0
    printed = capsys.readouterr().out
    assert "head      seen 5%    unseen" in printed and "finetune  seen 50%   seen" in printed
    assert main(["finetune", str(tmp_path / "run"), "--fractions", "[2]"]) == 2


def test_what_was_trained_on_without_labels_is_not_unseen(tmp_path, dataset):
    """Under train_split "all": as a manifest may say whose column `split` holds `test` for it."""
    outline = dataset.domains.index == dataset.domains.names.index("outline")
    apart = replace(dataset, splits=np.where(outline, "test", dataset.splits))
    config = PretrainConfig(
        output=str(tmp_path / "run"), size=32, epochs=0, batch_size=16, accelerator="cpu",
        train_split="all", ddm=ModuleConfig(enabled=False),
    )  # fmt: skip
    results = finetune(pretrain(config, apart).path, FinetuneConfig(fractions=(0.05,)), apart)
    assert results["unseen"] == []
    read_on = {row["domain"]: row["side"] for row in results["rows"]}
    assert read_on["outline"] == "seen"


def test_the_callers_random_numbers_go_on_and_unknown_domains_are_none(dataset):
    index = np.where(np.arange(len(dataset)) % 3 == 0, -1, dataset.domains.index)
    some = replace(dataset, domains=DomainTable(index, dataset.domains.names))
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 8))
    config = FinetuneConfig(steps=2, batch_size=8, learning_rates=(1e-3,), invariance="coral")
    asked = []

    def watched(domains, num_domains):
        asked.append((domains, num_domains))
        return DomainBatch.from_index(domains, num_domains)

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "DomainBatch", SimpleNamespace(from_index=watched))
        Finetuner(encoder, 8, some, "class", 32, config).run(np.arange(len(some)), np.arange(8))
    assert torch.equal(torch.rand(3), expected)
    assert {k for _, k in asked} == {3}
    assert {-1} < set(torch.cat([d for d, _ in asked]).tolist()) <= {-1, 0, 1, 2}
