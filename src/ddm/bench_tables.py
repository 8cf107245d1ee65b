"""The tables of a grid: means, paired differences, and what others report."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddm.probe import SUMMARIES

#: What the tables show: heading, and the figures' measure, trained_on and side. Their label is the
#: data's main one, or what there is.
COLUMNS = (
    ("linear, seen", "linear", "seen", "seen"),
    ("linear, unseen", "linear", "seen", "unseen"),
    ("linear, unseen, balanced", "linear_balanced", "seen", "unseen"),
    ("linear, unseen, own labels", "linear", "own", "unseen"),
    ("k-NN, unseen", "knn", "seen", "unseen"),
    ("retrieval, seen", "retrieval", "none", "seen"),
    ("retrieval, unseen", "retrieval", "none", "unseen"),
    ("domain found", "leakage", "seen", "seen"),
)
Column = tuple[str, str, str, str]
#: What may not differ within one table of published figures.
_PUBLISHED_BY = ("backbone", "first_weights", "protocol", "source")
_PORTIONS = {
    "all": "All features",
    "invariant": "Invariant portion",
    "whitened": "All features, whitened",
    "standardized": "All features, standardised by domain (unlabelled images of each are needed)",
}


def published(grid: str) -> str:
    """What others report under the protocol of a grid that comes with the package, as Markdown.

    One table for each backbone and source, never beside another backbone's figures in a column.
    ``published.csv`` holds nothing but figures whose source was read.

    Args:
        grid: the name of the grid.

    Returns:
        The tables; empty where nothing is known.
    """
    with open(Path(__file__).parent / "published.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["grid"] == grid]
    blocks = []
    for what in distinct([[row[k] for k in _PUBLISHED_BY] for row in rows]):
        mine = [row for row in rows if [row[k] for k in _PUBLISHED_BY] == what]
        domains = distinct([row["domain"] for row in mine])
        cells = {(row["method"], row["domain"]): _published_cell(row) for row in mine}
        lines = [
            [method, *(cells.get((method, domain), "-") for domain in domains)]
            for method in distinct([row["method"] for row in mine])
        ]
        backbone, weights, protocol, source = what
        blocks.append(
            f"### Published: {backbone}, first weights {weights}; {protocol}: % (error)\n\n"
            f"{_markdown(['method', *domains], lines)}\n\nSource: {source}\n"
        )
    return "".join(f"\n{block}" for block in blocks)


def _published_cell(row: Mapping[str, str]) -> str:
    return row["accuracy"] + (f" ({row['standard_error']})" if row["standard_error"] else "")


def distinct(values: Sequence[Any]) -> list[Any]:
    """Each value once, in order, though it cannot be hashed."""
    return [value for i, value in enumerate(values) if value not in values[:i]]


def table(variants: Sequence[str], records: Sequence[Mapping[str, Any]]) -> str:
    """Means over runs with their standard error, and paired differences from the first variant.

    A pair are two runs of the same seed, fold and held-out domains. Runs with the same held-out
    domains share their images, so that they are averaged first; errors, and a t-test on the paired
    differences (two-sided), are over the sets of held-out domains, or folds. Where there is one
    set alone they are over seeds.

    Args:
        variants: names, the baseline first.
        records: what :func:`execute` wrote.

    Returns:
        Markdown: for each portion of the features one table of means and one of differences; the
        unseen domains one by one; and the hashes of the splits.
    """
    several = len(distinct([(r["held_out"], r.get("fold")) for r in records])) > 1
    blocks = [
        "Errors are over sets of held-out domains, or folds; the seeds of each are averaged first, "
        "since they share its images."
        if several
        else "Errors are over seeds."
    ]
    for portion, title in _PORTIONS.items():
        columns = [*_wilds(records), *COLUMNS]
        columns += _label_fractions(records) if portion == "all" else ()
        # What no run has is no column: retrieval without instances, seen domains in WILDS.
        columns = [c for c in columns if _has(records, portion, c)]
        # Where a domain has too few images, and in results of earlier versions.
        if not columns and portion in ("standardized", "whitened"):
            continue
        columns = columns or list(COLUMNS)
        figures = {
            name: {
                (tuple(r["held_out"]), r.get("fold"), r["seed"]): _figures(r, portion, columns)
                for r in records
                if r["variant"] == name
            }
            for name in variants
        }
        head = ["variant", "runs", *(column[0] for column in columns)]
        rows = []
        for name in variants:
            values = _independent(figures[name], several).reshape(-1, len(columns))
            rows.append([name, str(len(figures[name])), *map(_mean, values.T)])
        blocks.append(f"### {title}: % (standard error)\n\n{_markdown(head, rows)}")
        rows = []
        for name in variants[1:]:
            pairs = [p for p in figures[name] if p in figures[variants[0]]]
            gaps = {p: figures[name][p] - figures[variants[0]][p] for p in pairs}
            values = _independent(gaps, several).reshape(-1, len(columns))
            rows.append([name, str(len(pairs)), *map(_difference, values.T)])
        if rows:
            title = f"{title}: difference from {variants[0]}, points (standard error; p)"
            blocks.append(f"### {title}\n\n{_markdown([head[0], 'pairs', *head[2:]], rows)}")
    for column in (COLUMNS[1], *_label_fractions(records)[-1:]):
        if _has(records, "all", column):
            blocks.append(_by_domain(variants, records, column))
    return "\n\n".join([*blocks, _splits(records)]) + "\n"


def _independent(
    figures: Mapping[tuple[tuple[str, ...], str | None, int], np.ndarray[Any, Any]], several: bool
) -> np.ndarray[Any, Any]:
    """The figures of each of several sets of held-out domains, seeds averaged; else of each run."""
    if not several:
        return np.array(list(figures.values()))
    sets: dict[tuple[Any, ...], list[np.ndarray[Any, Any]]] = {}
    for (held_out, fold, _), values in figures.items():
        sets.setdefault((held_out, fold), []).append(values)
    return np.array([np.mean(values, axis=0) for values in sets.values()])


def _by_domain(
    variants: Sequence[str], records: Sequence[Mapping[str, Any]], column: Column
) -> str:
    """Each unseen domain's mean over runs, then the mean, the pooled figure and the worst of them.

    Pooled: every answer weighs alike, whatever its domain.
    """
    title, measure, trained_on, side = column
    found: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for r in records:
        for row in r["rows"]:
            key = (row["measure"], row["trained_on"], row["side"], row["portion"], row["label"])
            wanted = key == (measure, trained_on, side, "all", r["main_label"])
            if wanted and row["domain"] not in SUMMARIES:
                place = (r["variant"], row["domain"])
                found.setdefault(place, []).append((100 * row["value"], row["n"]))
    domains = list(dict.fromkeys(domain for _, domain in found))
    lines = []
    for name in variants:
        cells = [np.array(found.get((name, d), [])).reshape(-1, 2) for d in domains]
        line = [name, *(_mean(c[:, 0]) for c in cells)]
        if domains and all(map(len, cells)):
            means = [c[:, 0].mean() for c in cells]
            answers = np.concatenate(cells)
            pooled = np.average(answers[:, 0], weights=answers[:, 1])
            line += [f"{np.mean(means):.1f}", f"{pooled:.1f}", f"{min(means):.1f}"]
        else:
            line += ["-"] * len(SUMMARIES)
        lines.append(line)
    head = ["variant", *domains, *SUMMARIES]
    return f"### Each domain, all features: {title}, % (standard error)\n\n{_markdown(head, lines)}"


def _splits(records: Sequence[Mapping[str, Any]]) -> str:
    """The hash of each split; two people who read the same ones used the same images."""
    hashes = distinct([r["data"]["split_hashes"] for r in records])
    lines = [", ".join(f"{split} {value[:12]}" for split, value in h.items()) for h in hashes]
    compared = distinct([[r["held_out"], r["data"]["split_hashes"]] for r in records])
    if len(compared) > len(distinct([held_out for held_out, _ in compared])):
        lines.insert(0, "**The runs were not made on the same images:**")
    return "Splits (SHA-256, whole in manifest.yaml): " + "; ".join(lines or ["no run yet"])


def _label_fractions(records: Sequence[Mapping[str, Any]]) -> list[Column]:
    """A column for each share of labels that was tried, on the unseen domains."""
    tried = {
        (row["measure"], row["trained_on"]): float(row["trained_on"].split()[1].rstrip("%"))
        for record in records
        for row in record["rows"]
        if row["measure"] in ("head", "finetune")
    }
    return [
        (f"{trained_on.split()[1]} of labels, unseen", measure, trained_on, "unseen")
        for measure, trained_on in sorted(tried, key=lambda key: tried[key])
    ]


def _wilds(records: Sequence[Mapping[str, Any]]) -> list[Column]:
    """A column for each of WILDS' splits that was read, with the name of the official score."""
    found = {
        (row["score"], row["trained_on"], row["side"]): None
        for record in records
        for row in record["rows"]
        if row["measure"] == "wilds"
    }
    return [(f"{split}: {name}", "wilds", on, split) for name, on, split in found]


def _figures(
    record: Mapping[str, Any], portion: str, columns: Sequence[Column]
) -> np.ndarray[Any, Any]:
    """The columns' figures of a run, in %; NaN where there is none."""
    found = []
    for _, measure, trained_on, side in columns:
        rows = [
            r
            for r in record["rows"]
            if (r["measure"], r["trained_on"], r["side"], r["portion"])
            == (measure, trained_on, side, portion)
            and (measure == "wilds" or r["label"] in (record["main_label"], "instance", "domain"))
            and r["domain"] not in SUMMARIES
        ]
        found.append(100 * float(np.mean([r["value"] for r in rows])) if rows else np.nan)
    return np.array(found)


def _has(records: Sequence[Mapping[str, Any]], portion: str, column: Column) -> bool:
    return any(not np.isnan(_figures(r, portion, [column])).any() for r in records)


def _mean(values: np.ndarray[Any, Any]) -> str:
    if not len(values) or np.isnan(values).any():
        return "-"
    error = f"{values.std(ddof=1) / len(values) ** 0.5:.1f}" if len(values) > 1 else "-"
    return f"{values.mean():.1f} ({error})"


def _difference(gaps: np.ndarray[Any, Any]) -> str:
    from scipy.stats import ttest_1samp

    if not len(gaps) or np.isnan(gaps).any():
        return "-"
    if len(gaps) < 2:
        return f"{gaps.mean():+.1f} (-)"
    if np.ptp(gaps) == 0:  # No spread to test against.
        return f"{gaps.mean():+.1f} (0.0; -)"
    p = float(ttest_1samp(gaps, 0).pvalue)
    return f"{gaps.mean():+.1f} ({gaps.std(ddof=1) / len(gaps) ** 0.5:.1f}; {p:.3f})"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
