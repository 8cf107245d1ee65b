"""What one kind of run gains over another: a table and a plot.

    python benchmarks/study/gains.py benchmarks/results/study/instances instances-plain
    python benchmarks/study/gains.py benchmarks/results/study/methods neighbours-plain edges-plain \
        neighbours-edges

Reads the runs of a grid whose variants are called METHOD-KIND and prints, for each method and for
all, the differences of pairs of runs with the same method, held-out domain and seed. Beside a mean
over several held-out domains stands the half width of its 95% interval (t, clustered by what was
held out and by the domain that a figure was read on, see `ddm.clustered`: seeds and, in the last
line, methods are averaged first).
Last, what the runs reach themselves, beside untrained encoders where the folders have such (a
variant `any-untrained`), and how often a linear probe finds the domain in each portion.

`--published` sets runs against the plain ones of a study at the papers' own learning rates, as the
kind `published`: first seed against first seed, though not the same one, and taken again where
there are fewer.

`--reference VARIANT` sets all methods against one: the kind `reference` is that variant's runs, the
same for each method.

`--chosen KIND ...` makes of several kinds one, `chosen`: of each method, held-out domain and seed
the run whose probe is best on validation images of the seen domains (`linear_validation`; neither
test images nor anything of the held-out domain). Which that was stands in a table.

Writes `gains.md` and `gains.png` to that folder; the plot is of the first comparison. With
`--by` runs are parted by how many domains they left out, or by their epochs.

What is read of the two runs, first and second: all features of both; the invariant portion against
all features, and, where both have the module, of both; whitened features (`ddm.whitening`), of
both; features standardised by domain, of both (they need unlabelled images of the unseen domain,
see `ddm.protocols.standardize_domains`). The last two are open to a plain run too; set against a
second run's features as they are, they show what a recipe gains that has them.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from ddm.clustered import clustered_mean, less
from ddm.domains import SUMMARIES

matplotlib.use("Agg")

#: Heading, measure, label, trained_on, side. Those that the runs have are shown: emoji come with
#: groups and subgroups, other data with one class.
FIGURES = (
    ("group, seen", "linear", "group", "seen", "seen"),
    ("group, unseen", "linear", "group", "seen", "unseen"),
    ("group, unseen, balanced", "linear_balanced", "group", "seen", "unseen"),
    ("subgroup, seen", "linear", "subgroup", "seen", "seen"),
    ("subgroup, unseen", "linear", "subgroup", "seen", "unseen"),
    ("class, seen", "linear", "class", "seen", "seen"),
    ("class, unseen", "linear", "class", "seen", "unseen"),
    ("class, unseen, balanced", "linear_balanced", "class", "seen", "unseen"),
    ("k-NN, seen", "knn", "class", "seen", "seen"),
    ("k-NN, unseen", "knn", "class", "seen", "unseen"),
    ("retrieval, unseen", "retrieval", "instance", "none", "unseen"),
)
#: Not in the plot, which has room for few.
NOT_DRAWN = ("subgroup, seen", "group, unseen, balanced", "class, unseen, balanced")
PORTIONS = (
    ("all", "all"),
    ("invariant", "all"),
    ("invariant", "invariant"),
    ("whitened", "whitened"),
    ("whitened", "all"),
    ("standardized", "standardized"),
    ("standardized", "all"),
)
SAID = {
    "all": "all features",
    "variant": "variant portion",
    "invariant": "invariant portion",
    "whitened": "whitened",
    "standardized": "standardised",
}

Floats = NDArray[np.float64]
#: A figure of each domain of its side.
Figure = dict[str, float]
Figures = tuple[tuple[str, ...], ...]
#: Method, held-out domains, seed, epochs.
Pair = tuple[str, tuple[str, ...], int, int]
Records = dict[str, dict[Pair, dict]]


def figures_of(records: Records, kinds: tuple[str, str]) -> Figures:
    """What all runs of these kinds have; earlier ones have no balanced accuracy."""
    runs = [record for kind in kinds for record in records.get(kind, {}).values()]
    return tuple(
        figure for figure in FIGURES if all(figures(record, "all", (figure,))[0] for record in runs)
    )


def figures(record: dict, portion: str, of: Figures) -> list[Figure]:
    """The figures of a run in %, each of the domains of its side; empty for none."""
    return [
        {
            row["domain"]: 100 * row["value"]
            for row in record["rows"]
            if [row[k] for k in ("measure", "label", "trained_on", "side")] == key
            and row["portion"] == portion
            and row["domain"] not in SUMMARIES
        }
        for _, *key in of
    ]


def mean_of(figure: Figure) -> float:
    """Over domains; NaN for none."""
    return float(np.mean(list(figure.values()))) if figure else float("nan")


def read(folders: list[Path]) -> Records:
    """The records of each kind of variant, by what a pair shares; the first folder's where several
    have it."""
    found: Records = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.json"))):
        record = json.loads(path.read_text("utf-8"))
        method, kind = record["variant"].rsplit("-", 1)
        pair = method, tuple(record["held_out"]), record["seed"], record["config"]["epochs"]
        found.setdefault(kind, {}).setdefault(pair, record)
    return found


def as_published(folder: Path, records: Records) -> dict[Pair, dict]:
    """The plain runs of another study, its seeds in the place of these records' own, in order.

    Where it has fewer seeds they are taken again; those of one held-out domain are averaged.
    """
    plain = read([folder])["plain"]
    theirs = sorted({pair[2] for pair in plain})
    ours = sorted({pair[2] for runs in records.values() for pair in runs})
    return {
        (method, held_out, seed, epochs): record
        for place, seed in enumerate(ours)
        for (method, held_out, their_seed, epochs), record in plain.items()
        if their_seed == theirs[place % len(theirs)]
    }


def for_all_methods(records: Records, variant: str) -> dict[Pair, dict]:
    """The runs of one variant, for each method that others have."""
    method, kind = variant.rsplit("-", 1)
    methods = {pair[0] for runs in records.values() for pair in runs}
    return {
        (other, *pair[1:]): record
        for pair, record in records[kind].items()
        for other in methods
        if pair[0] == method
    }


def best_validated(records: Records, kinds: list[str]) -> dict[Pair, dict]:
    """Of each pair's runs of these kinds the one that is best on validation images.

    Pairs that lack a kind which others of their method have are left out: there the choice would be
    of fewer. Of equals the first kind's.

    Raises:
        SystemExit: a run has no such figure.
    """
    runs = {pair for kind in kinds for pair in records.get(kind, {})}
    found = {}
    for method in {pair[0] for pair in runs}:
        tried = [k for k in kinds if any(pair[0] == method for pair in records.get(k, {}))]
        for pair in (pair for pair in runs if pair[0] == method):
            candidates = [records[kind][pair] for kind in tried if pair in records[kind]]
            if len(candidates) == len(tried):
                found[pair] = max(candidates, key=validation)
    return found


def validation(record: dict) -> float:
    """The probe's accuracy on validation images of seen domains, mean over these, in %."""
    labels = [row["label"] for row in record["rows"] if row["measure"] == "linear_validation"]
    if not labels:
        raise SystemExit(f"{record['variant']} has no linear_validation: it is of an older ddm")
    label = "group" if "group" in labels else labels[0]
    (figure,) = figures(record, "all", (("", "linear_validation", label, "seen", "seen"),))
    return mean_of(figure)


def choices(chosen: dict[Pair, dict]) -> str:
    """Which kind was chosen, for each method and held-out domain; one for each seed."""
    held_out = list(dict.fromkeys(pair[1] for pair in sorted(chosen)))
    lines = [f"| method | {' | '.join('+'.join(h) for h in held_out)} |"]
    lines.append("|---" * (1 + len(held_out)) + "|")
    for method in dict.fromkeys(pair[0] for pair in sorted(chosen)):
        cells = [
            ", ".join(
                record["variant"].rsplit("-", 1)[1]
                for pair, record in sorted(chosen.items(), key=lambda item: item[0])
                if pair[:2] == (method, h)
            )
            for h in held_out
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "### Chosen by validation images of seen domains\n\n" + "\n".join(lines)


def over_domains(gaps: list[list[Figure]], pairs: list[Pair]) -> tuple[Floats, Floats]:
    """Mean of each figure, and the half width of its 95% interval.

    Args:
        gaps: of each pair its figures.
        pairs: what each is of.

    Returns:
        Two arrays of shape (figures,); the widths are NaN for a single held-out domain.
    """
    means = [
        clustered_mean([(pair[1], gap[i]) for pair, gap in zip(pairs, gaps, strict=True)])
        for i in range(len(gaps[0]))
    ]
    halves = [mean.error * t.ppf(0.975, mean.freedom) if mean.freedom else np.nan for mean in means]
    return np.array([mean.value for mean in means]), np.array(halves)


def compare(records: Records, after: str, before: str, portions: tuple[str, str], of: Figures):
    """Name of each line, its pairs, means and half widths; the last line is of all methods."""
    pairs = sorted(set(records.get(after, {})) & set(records.get(before, {})))
    gaps = [
        list(
            map(
                less,
                figures(records[after][p], portions[0], of),
                figures(records[before][p], portions[1], of),
            )
        )
        for p in pairs
    ]
    methods = list(dict.fromkeys(p[0] for p in pairs))
    for method in methods:
        mine = [i for i, p in enumerate(pairs) if p[0] == method]
        yield method, [pairs[i] for i in mine], [gaps[i] for i in mine]
    # Of an unfinished grid the part that holds every method: else a domain would stand for some.
    runs = [p[1:] for p in pairs]
    mine = [i for i, run in enumerate(runs) if runs.count(run) == len(methods)]
    if mine:
        yield "all methods", [pairs[i] for i in mine], [gaps[i] for i in mine]


def signed(mean: float, half: float) -> str:
    """A difference, with the half width of its interval where there is one."""
    return f"{mean:+.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}")


def table(records: Records, after: str, before: str, portions: tuple[str, str]) -> str:
    of = figures_of(records, (after, before))
    head = " | ".join(figure[0] for figure in of)
    lines = [f"| method | pairs | {head} |", "|---" * (2 + len(of)) + "|"]
    for method, pairs, gaps in compare(records, after, before, portions, of):
        cells = [signed(m, h) for m, h in zip(*over_domains(gaps, pairs), strict=True)]
        lines.append(f"| {method} | {len(pairs)} | {' | '.join(cells)} |")
    one, other = (SAID[p] for p in portions)
    what = one if one == other else f"{one} against {other}"
    return f"### {after} less {before}: {what}\n\n" + "\n".join(lines)


def have_portions(records: Records, kinds: list[str]) -> bool:
    """Whether all runs of these kinds have the module: without it there are no portions."""
    runs = [run for kind in kinds for run in records.get(kind, {}).values()]
    return all(run["config"].get("ddm", {}).get("enabled", False) for run in runs)


def on_one_device(records: Records, after: str, before: str) -> Records:
    """The pairs whose runs were made on the same kind of device; nothing where all or none are."""
    ours, theirs = records.get(after, {}), records.get(before, {})
    pairs = set(ours) & set(theirs)

    def device(record: dict) -> str | None:
        return record.get("machine", {}).get("device")

    same = {p for p in pairs if device(ours[p]) == device(theirs[p])}
    if not same or same == pairs:
        return {}
    return {kind: {p: records[kind][p] for p in same} for kind in (after, before)}


def levels(records: Records, kinds: list[str]) -> str:
    """What each kind of run reaches itself, all features, in %; means over runs."""
    of = figures_of(records, tuple(kinds))
    head = " | ".join(figure[0] for figure in of)
    lines = [f"| method | kind | runs | {head} |", "|---" * (3 + len(of)) + "|"]
    for method, kind, runs in runs_of(records, kinds):
        cells = np.mean([[mean_of(f) for f in figures(run, "all", of)] for run in runs], axis=0)
        lines.append(
            f"| {method} | {kind} | {len(runs)} | {' | '.join(f'{c:.1f}' for c in cells)} |"
        )
    return "### All features, %, means over runs\n\n" + "\n".join(lines)


def whitening(records: Records, kinds: list[str]) -> str:
    """What whitening gives by itself: the same runs, whitened features less all features.

    Of those kinds all of whose runs were read so; nothing where there is none.
    """
    of = figures_of(records, tuple(kinds))
    if any(figure[2] == "group" for figure in of):
        of = (*of, ("k-NN of groups, unseen", "knn", "group", "seen", "unseen"))
    lines = []
    for kind in kinds:
        runs = records.get(kind, {})
        gaps = [
            list(map(less, figures(run, "whitened", of), figures(run, "all", of)))
            for run in runs.values()
        ]
        if gaps and all(figure for gap in gaps for figure in gap):
            means, halves = over_domains(gaps, list(runs))
            cells = [signed(m, h) for m, h in zip(means, halves, strict=True)]
            lines.append(f"| {kind} | {len(runs)} | {' | '.join(cells)} |")
    if not lines:
        return ""
    head = [f"| kind | runs | {' | '.join(f[0] for f in of)} |", "|---" * (2 + len(of)) + "|"]
    return "### Whitened less all features, same runs\n\n" + "\n".join(head + lines)


def runs_of(records: Records, kinds: list[str]):
    """Method, kind and runs, of all that there are."""
    methods = sorted({pair[0] for kind in kinds for pair in records.get(kind, {})})
    for method, kind in product(methods, kinds):
        runs = [r for pair, r in records.get(kind, {}).items() if pair[0] == method]
        if runs:
            yield method, kind, runs


def leakage(records: Records, kinds: list[str]) -> str:
    """How often a linear probe finds the domain of seen domains' images in each portion, in %."""
    portions = ("all", "variant", "invariant")
    of = (("", "leakage", "domain", "seen", "seen"),)
    head = " | ".join(SAID[portion] for portion in portions)
    lines = [f"| method | kind | runs | {head} |", "|---" * (3 + len(portions)) + "|"]
    alone = [(method, kind, runs) for method, kind, runs in runs_of(records, kinds)]
    whole = [
        ("all methods", k, [r for _, kind, runs in alone if kind == k for r in runs]) for k in kinds
    ]
    for method, kind, runs in [*alone, *(line for line in whole if line[2])]:
        found = [np.mean([mean_of(figures(r, p, of)[0]) for r in runs]) for p in portions]
        cells = " | ".join("-" if np.isnan(value) else f"{value:.1f}" for value in found)
        lines.append(f"| {method} | {kind} | {len(runs)} | {cells} |")
    return "### Domain found by a linear probe, %, means over runs\n\n" + "\n".join(lines)


def plot(records: Records, after: str, before: str, path: Path) -> None:
    """Each pair a dot, the mean and its interval beside them."""
    from matplotlib import pyplot as plt

    of = figures_of(records, (after, before))
    shown = [i for i, figure in enumerate(of) if figure[0] not in NOT_DRAWN]
    figure, axes = plt.subplots(1, len(shown), figsize=(11, 3.6), sharey=True)
    lines = list(compare(records, after, before, ("all", "all"), of))
    domains = list(dict.fromkeys(p[1] for line in lines for p in line[1]))
    colours = dict(zip(domains, plt.colormaps["tab10"].colors, strict=False))
    for axis, column in zip(axes, shown, strict=True):
        axis.axvline(0, color="0.7", lw=1)
        for place, (name, pairs, gaps) in enumerate(lines):
            last = name == "all methods"
            if not last:
                for pair, gap in zip(pairs, gaps, strict=True):
                    axis.plot(mean_of(gap[column]), place - 0.18, ".", color=colours[pair[1]], ms=5)
            mean, half = (values[column] for values in over_domains(gaps, pairs))
            axis.errorbar(mean, place + 0.12, xerr=half, fmt="D" if last else "o", color="k", ms=4)
        axis.set_title(of[column][0])
        axis.set_xlabel("points")
    axes[0].set_yticks(range(len(lines)), [line[0] for line in lines])
    axes[0].invert_yaxis()
    marks = [plt.Line2D([], [], marker=".", ls="", color=colours[d]) for d in domains]
    figure.legend(marks, ["+".join(d) for d in domains], loc="lower center", ncols=len(domains))
    figure.suptitle(f"{after} less {before}: points gained, all features")
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=110)


#: What runs can be parted by: of a pair its number, and what has to be in all parts.
PARTED_BY = {
    "left-out": (lambda pair: len(pair[1]), lambda pair: pair[0]),
    "epochs": (lambda pair: pair[3], lambda pair: pair[:3]),
}


def parted(records: Records, kinds: list[str], by: str) -> dict[int, Records]:
    """Parts of the records by a number; of methods, or runs, that are in all parts."""
    number_of, shared_of = PARTED_BY[by]
    of_kinds = {kind: runs for kind, runs in records.items() if kind in kinds}
    numbers = sorted({number_of(pair) for runs in of_kinds.values() for pair in runs})
    shared = set.intersection(
        *(
            {shared_of(pair) for pair in runs if number_of(pair) == number}
            for runs in of_kinds.values()
            for number in numbers
        )
    )
    return {
        number: {
            kind: {
                p: r for p, r in runs.items() if number_of(p) == number and shared_of(p) in shared
            }
            for kind, runs in of_kinds.items()
        }
        for number in numbers
    }


def plot_parts(parts: dict[int, Records], after: str, before: str, by: str, path: Path) -> None:
    """The mean of each method and its interval, part by part."""
    from matplotlib import pyplot as plt

    common = [set(figures_of(part, (after, before))) for part in parts.values()]
    of = tuple(figure for figure in FIGURES if figure in set.intersection(*common))
    shown = [i for i, figure in enumerate(of) if figure[0] not in NOT_DRAWN]
    figure, axes = plt.subplots(1, len(shown), figsize=(11, 3.2))
    lines = {n: list(compare(part, after, before, ("all", "all"), of)) for n, part in parts.items()}
    methods = [line[0] for line in next(iter(lines.values()))]
    for axis, column in zip(axes, shown, strict=True):
        axis.axhline(0, color="0.7", lw=1)
        for place, method in enumerate(methods[:-1] if len(methods) == 2 else methods):
            each = [over_domains(line[2], line[1]) for n in lines for line in [lines[n][place]]]
            axis.errorbar(
                [n + 0.02 * place * max(lines) for n in lines],
                [mean[column] for mean, _ in each],
                yerr=[half[column] for _, half in each],
                fmt="o-",
                ms=4,
                label=method,
            )
        axis.set_xticks(list(lines))
        axis.set_title(of[column][0])
        axis.set_xlabel({"left-out": "domains left out"}.get(by, by))
    axes[0].set_ylabel(f"{after} less {before}, points")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("kinds", nargs="+", help="AFTER-BEFORE")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="folders with more runs")
    parser.add_argument(
        "--published", type=Path, help="folder whose plain runs are the kind `published`"
    )
    parser.add_argument("--reference", help="variant whose runs are the kind `reference`")
    parser.add_argument(
        "--chosen", nargs="*", default=[], help="kinds the best validated of which is `chosen`"
    )
    parser.add_argument("--by", choices=PARTED_BY, help="number of held-out domains, or epochs")
    options = parser.parse_args()
    records = read([options.folder, *options.beside])
    if options.published:
        records["published"] = as_published(options.published, records)
    if options.reference:
        records["reference"] = for_all_methods(records, options.reference)
    if options.chosen:
        records["chosen"] = best_validated(records, options.chosen)
    kinds = list(dict.fromkeys("-".join(options.kinds).split("-")))
    own = [kind for kind in kinds if kind != "reference"]
    parts = parted(records, kinds, options.by) if options.by else {0: records}
    blocks = [choices(records["chosen"])] if options.chosen else []
    for after, before in (pair.split("-") for pair in options.kinds):
        for portions, (number, part) in product(PORTIONS, parts.items()):
            if portions == ("invariant", "invariant") and not have_portions(part, [after, before]):
                continue
            text = table(part, after, before, portions)
            if options.by:
                text = text.replace("\n", f", {options.by} {number}\n", 1)
            # Earlier studies did not read whitened or standardised features.
            blocks += [] if "nan" in text else [text]
        same = {} if options.by else on_one_device(records, after, before)
        if same:
            text = table(same, after, before, ("all", "all"))
            blocks.append(text.replace("\n", ", pairs of runs on one kind of device\n", 1))
    for number, part in parts.items():
        text = levels(part, own if options.by else [*own, "untrained"])
        blocks.append(text.replace("\n", f", {options.by} {number}\n", 1) if options.by else text)
    if not options.by:
        blocks.append(leakage(records, own))
    block = "" if options.by else whitening(records, own)
    blocks += [block] if block else []
    text = "\n\n".join(blocks) + "\n"
    (options.folder / "gains.md").write_text(text, encoding="utf-8")
    after, before = options.kinds[0].split("-")
    if options.by:
        plot_parts(parts, after, before, options.by, options.folder / "gains.png")
    else:
        plot(records, after, before, options.folder / "gains.png")
    print(text)


if __name__ == "__main__":
    main()
