"""Every example runs, and says the truth about how many lines it takes."""

import importlib.util
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("name", ["plain_pytorch", "lightning"])
def test_three_lines_are_all_that_ddm_takes(name):
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    marked = [line for line in lines if "# DDM" in line]
    others = [line for line in lines if line not in marked]
    assert len(marked) == 3
    # Outside them the module appears only where its parameters are handed to the optimizer.
    assert all(
        "ddm" not in line.lower() or "ddm.parameters()" in line or "DDM are all it takes" in line
        for line in others
    )
