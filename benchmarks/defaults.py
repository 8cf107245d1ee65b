"""Which strengths the module's objectives should have by default: a first, small comparison.

    python benchmarks/defaults.py [--seeds 1] [--epochs 12]

SimCLR on emoji, the small encoder, 32 pixels. `noto-mono` is the demonstration's unseen domain and
takes no part here: one of the other domains is left out of training in turn and plays the unseen
one, so that nothing is chosen on the domain that is reported. One JSON file a finished run under
`benchmarks/results/defaults/`; finished runs are skipped.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from ddm.config import ModuleConfig, PretrainConfig
from ddm.evaluate import environment, evaluate
from ddm.pretrain import pretrain

RESULTS = Path(__file__).parent / "results" / "defaults"
RESERVED = "noto-mono"
LEFT_OUT = ("twemoji", "openmoji-line")
CANDIDATES = {
    "plain": ModuleConfig(enabled=False),
    "prototypes-1": ModuleConfig(invariance="prototypes", invariance_weight=1.0),
    "prototypes-0.2": ModuleConfig(invariance="prototypes", invariance_weight=0.2),
    "no-invariance": ModuleConfig(invariance="none"),
    "coral-0.3": ModuleConfig(invariance="coral", invariance_weight=0.3),
    "confusion-0.1": ModuleConfig(invariance="confusion", invariance_weight=0.1),
}
COLUMNS = (
    ("linear", "group", "seen", "seen"),
    ("linear", "group", "seen", "unseen"),
    ("knn", "group", "seen", "unseen"),
    ("retrieval", "instance", "none", "seen"),
    ("retrieval", "instance", "none", "unseen"),
)


def run_once(name: str, left_out: str, seed: int, epochs: int) -> None:
    path = RESULTS / f"{name}_{left_out}_{seed}.json"
    if path.exists():
        return
    scratch = Path(tempfile.mkdtemp())
    config = PretrainConfig(
        output=str(scratch / "run"),
        held_out=[RESERVED, left_out],
        size=32,
        epochs=epochs,
        warmup_epochs=2,
        seed=seed,
        ddm=CANDIDATES[name],
    )
    results = evaluate(pretrain(config).path)
    rows = [r for r in results["rows"] if r["label"] != "subgroup" and r["domain"] != RESERVED]
    # The means over unseen domains would hold the reserved one.
    rows = [r for r in rows if r["side"] == "seen" or r["domain"] == left_out]
    kept = {"candidate": name, "left_out": left_out, "seed": seed, "epochs": epochs, "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**kept, **environment()}, indent=1))
    shutil.rmtree(scratch)


def table() -> str:
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    head = [f"{m} {side}" for m, _, _, side in COLUMNS]
    lines = [
        "Mean over left-out domains and seeds, all features / invariant portion",
        "| candidate | runs | " + " | ".join(head) + " |",
        "|---" * (len(head) + 2) + "|",
    ]
    for name in CANDIDATES:
        mine = [run for run in runs if run["candidate"] == name]
        cells = []
        for measure, label, trained_on, side in COLUMNS:
            parts = []
            for portion in ("all", "invariant"):
                key = (measure, label, trained_on, side, portion)
                values = [
                    r["value"]
                    for run in mine
                    for r in run["rows"]
                    if (r["measure"], r["label"], r["trained_on"], r["side"], r["portion"]) == key
                    and r["domain"] == ("mean" if side == "seen" else run["left_out"])
                ]
                parts.append(f"{100 * np.mean(values):.1f}" if values else "-")
            cells.append(" / ".join(parts))
        lines.append(f"| {name} | {len(mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    for seed in range(options.seeds):
        for left_out in LEFT_OUT:
            for name in CANDIDATES:
                run_once(name, left_out, seed, options.epochs)
                print(table(), flush=True)
    (RESULTS / "table.md").write_text(table() + "\n")


if __name__ == "__main__":
    main()
