"""How strongly the module pulls on the encoder beside each method: the ratio of their gradients.

    python benchmarks/strength.py [--epochs 3] [--size 32]

The six methods with their own settings and the default module, on the emoji domains. At the end of
each epoch the length of the gradient of the module's loss over that of the method's, with respect
to the encoder's weights (`ddm.gradient_ratio`, as every run logs it). Writes
`benchmarks/results/strength/emoji.json` and `table.md`.
"""

import argparse
import csv
import json
import tempfile
from pathlib import Path

from ddm.config import PretrainConfig
from ddm.evaluate import environment
from ddm.methods import METHODS
from ddm.pretrain import pretrain

RESULTS = Path(__file__).parent / "results" / "strength"


def ratios(method: str, epochs: int, size: int) -> list[float]:
    """Of each epoch's last batch."""
    with tempfile.TemporaryDirectory() as folder:
        config = PretrainConfig(
            images="emoji",
            method=method,
            epochs=epochs,
            size=size,
            precision="bf16-mixed",
            output=f"{folder}/run",
        )
        with open(pretrain(config).metrics_file, newline="") as file:
            return [float(r["gradient_ratio"]) for r in csv.DictReader(file) if r["gradient_ratio"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=32)
    options = parser.parse_args()
    found = {method: ratios(method, options.epochs, options.size) for method in METHODS}
    RESULTS.mkdir(parents=True, exist_ok=True)
    record = {"epochs": options.epochs, "size": options.size, "ratios": found, **environment()}
    (RESULTS / "emoji.json").write_text(json.dumps(record, indent=1) + "\n")
    head = " | ".join(f"epoch {i + 1}" for i in range(options.epochs))
    lines = [f"| method | {head} |", "|---" * (1 + options.epochs) + "|"]
    lines += [f"| {m} | {' | '.join(f'{r:.3g}' for r in each)} |" for m, each in found.items()]
    (RESULTS / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
