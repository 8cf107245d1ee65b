"""Pre-training: what a run leaves, and that an interrupted one ends as if it had not been."""

import csv
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ddm.cli import main
from ddm.config import ModuleConfig, PretrainConfig
from ddm.data.base import Labels
from ddm.data.images import read_image
from ddm.domains import DomainTable
from ddm.errors import DdmError
from ddm.evaluate import evaluate
from ddm.methods import METHODS
from ddm.pretrain import pretrain, resume
from ddm.run_folder import RunFolder
from ddm.settings import optimizer_settings
from ddm.training import Pretraining
from synthetic import make_dataset, write_folder


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


def config(tmp_path, **changes) -> PretrainConfig:
    common = dict(
        output=str(tmp_path / "run"),
        size=32,
        epochs=3,
        batch_size=16,
        accelerator="cpu",
        workers=0,
    )
    return PretrainConfig(**{**common, **changes})


def metrics(run: RunFolder) -> list[dict[str, str]]:
    """The logged rows, without the one column that a clock writes."""
    with open(run.metrics_file, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop("images/s", None)
    return rows


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    weights, others = load_file(one.encoder_file), load_file(other.encoder_file)
    assert weights.keys() == others.keys()
    for name in weights:
        assert torch.equal(weights[name], others[name]), name
    assert metrics(one) == metrics(other)


class Stop(Exception):
    """Stands for whatever ends a run."""


def stop_at(monkeypatch, step: int, stop: type[BaseException] = Stop) -> None:
    whole = Pretraining.training_step

    def broken(self, batch, batch_idx):
        if self.global_step == step:
            raise stop
        return whole(self, batch, batch_idx)

    monkeypatch.setattr(Pretraining, "training_step", broken)


def test_a_run_leaves_its_files(tmp_path, dataset):
    run = pretrain(config(tmp_path, epochs=1), dataset)
    names = {path.name for path in run.path.iterdir()}
    assert names >= {
        "config.yaml",
        "metrics.csv",
        "checkpoints",
        "domains.parquet",
        "encoder.safetensors",
        "load_encoder.py",
        "tensorboard",
    }
    done = subprocess.run(
        [sys.executable, run.path / "load_encoder.py"], capture_output=True, text=True, check=True
    )
    assert "torch.Size([2, 24])" in done.stdout and "torch.Size([2, 168])" in done.stdout
    source = (run.path / "load_encoder.py").read_text()
    assert "import ddm" not in source and "from ddm" not in source


WAYS_TO_STOP = {
    # At which of nine steps, three an epoch; steps between checkpoints besides epochs' ends.
    "middle-of-an-epoch": (4, 0),
    "start-of-an-epoch": (6, 0),
    "from-the-middle": (5, 4),
    "before-any-checkpoint": (1, 0),
    # A step checkpoint that would fall on the last step of an epoch, and a stop right after it.
    "between-two-epochs": (6, 3),
}


@pytest.mark.parametrize(
    ("method", "way"),
    [("simclr", way) for way in WAYS_TO_STOP] + [(name, "from-the-middle") for name in METHODS],
)
def test_resume_equals_no_interruption(tmp_path, dataset, monkeypatch, method, way):
    stop, checkpoint_steps = WAYS_TO_STOP[way]
    # Momentum prototypes are state of the module that is no parameter.
    settings = dict(
        method=method,
        ddm=ModuleConfig(variant="prototypes"),
        checkpoint_steps=checkpoint_steps,
        learning_rate=1e-3,
    )
    whole = pretrain(config(tmp_path / "a", **settings), dataset)
    with monkeypatch.context() as patch:
        stop_at(patch, stop)
        with pytest.raises(Stop):
            pretrain(config(tmp_path / "b", **settings), dataset)
    assert_same_run(whole, resume(tmp_path / "b" / "run", dataset))


def test_killed_and_resumed_equals_no_interruption(tmp_path):
    """SIGKILL from outside, in the middle of an epoch, on images in files."""
    folder = write_folder(tmp_path / "images")
    arguments = [
        "--size", "32", "--epochs", "6", "--batch_size", "16", "--warmup_epochs", "1",
        "--accelerator", "cpu",
    ]  # fmt: skip
    command = [sys.executable, "-m", "ddm", "pretrain", str(folder), *arguments]
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [*command, "--output", str(killed)],
        stderr=subprocess.DEVNULL,
    )
    run = RunFolder(killed)
    deadline = time.time() + 120
    while not run.checkpoint_file.exists():
        assert process.poll() is None and time.time() < deadline, "no checkpoint came"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not run.encoder_file.exists(), "the kill came too late to test anything"
    whole = subprocess.run([*command, "--output", str(tmp_path / "whole")], capture_output=True)
    assert whole.returncode == 0, whole.stderr
    subprocess.run([sys.executable, "-m", "ddm", "resume", str(killed)], check=True)
    assert_same_run(run, RunFolder(tmp_path / "whole"))


def test_without_the_module_the_first_weights_are_the_same(tmp_path, dataset):
    with_it = Pretraining(config(tmp_path), dataset)
    without = Pretraining(config(tmp_path, ddm=ModuleConfig(enabled=False)), dataset)
    assert without.module is None
    for a, b in zip(with_it.method.parameters(), without.method.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_module_is_trained(tmp_path, dataset):
    run = pretrain(config(tmp_path, epochs=4, learning_rate=1.0), dataset)
    variant = [float(r["variant"]) for r in metrics(run) if r["variant"]]
    assert variant[-1] < variant[0]


def test_files_kept_in_memory_train_as_those_read_in_each_epoch(tmp_path, monkeypatch):
    """One process, so that each file that is read counts: the second epoch reads none."""
    monkeypatch.setattr("ddm.data.loading.default_workers", lambda dataset: 0)
    folder = write_folder(tmp_path / "images")
    reads = []

    def counted(*given, **named):
        reads.append(given[0])
        return read_image(*given, **named)

    monkeypatch.setattr("ddm.data.images.read_image", counted)
    runs, counts = [], []
    for workers in (None, 0):
        reads.clear()
        settings = config(tmp_path / str(workers), images=str(folder), epochs=2, workers=workers)
        runs.append(pretrain(settings))
        counts.append(Counter(reads))
    assert_same_run(*runs)
    # Each once to see that it can be read, and once more; the first also for its type.
    assert sorted(counts[0].values())[-2:] == [2, 3]
    assert max(counts[1].values()) == 3 and counts[1].total() > counts[0].total()


def test_dropout_follows_from_other_numbers_than_the_crops(tmp_path, dataset, monkeypatch):
    training = Pretraining(config(tmp_path), dataset)
    monkeypatch.setattr(Pretraining, "global_step", 3)
    monkeypatch.setattr(Pretraining, "global_rank", 0)
    torch.manual_seed(7)
    training.on_train_batch_start(None, 0)
    masks = torch.rand(4)
    crops = torch.rand(4, generator=torch.Generator().manual_seed(training._step_seed()))
    assert not torch.equal(masks, crops)
    training.on_train_batch_start(None, 0)
    assert torch.equal(masks, torch.rand(4))


def test_held_out_domains_and_other_splits_take_no_part(tmp_path, dataset):
    training = Pretraining(config(tmp_path, held_out=["night"]), dataset)
    chosen = training.images.indices
    night = dataset.domains.names.index("night")
    assert night not in dataset.domains.index[chosen]
    assert set(dataset.splits[chosen]) == {"train"}
    assert training.module.num_domains == 2
    # The domains that stay are numbered anew: filled -> 0, outline -> 1, unknown stays unknown.
    for old, new in ((0, 0), (night, -1), (2, 1)):
        assert set(training.domains.index[dataset.domains.index == old]) == {new}
    index = dataset.domains.index.copy()
    index[0] = -1
    unknown = replace(dataset, domains=DomainTable(index, dataset.domains.names))
    training = Pretraining(config(tmp_path, held_out=["night"]), unknown)
    batch = training.on_before_batch_transfer((None, None, torch.tensor([0, len(index) - 1])), 0)
    assert batch[1].tolist() == [-1, 1]


def test_unknown_domains_train(tmp_path, dataset):
    index = dataset.domains.index.copy()
    index[::2] = -1
    half = replace(dataset, domains=DomainTable(index, dataset.domains.names))
    run = pretrain(config(tmp_path, epochs=1), half)
    assert all(np.isfinite(float(r["loss"])) for r in metrics(run) if r["loss"])


def test_ssl_can_see_the_invariant_portion_alone(tmp_path, dataset):
    module = ModuleConfig(ssl_sees="invariant", variant_dim=50)
    training = Pretraining(config(tmp_path, ddm=module), dataset)
    assert training.method.head_start == 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(batch_size=4096), "--batch_size 4096 .* smaller batch"),
        (dict(ddm=ModuleConfig(variant_dim=192)), "variant_dim=192 must lie between 1 and"),
        (dict(held_out=["marble"]), "--held_out marble: no such domain; shapes has filled, night"),
        (dict(held_out=["night", "filled"]), "1 domain to train on .* --ddm.enabled false"),
        (dict(held_out=["night", "night"]), "named twice"),
        (
            dict(held_out=["night", "filled", "outline"]),
            "all domains of shapes are held out; leave",
        ),
        (dict(ddm=ModuleConfig(variant_dim=0)), "variant_dim=0 must lie between"),
        (dict(ddm=ModuleConfig(enabled=False, variant_dim=500)), "variant_dim=500 must lie"),
        (dict(accelerator="gpu"), "finds no GPU"),
        (dict(encoder="inception_v3"), "does not take images of 32 pixels"),
        (dict(method="simcrl"), "'simcrl' is unknown; did you mean simclr"),
        (dict(encoder="resnet19"), "'resnet19' is neither .* did you mean resnet1"),
        (dict(optimizer="adamw"), "give --learning_rate too"),
        (dict(method="moco", method_args={"queue_size": 8}), "queue_size=8 is smaller than .* 16"),
        (
            dict(method_args={"temprature": 0.1}),
            "no setting 'temprature'; did .* temperature",
        ),
        (dict(method_args={"hidden_dim": True}), "hidden_dim=True must be of type int"),
        (dict(method_args={"hidden_dim": 0}), "--method_args: hidden_dim=0 must lie between 1"),
        (dict(method_args={"temperature": -1}), r"temperature=-1 must lie in \[0.001, 100\]"),
        (dict(method_args={"temperature": float("nan")}), "temperature=nan must lie in"),
        (dict(method="byol", method_args={"momentum": 5}), r"momentum=5 must lie in \[0, 1\]"),
        (dict(method="dino", method_args={"local_views": -1}), "local_views=-1 must lie"),
        (dict(method_args=["temperature"]), "must map names to numbers"),
        (
            dict(ddm=ModuleConfig(invariance_args={"temprature": 0.1})),
            "--ddm.invariance_args: instances has no setting 'temprature'; did you mean temp",
        ),
        (
            dict(ddm=ModuleConfig(invariance_args={"temperature": 0})),
            "--ddm.invariance_args: temperature=0 must be a finite number above 0",
        ),
        (
            dict(ddm=ModuleConfig(invariance="neighbours", invariance_args={"memory": 0.5})),
            "--ddm.invariance_args.memory=0.5 must be of type int",
        ),
        (
            dict(ddm=ModuleConfig(variant_args={"momentum": 0.5})),
            "--ddm.variant_args: cross_entropy has no setting 'momentum'; it has none at all",
        ),
        (
            dict(ddm=ModuleConfig(independence="none", independence_args={"x": 1})),
            "--ddm.independence_args: none has no setting 'x'; it has none at all",
        ),
        (
            dict(method="dino", optimizer="sgd", learning_rate=0.1),
            "a schedule of the weight decay .* give --weight_decay too",
        ),
        (dict(method_args={"hidden_dim": 0.5}), "method_args.hidden_dim=0.5 must be of type int"),
        (dict(encoder="vit_small_patch32_224", method="dino"), "not take images of 16 pixels"),
        (dict(method_args={"other_domains": 2}), r"other_domains=2 must lie in \[0, 1\]"),
        (dict(precision="16-mixed"), "--precision 16-mixed is for a GPU; use bf16-mixed"),
        (dict(init="nowhere.pth"), "--init nowhere.pth: neither a file nor a pretrained model"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path, dataset, changes, message, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DdmError, match=message):
        pretrain(config(tmp_path, **changes), dataset)
    assert not (tmp_path / "run").exists()


def test_an_output_that_holds_another_run_is_left_alone(tmp_path, dataset):
    pretrain(config(tmp_path, epochs=1), dataset)
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(DdmError, match="holds another run; continue that one with `ddm resume"):
        pretrain(config(tmp_path, epochs=2), dataset)
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, dataset):
    run = pretrain(config(tmp_path, epochs=1), dataset)
    replace(config(tmp_path, epochs=1), batch_size=8).save(run.config_file)
    with pytest.raises(DdmError, match=r"another configuration .*batch_size: 16 / 8"):
        resume(run.path, dataset)


def test_images_that_changed_are_refused_on_resume(tmp_path, dataset, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(Stop):
            pretrain(config(tmp_path), dataset)
    with pytest.raises(DdmError, match=r"has changed since .* 9 of 108 images are gone, first"):
        resume(tmp_path / "run", make_dataset(each=11))


@pytest.mark.parametrize("domains", ["given", "discover", "shuffled"])
def test_nor_are_images_that_changed_before_the_first_checkpoint(
    tmp_path, dataset, monkeypatch, domains
):
    with monkeypatch.context() as patch:
        stop_at(patch, 0)
        with pytest.raises(Stop):
            pretrain(config(tmp_path, domains=domains), dataset)
    before = (tmp_path / "run" / "domains.parquet").read_bytes()
    with pytest.raises(DdmError, match="has changed since"):
        resume(tmp_path / "run", make_dataset(each=11))
    assert (tmp_path / "run" / "domains.parquet").read_bytes() == before
    assert resume(tmp_path / "run", dataset).encoder_file.exists()


@pytest.mark.parametrize("steps", [0, 4])
def test_images_that_came_later_are_passed_over(tmp_path, dataset, monkeypatch, capsys, steps):
    """To the last digit, whether a checkpoint was written before or not."""
    straight = pretrain(config(tmp_path, epochs=2, output=str(tmp_path / "straight")), dataset)
    with monkeypatch.context() as patch:
        stop_at(patch, steps)
        with pytest.raises(Stop):
            pretrain(config(tmp_path, epochs=2), dataset)
    run = resume(tmp_path / "run", grown(dataset))
    assert "shapes holds 9 more images than when" in capsys.readouterr().err
    assert run.encoder_file.read_bytes() == straight.encoder_file.read_bytes()
    assert evaluate(run.path, grown(dataset))["rows"] == evaluate(straight.path, dataset)["rows"]


def grown(dataset):
    """More images of each domain, between the others, and a domain and a class of their own."""
    more = make_dataset(each=13)
    new = ~np.isin(list(more.keys), list(dataset.keys))
    domains = np.array(more.domains.names)[more.domains.index]
    domains[np.flatnonzero(new)[0]] = "a new one"
    classes = np.array(more.labels["class"].names)[more.labels["class"].index]
    classes[np.flatnonzero(new)[1]] = "a new one"
    return replace(
        more,
        domains=DomainTable.from_names(list(domains)),
        labels={"class": Labels.from_names(list(classes))},
    )


def test_one_is_told_of_domains_too_many_for_the_batch(tmp_path, dataset, capsys):
    def told(**changes):
        pretrain(config(tmp_path, epochs=0, **changes), domains)
        return "only ones of their domain" in capsys.readouterr().err

    many = DomainTable.from_names([f"{i % 27:02}" for i in range(len(dataset))])
    domains = replace(dataset, domains=many)
    assert told(output=str(tmp_path / "a"))
    assert not told(output=str(tmp_path / "b"), ddm=ModuleConfig(invariance="coral"))
    assert not told(output=str(tmp_path / "c"), images_per_domain=4)
    domains = dataset
    assert not told(output=str(tmp_path / "d"))


def test_resumed_where_images_of_a_domain_are_drawn_together(tmp_path, dataset, monkeypatch):
    settings = config(tmp_path, epochs=2, images_per_domain=4)
    straight = pretrain(replace(settings, output=str(tmp_path / "straight")), dataset)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(Stop):
            pretrain(replace(settings, checkpoint_steps=1), dataset)
    run = resume(tmp_path / "run", dataset)
    assert run.encoder_file.read_bytes() == straight.encoder_file.read_bytes()
    other = pretrain(config(tmp_path, epochs=2, output=str(tmp_path / "other")), dataset)
    assert run.encoder_file.read_bytes() != other.encoder_file.read_bytes()


def test_a_table_of_domains_that_is_gone_is_not_waited_for(tmp_path, dataset, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(Stop):
            pretrain(config(tmp_path, domains="shuffled"), dataset)
    (tmp_path / "run" / "pseudo_domains.parquet").unlink()
    with pytest.raises(DdmError, match=r"pseudo_domains\.parquet"):
        resume(tmp_path / "run", dataset)


def test_workers_are_not_negative():
    with pytest.raises(DdmError, match="workers=-1 must not be negative"):
        PretrainConfig(workers=-1)


def test_a_loss_that_is_not_finite_names_the_term_and_keeps_the_checkpoint(
    tmp_path, dataset, monkeypatch
):
    whole = torch.nn.Module.__call__

    def poisoned(self, *args, **kwargs):
        output = whole(self, *args, **kwargs)
        if type(self).__name__ == "CrossCorrelationIndependence" and poisoned.calls == 5:
            output = output * float("nan")
        poisoned.calls += type(self).__name__ == "CrossCorrelationIndependence"
        return output

    poisoned.calls = 0
    monkeypatch.setattr(torch.nn.Module, "__call__", poisoned)
    with pytest.raises(DdmError, match="not finite at step 5: independence; lower") as refused:
        pretrain(config(tmp_path), dataset)
    images = json.loads(str(refused.value).split("rows of domains.parquet): ")[1])
    assert len(set(images)) == 16 and all(dataset.splits[images] == "train")
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3


def test_settings_of_the_optimizer_come_from_the_method(tmp_path):
    settings = optimizer_settings(config(tmp_path, method="byol"))
    assert (settings.name, settings.learning_rate, settings.weight_decay) == ("lars", 0.2, 1.5e-6)
    settings = optimizer_settings(config(tmp_path, optimizer="sgd", learning_rate=0.06))
    assert (settings.name, settings.learning_rate) == ("sgd", 0.06)


def test_the_epochs_end_is_saved_once_it_is_whole(tmp_path, dataset, monkeypatch):
    """Stopped between an epoch's last step and its end, the epoch is not taken for done."""
    settings = dict(checkpoint_steps=3, epochs=4)
    whole = pretrain(config(tmp_path / "a", **settings), dataset)
    with monkeypatch.context() as patch:

        def stop(self):
            if self.current_epoch == 1:
                raise Stop

        patch.setattr(Pretraining, "on_train_epoch_end", stop)
        with pytest.raises(Stop):
            pretrain(config(tmp_path / "b", **settings), dataset)
    again = resume(tmp_path / "b" / "run", dataset)
    weights, others = load_file(whole.encoder_file), load_file(again.encoder_file)
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_images_smaller_than_the_views_are_told_of(tmp_path, dataset, capsys):
    pretrain(config(tmp_path, epochs=1), replace(dataset, enlarged=5))
    said = f"5 of {len(dataset)} images have fewer pixels than the views (32 a side)"
    assert said in capsys.readouterr().err


def test_few_steps_at_the_own_learning_rate_are_told_of(tmp_path, dataset, monkeypatch, capsys):
    said = "steps in all, and simclr's own learning rate"
    pretrain(config(tmp_path / "a", epochs=1, learning_rate=None), dataset)
    found = [line for line in capsys.readouterr().err.splitlines() if said in line]
    steps = pd.read_csv(tmp_path / "a" / "run" / "metrics.csv")["step"].max() + 1
    assert len(found) == 1 and f" {steps:.0f} {said}" in found[0]
    pretrain(config(tmp_path / "b", epochs=1, learning_rate=1.0), dataset)
    monkeypatch.setattr("ddm.pretrain.FEW_STEPS", 1)
    pretrain(config(tmp_path / "c", epochs=1, learning_rate=None), dataset)
    assert said not in capsys.readouterr().err


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_one_image_is_refused(method):
    kind = METHODS[method]
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 6))
    with pytest.raises(ValueError, match="a batch of 1 image: batch norm and negatives need two"):
        kind(encoder, 6)([torch.rand(1, 3, 2, 2)] * 2)
    with pytest.raises(ValueError, match=r"needs two views.* of each image, not 1"):
        kind(encoder, 6)([torch.rand(4, 3, 2, 2)])
    # A third would be taken for other images' views; DINO has local ones.
    if method != "dino":
        with pytest.raises(ValueError, match="needs two views of each image, not 3"):
            kind(encoder, 6)([torch.rand(4, 3, 2, 2)] * 3)


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / "images")
    stop_at(monkeypatch, 6, KeyboardInterrupt)
    arguments = ["--size", "32", "--epochs", "3", "--batch_size", "16", "--accelerator", "cpu"]
    assert main(["pretrain", str(folder), "-o", str(tmp_path / "run"), *arguments]) == 130
    assert f"`ddm resume {tmp_path / 'run'}` continues it" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_views_and_domain_aware_negatives_change_the_run(tmp_path, dataset):
    losses = {}
    for name, changes in {
        "plain": {},
        "style": {"shared_style": 0.5},
        "edges": {"edges": 0.5},
        "negatives": {"method_args": {"other_domains": 0.0}},
    }.items():
        changes |= {"output": str(tmp_path / name), "epochs": 1}
        settings = config(tmp_path, ddm=ModuleConfig(enabled=False), **changes)
        losses[name] = metrics(pretrain(settings, dataset))[0]["loss"]
    assert len(set(losses.values())) == 4
    # Fewer images to tell apart: less than half of them are of the own domain.
    assert float(losses["negatives"]) < float(losses["plain"]) - 0.5


def test_domain_aware_negatives_need_two_domains_without_the_module_too(tmp_path, dataset):
    settings = config(
        tmp_path,
        ddm=ModuleConfig(enabled=False),
        method_args={"other_domains": 0.0},
        held_out=["night", "outline"],
    )
    with pytest.raises(DdmError, match=r"\(filled\), .*domain-aware negatives need two"):
        pretrain(settings, dataset)


def test_a_renamed_domain_is_not_lost_silently(tmp_path, dataset):
    run = pretrain(config(tmp_path, epochs=1), dataset)
    renamed = DomainTable(dataset.domains.index, ("filled2", "night", "outline"))
    with pytest.raises(DdmError, match="no domain filled any more"):
        run.with_saved_domains(replace(dataset, domains=renamed))


def test_one_domain_in_the_training_split_is_refused(tmp_path, dataset):
    splits = np.where(dataset.domains.index == 0, "train", "test")
    with pytest.raises(DdmError, match="1 domain to train on"):
        pretrain(config(tmp_path), replace(dataset, splits=splits))


def test_the_pull_of_the_module_is_logged_and_a_weak_one_told_once(tmp_path, dataset, capsys):
    run = pretrain(config(tmp_path), dataset)
    ratios = [float(row["gradient_ratio"]) for row in metrics(run) if row["gradient_ratio"]]
    assert len(ratios) == 3 and min(ratios) > 0.05
    assert "hardly counts" not in capsys.readouterr().err
    weak = ModuleConfig(variant_weight=1e-5, invariance_weight=1e-5, independence_weight=1e-5)
    run = pretrain(config(tmp_path / "weak", ddm=weak), dataset)
    ratios = [float(row["gradient_ratio"]) for row in metrics(run) if row["gradient_ratio"]]
    assert min(ratios) > 0 and max(ratios) < 1e-3
    said = [line for line in capsys.readouterr().err.splitlines() if "hardly counts" in line]
    assert len(said) == 1 and "--ddm.invariance_weight" in said[0]
    plain = pretrain(config(tmp_path / "plain", ddm=ModuleConfig(enabled=False)), dataset)
    assert "gradient_ratio" not in metrics(plain)[0]


def test_collapse_is_told_while_it_happens(tmp_path, dataset, monkeypatch, capsys):
    class Constant(torch.nn.Linear):
        """An encoder that gives every image the same features."""

        def forward(self, x):
            return super().forward(torch.ones(len(x), 1)) + 0 * x.mean()

    monkeypatch.setattr("ddm.training.build_encoder", lambda spec: (Constant(1, 16), 16))
    monkeypatch.setattr("ddm.pretrain.save_encoder", lambda *arguments: None)
    pretrain(config(tmp_path, epochs=4), dataset)
    warned = [
        line for line in capsys.readouterr().err.splitlines() if "ddm: warning: epoch" in line
    ]
    assert len(warned) == 3 and "epoch 1" in warned[0] and "is collapsing" in warned[0]


def test_a_healthy_run_is_not_called_collapsed(tmp_path, dataset, capsys):
    pretrain(config(tmp_path, epochs=4), dataset)
    assert "collapsing" not in capsys.readouterr().err
