"""Domain-specific encoders: each left-out domain is read with those of all others."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import yaml

from ddm.bench import bench
from ddm.data import open_images
from ddm.protocols import SeenUnseen
from ddm.run_folder import RunFolder
from synthetic import write_folder

PATH = Path(__file__).parents[2] / "benchmarks" / "specific.py"
spec = importlib.util.spec_from_file_location("specific", PATH)
specific = importlib.util.module_from_spec(spec)
spec.loader.exec_module(specific)


def test_left_out_domains_are_read_with_the_encoders_of_the_others(tmp_path):
    images = write_folder(tmp_path / "images", each=12)
    names = sorted(p.name for p in images.iterdir())
    base = dict(images=str(images), size=16, epochs=3, batch_size=16, workers=0, accelerator="cpu")
    grid = {
        "base": {**base, "ddm.enabled": False},
        "variants": {"simclr-specific": {"method": "simclr"}},
        "held_out": [[other for other in names if other != name] for name in names],
        "seeds": [1],
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    bench(tmp_path / "grid.yaml", tmp_path / "runs", keep_runs=True)
    specific.main(tmp_path / "runs", tmp_path / "out", 12)

    features = {}
    for path in (tmp_path / "runs" / "runs").iterdir():
        run, config = RunFolder.open(path)
        (own,) = set(names) - set(config.held_out)
        features[own] = np.load(run.features_file)
        dataset = open_images(config)
    assert len(list((tmp_path / "out").iterdir())) == len(names) == len(features)
    for name in names:
        record = json.loads((tmp_path / "out" / f"simclr-specific_{name}_1.json").read_text())
        assert record["variant"] == "simclr-specific" and record["held_out"] == [name]
        others = [features[other] for other in names if other != name]
        joint = np.hstack([x / np.sqrt((x**2).sum(1, keepdims=True)) for x in others])
        assert record["feature_dim"] == joint.shape[1]
        assert record["config"]["epochs"] == 12
        expected = SeenUnseen(dataset, (name,)).evaluate({"all": joint})
        mine = [r["value"] for r in record["rows"] if r["portion"] == "all"]
        np.testing.assert_allclose(mine, [r["value"] for r in expected], rtol=1e-6)
