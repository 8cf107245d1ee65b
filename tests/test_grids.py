"""The grids that come with the package, from the images to the table, at tiny size."""

import json
from pathlib import Path

import pytest
import yaml

import wilds_trees
from benchmark_trees import names_of, write_images
from ddm.bench import OWN_GRIDS, bench
from ddm.data.domainbed import TERRA_INCOGNITA, VLCS
from ddm.data.domainnet import DOMAINNET
from ddm.data.domainnet_classes import UDG_CLASSES
from ddm.data.pacs import PACS

TREES = {
    "pacs-lodo": (PACS, 8, None),
    "vlcs-domainbed": (VLCS, 8, None),
    "terra-incognita-lodo": (TERRA_INCOGNITA, 8, None),
    "domainnet-udg": (DOMAINNET, 4, UDG_CLASSES),
}
SMALL = dict(size=8, encoder="small", batch_size=8, workers=0, accelerator="cpu", init=None)


def shrink(name: str, variants: int) -> dict:
    """The grid with the last variants, the first set of held-out domains and seed, made small."""
    grid = yaml.safe_load((OWN_GRIDS / f"{name}.yaml").read_text())
    grid["base"] |= SMALL | {"epochs": min(1, grid["base"]["epochs"])}
    grid["variants"] = dict(list(grid["variants"].items())[-variants:])
    grid["held_out"], grid["seeds"] = grid.get("held_out", [[]])[:1], [0]
    if "folds" in grid:
        grid["folds"] = grid["folds"][:2]
    if "finetune" in grid:
        grid["finetune"] |= {"steps": 2, "batch_size": 8, "learning_rates": [1e-3]}
    return grid


@pytest.mark.parametrize("name", TREES)
def test_leave_domains_out(tmp_path: Path, name: str) -> None:
    benchmark, per_class, classes = TREES[name]
    root = write_images(tmp_path / "images", names_of(benchmark, per_class, classes))
    grid = shrink(name, 1)
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    text = bench(tmp_path / "grid.yaml", tmp_path / "results", images=str(root))
    (path,) = (tmp_path / "results").glob("*.json")
    record = json.loads(path.read_text())
    assert record["finetune"]["invariance"] == "coral"
    held_out = grid["held_out"][0]
    rows = [r for r in record["rows"] if (r["measure"], r["side"]) == ("finetune", "unseen")]
    assert {r["domain"] for r in rows} == {*held_out, "mean", "pooled", "worst"}
    shares = {r["trained_on"] for r in record["rows"] if r["measure"] in ("head", "finetune")}
    assert shares == {f"seen {100 * f:g}%" for f in grid["finetune"]["fractions"]}
    for domain in held_out:
        assert f" {domain} |" in text
    assert "| 100% of labels, unseen |" in text and "nan" not in text


@pytest.mark.parametrize("name", ["camelyon17", "iwildcam", "fmow", "rxrx1", "poverty"])
def test_wilds(tmp_path: Path, name: str) -> None:
    getattr(wilds_trees, name)(tmp_path)
    (root,) = tmp_path.glob(f"{name}_v*")
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(shrink(f"{name}-wilds", 1)))
    text = bench(tmp_path / "grid.yaml", tmp_path / "results", images=str(root))
    score = {
        "fmow": "accuracy of the worst region",
        "iwildcam": "macro F1",
        "poverty": "r, the lower of urban and rural",
    }.get(name, "accuracy")
    assert f"| test: {score} |" in text and "linear" not in text and "nan" not in text
