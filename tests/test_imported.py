"""Methods and objectives of one's own, named by where they are imported from."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from ddm.cli import main
from ddm.config import ModuleConfig, PretrainConfig
from ddm.errors import DdmError
from ddm.export import load_encoder
from ddm.pretrain import pretrain
from ddm.settings import objective
from synthetic import make_dataset, write_folder
from test_pretrain import config

MODULE = '''
from torch import nn
from ddm.methods import SimSiam


class Louder(SimSiam):
    def step(self, views):
        output = super().step(views)
        return type(output)(2 * output.loss, output.features)


class Small(nn.Module):
    """Pulls the portion towards zero, which its standardisation keeps it from."""

    def __init__(self, width, num_domains, start=3):
        super().__init__()
        self.asked = width, num_domains
        self.scale = nn.Parameter(start * __import__("torch").ones(()))

    def forward(self, portion, batch):
        return self.scale.square() + 0 * portion.sum()


class Fussy(nn.Module):
    def __init__(self, width, num_domains, start=1):
        super().__init__()
        if start < 0:
            raise ValueError("start must be positive")
        len(start)


class Apart(nn.Module):
    def forward(self, variant, invariant, batch):
        return (variant.T @ invariant).square().mean()


def nothing(*_):
    return None
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine_of_the_tests.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "mine_of_the_tests"


def test_a_method_and_objectives_of_ones_own(tmp_path, mine):
    module = ModuleConfig(invariance=f"{mine}:Small", independence=f"{mine}:Apart")
    dataset = make_dataset()
    settings = config(tmp_path, method=f"{mine}:Louder", ddm=module)
    run = pretrain(settings, dataset)
    logged = pd.read_csv(run.metrics_file)
    # It learns: the optimizer has its parameters.
    assert logged["invariance"].dropna().iloc[-1] < 9
    checkpoint = torch.load(run.checkpoint_file, weights_only=True)
    assert "module.invariance.scale" in checkpoint["state_dict"]
    encoder, _, _ = load_encoder(run.encoder_file)
    assert isinstance(encoder, nn.Module)
    # Without learning one loss is twice the other.
    still = replace(settings, learning_rate=0.0, epochs=1)
    runs = [
        pretrain(replace(still, method=method, output=str(tmp_path / method[:4])), dataset)
        for method in (f"{mine}:Louder", "simsiam")
    ]
    mine_, theirs = (pd.read_csv(r.metrics_file)["ssl"].dropna().iloc[0] for r in runs)
    assert mine_ == pytest.approx(2 * theirs, rel=1e-5) and theirs


def test_from_the_command_line(tmp_path, mine, capsys):
    images = write_folder(tmp_path / "images", each=3)
    words = ["pretrain", str(images), "-o", str(tmp_path / "run"), "--epochs", "0", "--size", "32"]
    words += ["--batch_size", "8"]
    own = ["--method", f"{mine}:Louder", "--ddm.invariance", f"{mine}:Small"]
    assert main([*words, *own, "--ddm.invariance_args.start", "2"]) == 0
    kept = PretrainConfig.load(tmp_path / "run" / "config.yaml")
    assert kept.ddm.invariance_args == {"start": 2}
    assert objective(kept.ddm, "invariance", 4, 3).scale == 2
    words[3] = str(tmp_path / "other")
    assert main([*words, "--ddm.invariance", "corall"]) == 2
    said = capsys.readouterr().err
    assert "ddm.invariance='corall' is unknown; choose one of adversarial, " in said
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(method="nowhere_at_all:X"), "--method nowhere_at_all:X: No module named 'nowhere"),
        (dict(method="{}:X"), "--method {}:X: module .* has no attribute 'X'"),
        (dict(method="{}:Small"), "is no subclass of ddm.methods.Method"),
        (dict(ddm=dict(variant="{}:X")), "--ddm.variant {}:X: module"),
        (dict(ddm=dict(invariance="{}:nothing")), "gives a NoneType, no torch.nn.Module"),
        (
            dict(ddm=dict(invariance="{}:Small", invariance_args={"begin": 2})),
            r"--ddm.invariance {}:Small: .*unexpected keyword argument 'begin'",
        ),
        (
            dict(ddm=dict(invariance="{}:Fussy", invariance_args={"start": -1})),
            "--ddm.invariance_args: start must be positive",
        ),
        (dict(method=":"), "--method :: Empty module name"),
    ],
)
def test_what_is_refused(tmp_path, mine, changes, message):
    def filled(value):
        return (
            value.format(mine)
            if isinstance(value, str)
            else ModuleConfig(
                **{k: v if isinstance(v, dict) else filled(v) for k, v in value.items()}
            )
        )

    settings = config(tmp_path, **{k: filled(v) for k, v in changes.items()})
    with pytest.raises(DdmError, match=message.format(mine)):
        pretrain(settings, make_dataset(each=3))
    assert not (tmp_path / "run").exists()


def test_what_goes_wrong_inside_is_said_as_it_is(tmp_path, mine):
    settings = config(tmp_path, ddm=ModuleConfig(invariance=f"{mine}:Fussy"))
    with pytest.raises(TypeError, match="has no len"):
        pretrain(settings, make_dataset(each=3))
