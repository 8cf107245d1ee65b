"""An encoder for each domain, as a baseline: what do those of others say of an unseen domain?

    ddm bench benchmarks/study/specific.yaml --keep_runs --output RUNS --jobs 2
    python benchmarks/specific.py RUNS benchmarks/results/study/baselines 10

The grid leaves out all domains but one, so that each encoder is trained on one. For each domain to
leave out, the features of the encoders of all others are set side by side, each of length 1, and
read as those of a single encoder are. They are as many times as wide, and cost as many times as
much to compute. Writes one JSON a variant, left-out domain and seed, as `ddm bench` does, for
`benchmarks/study/gains.py`, which pairs runs of equal `epochs`: the number given is that of the
runs to compare with.
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


def main(runs: Path, output: Path, epochs: int) -> None:
    """Read every left-out domain with the encoders of the others."""
    output.mkdir(parents=True, exist_ok=True)
    dataset, features = None, {}
    for path in sorted(runs.glob("runs/*")):
        run, config = RunFolder.open(path)
        if dataset is None:
            dataset = open_images(config)
        (domain,) = set(dataset.domains.names) - set(config.held_out)
        found = np.load(run.features_file)
        key = path.name.split("_")[0], config.seed
        features.setdefault(key, {})[domain] = found / np.linalg.norm(found, axis=1, keepdims=True)
    for (variant, seed), of_domain in features.items():
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
                "variant": variant,
                "held_out": [left_out],
                "seed": seed,
                "config": {"epochs": epochs},
                "feature_dim": joint.shape[1],
                "data": describe(dataset),
                "rows": SeenUnseen(dataset, (left_out,)).evaluate(portions),
                **environment(),
            }
            with atomic(output / f"{variant}_{left_out}_{seed}.json") as temporary:
                temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
