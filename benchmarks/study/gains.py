"""What is gained over the plain methods, and by what: views, module, both.

    python benchmarks/study/gains.py benchmarks/results/study/methods

Reads the runs of a grid whose variants are called METHOD-plain, METHOD-edges and METHOD-neighbours
and prints, for each method and for all, the differences of runs with the same held-out domain and
seed: the recipe (neighbours with edges less plain), the views (edges less plain) and the module
(neighbours less edges, under the same views). Beside a mean over several pairs stands the half
width of its 95% interval (t). Writes the same to `gains.md` in that folder.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import t

from ddm.probe import SUMMARIES

#: Heading, measure, label, trained_on, side.
FIGURES = (
    ("group, seen", "linear", "group", "seen", "seen"),
    ("group, unseen", "linear", "group", "seen", "unseen"),
    ("subgroup, seen", "linear", "subgroup", "seen", "seen"),
    ("subgroup, unseen", "linear", "subgroup", "seen", "unseen"),
    ("retrieval, unseen", "retrieval", "instance", "none", "unseen"),
)
GAINS = (
    ("recipe", "neighbours", "plain"),
    ("views", "edges", "plain"),
    ("module", "neighbours", "edges"),
)
PORTIONS = ("all", "invariant")

Pair = tuple[str, tuple[str, ...], int]


def figures(record: dict, portion: str) -> list[float]:
    """The figures of a run in %, each the mean over the domains of its side."""
    found = []
    for _, *key in FIGURES:
        values = [
            row["value"]
            for row in record["rows"]
            if [row[k] for k in ("measure", "label", "trained_on", "side")] == key
            and row["portion"] == portion
            and row["domain"] not in SUMMARIES
        ]
        found.append(100 * float(np.mean(values)))
    return found


def read(folder: Path) -> dict[str, dict[Pair, dict]]:
    """The records of each kind of variant (plain, edges, neighbours) by method, domain and seed."""
    found: dict[str, dict[Pair, dict]] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text("utf-8"))
        method, kind = record["variant"].rsplit("-", 1)
        found.setdefault(kind, {})[method, tuple(record["held_out"]), record["seed"]] = record
    return found


def cell(gaps: np.ndarray) -> str:
    if len(gaps) < 2:
        return f"{gaps.mean():+.1f}" if len(gaps) else "-"
    half = t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    return f"{gaps.mean():+.1f} ± {half:.1f}"


def tables(folder: Path) -> str:
    records = read(folder)
    blocks = []
    for portion in PORTIONS:
        for name, after, before in GAINS:
            pairs = sorted(set(records.get(after, {})) & set(records.get(before, {})))
            gaps = np.array(
                [
                    np.subtract(
                        figures(records[after][p], portion), figures(records[before][p], "all")
                    )
                    for p in pairs
                ]
            ).reshape(-1, len(FIGURES))
            lines = [
                "| method | pairs | " + " | ".join(f[0] for f in FIGURES) + " |",
                "|---" * (2 + len(FIGURES)) + "|",
            ]
            for method in [*dict.fromkeys(p[0] for p in pairs), "all methods"]:
                mine = gaps[[method in (p[0], "all methods") for p in pairs]]
                cells = " | ".join(cell(column) for column in mine.T)
                lines.append(f"| {method} | {len(mine)} | {cells} |")
            what = "all features" if portion == "all" else "invariant portion against all features"
            blocks.append(f"### {name}: {after} less {before}, {what}\n\n" + "\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    text = tables(folder)
    (folder / "gains.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
