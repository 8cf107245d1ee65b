"""Every example runs, and says the truth about how many lines it takes."""

import ast
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from synthetic import write_folder

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plain_pytorch_trains():
    example = load("plain_pytorch")
    assert example.main(steps=8) < example.main(steps=1)


def test_lightning_trains():
    model = load("lightning").main(max_steps=3)
    assert model.ddm.variant.classifier.weight.grad is not None


def test_lightlys_recipe_trains(tmp_path):
    folder = write_folder(tmp_path / "images", each=6, styles=("filled", "outline"))
    model = load("lightly_simclr").main(str(folder), epochs=1, batch_size=8)
    assert model.domains == ["filled", "outline"]
    assert model.ddm.variant.classifier.weight.grad.abs().sum() > 0


def test_only_the_last_stage_of_a_partly_frozen_encoder_learns():
    example = load("existing_encoder")
    encoder, dim = example.partly_frozen()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    example.main(encoder, dim)
    moved = {k for k, v in encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(name.startswith("layer4") for name in moved)


def test_on_a_frozen_encoder_the_adapter_learns():
    example = load("existing_encoder")
    encoder, dim = example.frozen_with_adapter()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    example.main(encoder, dim)
    moved = {k for k, v in encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"1.0.weight", "1.0.bias", "1.2.weight", "1.2.bias"}


def test_an_encoder_that_returns_maps():
    example = load("existing_encoder")
    encoder, dim = example.with_another_output()
    assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, dim)
    example.main(encoder, dim)


def test_stable_pretraining_trains():
    pytest.importorskip("stable_pretraining", reason="`make test-peers` installs it")
    module = load("stable_pretraining_simclr").main(steps=3)
    assert module.ddm.variant.classifier.weight.abs().sum() > 0
    optimized = {id(p) for g in module.optimizers().param_groups for p in g["params"]}
    assert {id(p) for p in module.ddm.parameters()} <= optimized


def test_solo_learn_trains():
    pytest.importorskip("solo", reason="solo-learn is installed from its repository only")
    import lightning.pytorch as pl
    import omegaconf
    from torch.utils.data import DataLoader

    config = {
        "method": "simclr",
        "backbone": {"name": "resnet18", "kwargs": {}},
        "data": {
            "dataset": "cifar10",
            "num_classes": 5,
            "num_large_crops": 2,
            "num_small_crops": 0,
        },
        "max_epochs": 1,
        "optimizer": {
            "name": "sgd",
            "batch_size": 8,
            "lr": 0.1,
            "classifier_lr": 0.1,
            "weight_decay": 1e-5,
        },
        "scheduler": {"name": "warmup_cosine"},
        "method_kwargs": {"proj_hidden_dim": 32, "proj_output_dim": 16, "temperature": 0.2},
    }
    domains = torch.arange(32) % 3
    images = torch.rand(32, 3, 32, 32) + domains[:, None, None, None]
    samples = [(i, [images[i], images[i].flip(-1)], i % 5) for i in range(32)]
    example = load("solo_learn")
    model = example.SimCLRWithDDM(omegaconf.OmegaConf.create(config), domains, num_domains=3)
    before = model.ddm.variant.classifier.weight.clone()
    trainer = pl.Trainer(max_epochs=1, devices=1, logger=False, enable_checkpointing=False)
    trainer.fit(model, DataLoader(samples, batch_size=8))
    assert not torch.equal(model.ddm.variant.classifier.weight.cpu(), before)


@pytest.mark.parametrize("name", ["plain_pytorch", "lightning", "lightly_simclr"])
def test_three_lines_are_all_that_ddm_takes(name):
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    marked = [line for line in lines if "# DDM" in line]
    others = [line for line in lines if line not in marked]
    assert len(marked) == 3
    # Outside them the module appears only where its parameters are handed to the optimizer.
    allowed = ("ddm.parameters()", "self.ddm]", "DDM are all it takes")
    assert all("ddm" not in line.lower() or any(a in line for a in allowed) for line in others)


def code_lines(path: Path) -> int:
    """Lines of code: no comments, no docstrings, no blank ones."""
    source = path.read_text()
    prose = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in prose
        for number, line in enumerate(source.splitlines(), 1)
    )


def test_the_docs_count_the_lines_that_the_module_adds():
    table = (EXAMPLES.parent / "docs" / "plug-in.md").read_text().splitlines()

    def said(name: str) -> int:
        row = next(line for line in table if f"{name}.py" in line)
        return int(row.split("|")[3])

    for name in ("plain_pytorch", "lightning", "lightly_simclr", "stable_pretraining_simclr"):
        lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
        assert said(name) == sum("# DDM" in line for line in lines), name
    # All of this file is an addition, but for the import of solo-learn itself.
    assert said("solo_learn") == code_lines(EXAMPLES / "solo_learn.py") - 1


def test_a_search_finds_the_same_thing_in_another_source(tmp_path, capsys):
    things = np.eye(6, dtype=np.float32)
    rows = [(f"{s}/{n}.jpg", 3 * things[n] + 0.1) for s in ("photo", "sketch") for n in range(6)]
    table = pd.DataFrame(rows, columns=["path", "features"])
    table.to_parquet(tmp_path / "features.parquet")
    hits = load("search").main(
        str(tmp_path / "features.parquet"), "photo/4.jpg", number=2, groups=3
    )
    assert hits["path"].iloc[0] == "sketch/4.jpg" and len(hits) == 2
    assert not hits["path"].str.startswith("photo").any()
    said = capsys.readouterr().out
    assert "sketch/4.jpg" in said and said.count("group ") == 3
    with pytest.raises(SystemExit, match=r"/4.jpg is not in .* look like photo/0.jpg"):
        load("search").main(str(tmp_path / "features.parquet"), "./photo/4.jpg")
