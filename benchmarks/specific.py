"""An encoder for each domain, as a baseline: what do those of others say of an unseen domain?

    ddm bench benchmarks/study/specific.yaml --keep_runs --output RUNS --jobs 2
    python benchmarks/specific.py RUNS benchmarks/results/study/baselines

The grid leaves out all domains but one, so that each encoder is trained on one. For each domain to
leave out, the features of the encoders of all others are set side by side, each of length 1, and
read as those of a single encoder are. They are as many times as wide. Writes one JSON a method,
left-out domain and seed, as `ddm bench` does, for `benchmarks/study/gains.py`; `epochs` there is
the share of each encoder in the images that a single one sees.
"""

import json
import sys
from pathlib import Path

import numpy as np

from ddm.data import open_images
from ddm.evaluate import describe, environment
from ddm.files import atomic
from ddm.protocols import SeenUnseen, standardize_domains
from ddm.run_folder import RunFolder
from ddm.whitening import Whitening


def main(runs: Path, output: Path) -> None:
    """Read every left-out domain with the encoders of the others."""
    output.mkdir(parents=True, exist_ok=True)
    dataset, features, configs = None, {}, {}
    for path in sorted(runs.glob("runs/*")):
        run, config = RunFolder.open(path)
        if dataset is None:
            dataset = open_images(config)
        (domain,) = set(dataset.domains.names) - set(config.held_out)
        found = np.load(run.features_file)
        key = config.method, config.seed
        features.setdefault(key, {})[domain] = found / np.linalg.norm(found, axis=1, keepdims=True)
        configs[key] = config
    for (method, seed), of_domain in features.items():
        for left_out in sorted(of_domain):
            others = [name for name in sorted(of_domain) if name != left_out]
            joint = np.hstack([of_domain[name] for name in others])
            training = np.setdiff1d(dataset.select(splits=("train",)), dataset.select((left_out,)))
            portions = {
                "all": joint,
                "standardized": standardize_domains(joint, dataset),
                "whitened": Whitening.fit(joint, training)(joint),
            }
            record = {
                "variant": f"{method}-specific",
                "held_out": [left_out],
                "seed": seed,
                "config": {"method": method, "epochs": configs[method, seed].epochs // len(others)},
                "feature_dim": joint.shape[1],
                "data": describe(dataset),
                "rows": SeenUnseen(dataset, (left_out,)).evaluate(portions),
                **environment(),
            }
            with atomic(output / f"{method}-specific_{left_out}_{seed}.json") as temporary:
                temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
