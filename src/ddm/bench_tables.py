"""The tables of a grid: means, paired differences, and what others report."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddm.clustered import Mean, clustered_mean, less
from ddm.domains import SUMMARIES
from ddm.protocols import VALIDATION

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
    ("to choose by: linear, validation", VALIDATION, "seen", "seen"),
)
Column = tuple[str, str, str, str]
#: What was left out, fold and seed; where methods are taken together its number after these.
Run = tuple[Any, ...]
#: A column's figure of each domain of its side.
Figure = dict[str, float]
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
    """Means over runs with their standard error, and paired differences from the baseline.

    The baseline is the first variant; where variants are called METHOD-KIND, that of each is its
    method's own, METHOD-plain, and the mean over the methods follows.

    A pair are two runs of the same seed, fold and held-out domains. Errors, and a t-test on the
    paired differences (two-sided), are clustered by what was held out, or by fold, and by the
    domain that a figure was read on (:func:`ddm.clustered.clustered_mean`). Where there is one set
    of held-out domains alone they are over seeds.

    Args:
        variants: names, the baseline first.
        records: what :func:`execute` wrote.

    Returns:
        Markdown: for each portion of the features one table of means and one of differences; the
        unseen domains one by one; and the hashes of the splits.
    """
    several = len(distinct([(r["held_out"], r.get("fold")) for r in records])) > 1
    blocks = [
        "Errors are over sets of held-out domains, or folds, and over the domains that figures are "
        "read on, seeds averaged first."
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
            name: {_run(r): _figures(r, portion, columns) for r in records if r["variant"] == name}
            for name in variants
        }
        head = ["variant", "runs", *(column[0] for column in columns)]
        rows = []
        for name in variants:
            means = _means(figures[name], several, len(columns))
            rows.append([name, str(len(figures[name])), *map(_mean, means)])
        blocks.append(f"### {title}: % (standard error)\n\n{_markdown(head, rows)}")
        pairs = {name: _baseline(name, variants) for name in variants}
        gaps = {
            name: {
                run: list(map(less, mine, figures[base][run]))
                for run, mine in figures[name].items()
                if run in figures[base]
            }
            for name, base in pairs.items()
            if name != base
        }
        bases = {pairs[name] for name in gaps}
        one = len(bases) == 1
        rows = []
        for name, of_runs in (gaps if one else gaps | _over_methods(gaps, pairs)).items():
            means = _means(of_runs, several, len(columns))
            said = name if one else f"{name} less {pairs.get(name, 'plain')}"
            rows.append([said, str(len(of_runs)), *map(_difference, means)])
        if rows:
            what = f"difference from {min(bases)}" if one else "paired differences"
            title = f"{title}: {what}, points (standard error; p)"
            blocks.append(f"### {title}\n\n{_markdown([head[0], 'pairs', *head[2:]], rows)}")
    for column in (COLUMNS[1], *_label_fractions(records)[-1:]):
        if _has(records, "all", column):
            blocks.append(_by_domain(variants, records, column))
    return "\n\n".join([*blocks, _splits(records)]) + "\n"


def _baseline(name: str, variants: Sequence[str]) -> str:
    """What a variant is compared with."""
    method, dash, _ = name.rpartition("-")
    own = f"{method}-plain"
    return own if dash and own in variants else variants[0]


def _over_methods(
    gaps: Mapping[str, Mapping[Run, Sequence[Figure]]], pairs: Mapping[str, str]
) -> dict[str, dict[Run, Sequence[Figure]]]:
    """For each kind the differences of all methods, of the runs that every method has."""
    found: dict[str, dict[Run, Sequence[Figure]]] = {}
    own = [name for name in gaps if pairs[name].endswith("-plain")]
    for kind in distinct([name.rpartition("-")[2] for name in own]):
        of_kind = [gaps[name] for name in own if name.rpartition("-")[2] == kind]
        if len(of_kind) > 1:
            runs = set.intersection(*(set(each) for each in of_kind))
            found[f"all methods, {kind}"] = {
                (*run, method): each[run]
                for method, each in enumerate(of_kind)
                for run in sorted(runs, key=str)
            }
    return found


def _run(record: Mapping[str, Any]) -> Run:
    return tuple(record["held_out"]), record.get("fold"), record["seed"]


def _means(figures: Mapping[Run, Sequence[Figure]], several: bool, columns: int) -> list[Mean]:
    """The mean of each column; none where a run lacks the figure. Of one set, seeds are what
    errors are over."""
    means = []
    for i in range(columns):
        runs = [(run, found[i]) for run, found in figures.items()]
        if not all(figure for _, figure in runs):
            runs = []
        if several:
            means.append(clustered_mean([(run[:2], figure) for run, figure in runs]))
        else:
            over = [(run[2], {"": float(np.mean(list(f.values())))}) for run, f in runs]
            means.append(clustered_mean(over))
    return means


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
        line = [name, *(_mean(_over_runs(c[:, 0])) for c in cells)]
        if domains and all(map(len, cells)):
            means = [c[:, 0].mean() for c in cells]
            answers = np.concatenate(cells)
            pooled = np.average(answers[:, 0], weights=answers[:, 1])
            line += [f"{np.mean(means):.1f}", f"{pooled:.1f}", f"{min(means):.1f}"]
        else:
            line += ["-"] * len(SUMMARIES)
        lines.append(line)
    head = ["variant", *domains, *SUMMARIES]
    title = f"### Each domain, all features: {title}, % (standard error over runs)"
    return f"{title}\n\n{_markdown(head, lines)}"


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


def _figures(record: Mapping[str, Any], portion: str, columns: Sequence[Column]) -> list[Figure]:
    """The columns' figures of a run, in %; empty where there is none."""
    return [
        {
            r["domain"]: 100 * r["value"]
            for r in record["rows"]
            if (r["measure"], r["trained_on"], r["side"], r["portion"])
            == (measure, trained_on, side, portion)
            and (measure == "wilds" or r["label"] in (record["main_label"], "instance", "domain"))
            and r["domain"] not in SUMMARIES
        }
        for _, measure, trained_on, side in columns
    ]


def _has(records: Sequence[Mapping[str, Any]], portion: str, column: Column) -> bool:
    return any(_figures(r, portion, [column])[0] for r in records)


def _over_runs(values: np.ndarray[Any, Any]) -> Mean:
    return clustered_mean([(i, {"": float(value)}) for i, value in enumerate(values)])


def _mean(mean: Mean) -> str:
    if np.isnan(mean.value):
        return "-"
    return f"{mean.value:.1f} (" + (f"{mean.error:.1f})" if mean.freedom else "-)")


def _difference(gap: Mean) -> str:
    from scipy.stats import t

    if np.isnan(gap.value):
        return "-"
    if not gap.freedom:
        return f"{gap.value:+.1f} (-)"
    if not gap.error:  # No spread to test against.
        return f"{gap.value:+.1f} (0.0; -)"
    p = 2 * float(t.sf(abs(gap.value / gap.error), gap.freedom))
    return f"{gap.value:+.1f} ({gap.error:.1f}; {p:.3f})"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
