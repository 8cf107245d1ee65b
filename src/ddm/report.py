"""The report: one HTML file on one or several evaluated runs, to read, print and pass on.

Everything is inside the file; it loads nothing. Every number comes from what ``ddm evaluate``
wrote, and a difference between two runs carries an interval of its own, paired image by image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ddm import plots
from ddm.comparison import (
    MEASURES,
    NOT_PROBED,
    PORTIONS,
    WILDS_SPLITS,
    Key,
    Run,
    all_differences,
    caveats,
    default_title,
    headline,
    main_label,
    not_probed,
    open_runs,
    percent,
    probed,
    span,
    wilds_figure,
    with_portion,
)
from ddm.data import open_images
from ddm.data.base import ImageDataset
from ddm.domains import SUMMARIES
from ddm.errors import DdmError
from ddm.pages import write_page
from ddm.plots import Bar, BarLine, Curve
from ddm.probe import Row

SAMPLES = 8  # images of each domain
MAP_POINTS = 2000
FEWEST_MAP_POINTS = 10
MAP_KEYS = 40  # classes that a plot can only number are named below it, up to so many
SKIPPED_SHOWN = 10

#: What a column of metrics.csv means; columns without a line here are terms of the loss.
CURVES = {
    "loss": "Total loss",
    "ssl": "Self-supervised loss",
    "variant": "Variant term",
    "invariance": "Invariance term",
    "independence": "Independence term",
    "effective_rank": "Effective rank of the features",
    "feature_deviation": "Deviation of the features",
    "gradient_ratio": "Pull of the module on the encoder, beside the self-supervised loss",
}
PER_EPOCH = ("effective_rank", "feature_deviation", "gradient_ratio")
NOT_CURVES = ("step", "epoch", "images/s")

EMOJI_CREDITS = {
    "twemoji": "Twemoji graphics, copyright Twitter, Inc and other contributors, CC BY 4.0",
    "noto": "Noto Color Emoji, copyright Google LLC, SIL Open Font License 1.1",
    "openmoji": "OpenMoji, copyright the OpenMoji authors, CC BY-SA 4.0",
    "openmoji-line": "OpenMoji line layers, copyright the OpenMoji authors, CC BY-SA 4.0",
    "noto-mono": "Noto Emoji, copyright 2013 Google LLC, SIL Open Font License 1.1",
}


def write_report(
    runs: Sequence[Path],
    output: Path,
    title: str | None = None,
    dataset: ImageDataset | None = None,
) -> Path:
    """Write a report on evaluated runs as one HTML file that needs nothing else.

    Two runs of which one has the module and the other does not are set against each other.

    Args:
        runs: run folders, each trained and evaluated.
        output: the file to write; in a folder it is called ``report.html``.
        title: of the page; by default what the report is about.
        dataset: the images of all runs; opened as each run's configuration says by default.

    Returns:
        The file written.

    Raises:
        DdmError: a folder is not a run, or not evaluated yet, or its images have changed since.
    """
    opened = open_runs(runs)
    datasets = _datasets(opened, dataset)
    names = _domain_names(opened)
    if output.is_dir():
        output = output / "report.html"
    return write_page(
        "report.html.j2",
        output,
        title=title or default_title(opened),
        runs=opened,
        headline=headline(opened),
        differences=all_differences(opened),
        caveats=caveats(opened),
        samples=_samples(opened[0], datasets[0], names),
        accuracy=_accuracy(opened),
        wilds=_wilds(opened),
        not_probed=NOT_PROBED if not_probed(opened) else None,
        probed=bool(probed(opened)),
        retrieval=_retrieval(opened),
        whitened=any(key[2] == "whitened" for run in opened for key in run.rows),
        leakage=_leakage(opened),
        has_portions=any(run.config.ddm.enabled for run in opened),
        all_have_portions=all(run.config.ddm.enabled for run in opened),
        maps=[
            m for run, data in zip(opened, datasets, strict=True) for m in _maps(run, data, names)
        ],
        curves=_curves(opened),
        table=_table(opened),
        skipped=[
            (run.name, len(data.skipped), data.skipped[:SKIPPED_SHOWN])
            for run, data in zip(opened, datasets, strict=True)
            if data.skipped
        ],
        settings=_settings(opened),
        provenance=_provenance(opened),
        credits=_credits(opened),
        on_emoji=all(run.config.images == "emoji" for run in opened),
    )


def _datasets(runs: Sequence[Run], given: ImageDataset | None) -> list[ImageDataset]:
    """The images of each run, under its own domain table; opened once where runs share them."""
    opened: dict[tuple[Any, ...], ImageDataset] = {}
    found = []
    for run in runs:
        c = run.config
        # Whatever open_images() looks at: a folder is read as a heap where domains are discovered.
        how = (c.size, c.channels, c.strict, c.splits, c.domains, c.partial, *c.classes)
        source = (c.images, *how)
        if given is None and source not in opened:
            opened[source] = open_images(c)
        found.append(run.folder.with_saved_domains(given or opened[source], True))
    return found


def plot_names(names: Sequence[str], kind: str) -> list[str]:
    """Names as a plot can print them; "domain 3" where a font or the space does not allow it."""
    short = [plots.plain(name) for name in names]
    clash = {name for name, count in Counter(short).items() if count > 1}
    return [
        s if plots.printable(name) and s not in clash else f"{kind} {i}"
        for i, (name, s) in enumerate(zip(names, short, strict=True), 1)
    ]


def _domain_names(runs: Sequence[Run]) -> dict[str, str]:
    """What every plot calls each domain."""
    domains = list(dict.fromkeys(d for run in runs for d in run.domains))
    return dict(zip(domains, plot_names(domains, "domain"), strict=True))


def _samples(run: Run, dataset: ImageDataset, printed: Mapping[str, str]) -> dict[str, Any]:
    """A strip of images of each domain; of the same things, where it is known what they are."""
    chosen = _sample_indices(run, dataset)
    counts = dict(zip(dataset.domains.names, dataset.domains.counts().tolist(), strict=True))
    strips = []
    for name in run.domains:
        indices = chosen[name]
        if not any(i is not None for i in indices):
            continue
        images = [None if i is None else dataset.read(i) for i in indices]
        strips.append(
            {
                "name": name,
                "called": "" if plots.plain(name) == printed[name] else printed[name],
                "count": counts[name],
                "unseen": name in run.unseen,
                "image": plots.strip(images),
            }
        )
    return {
        "strips": strips,
        "same": dataset.instances is not None,
        "small": dataset.size <= 64,
        "unknown": int((dataset.domains.index < 0).sum()),
    }


def _sample_indices(run: Run, dataset: ImageDataset) -> dict[str, list[int | None]]:
    rng = np.random.default_rng(0)
    members = {name: dataset.select((name,)) for name in run.domains}
    if dataset.instances is None:
        return {
            name: [int(i) for i in np.sort(rng.permutation(indices)[:SAMPLES])]
            for name, indices in members.items()
        }
    # What most domains show comes first, in random order.
    place = {
        name: dict(zip(dataset.instances[indices].tolist(), indices.tolist(), strict=True))
        for name, indices in members.items()
    }
    shown = Counter(instance for where in place.values() for instance in where if instance >= 0)
    order = rng.permutation(np.array(sorted(shown), np.int64))
    best = sorted(order.tolist(), key=lambda instance: -shown[instance])[:SAMPLES]
    return {name: [where.get(instance) for instance in best] for name, where in place.items()}


def _accuracy(runs: Sequence[Run]) -> dict[str, Any] | None:
    # Runs without classes to learn stand beside the others, without a bar.
    having = probed(runs)
    label = main_label(having)
    if label is None:
        return None
    figure: Key = ("linear", label, "all", "seen", "seen")
    own = any(key[0] == "linear" and key[3] == "own" for run in runs for key in run.rows)
    reference = "a probe trained on that domain itself" if own else ""
    pictures = _bar_pictures(runs, figure, "test images that are right", reference)
    others = [name for name in having[0].results["data"]["labels"] if name != label]
    return {
        "label": label,
        "classes": len(having[0].results["data"]["labels"][label]),
        "others": others,
        "without": [run.name for run in runs if run not in having],
        "own": own,
        "pictures": pictures,
    }


def _retrieval(runs: Sequence[Run]) -> list[dict[str, str]]:
    figure: Key = ("retrieval", "instance", "all", "none", "seen")
    axis = "test images whose nearest is the same thing"
    return _bar_pictures(runs, figure, axis, whitened=True)


def _bar_pictures(
    runs: Sequence[Run], figure: Key, axis: str, reference: str = "", whitened: bool = False
) -> list[dict[str, str]]:
    """One plot of all features; where a run has portions, one of the invariant portion; and, for
    what goes by distance, one of whitened features."""
    portions = ["all"]
    if any(run.config.ddm.enabled for run in runs):
        portions.append("invariant")
    if whitened:
        portions.append("whitened")
    plotted = [(p, list(_bar_lines(runs, with_portion(figure, p)))) for p in portions]
    plotted = [(p, lines) for p, lines in plotted if lines]
    limit = max((plots.bar_limit(lines) for _, lines in plotted), default=1.0)
    pictures = []
    for portion, lines in plotted:
        pictures.append(
            {
                "title": PORTIONS[portion].capitalize(),
                "image": plots.bars(
                    lines,
                    [run.printed for run in runs],
                    axis,
                    limit,
                    reference,
                ),
                "alt": f"Bar chart, {PORTIONS[portion]}, {axis}. " + _spoken(runs, lines),
            }
        )
    return pictures


def _bar_lines(runs: Sequence[Run], figure: Key) -> Iterator[BarLine]:
    """A line for each domain, and one for the mean of several, seen ones first."""
    printed = _domain_names(runs)
    for side, section in (("seen", "Seen in training"), ("unseen", "Unseen in training")):
        lines = []
        for domain in [*printed, "mean"]:
            found: list[Bar | None] = []
            for run in runs:
                row = run.find(figure, domain, side)
                if row is None:
                    found.append(None)
                    continue
                # The same probe trained on the unseen domain: (linear, label, portion, own).
                own = run.rows.get((*figure[:3], "own", side, domain))
                found.append(_bar(row, own["value"] if own else None))
            if any(found):
                lines.append(BarLine(printed.get(domain, domain), found, domain == "mean", section))
        # The mean of one domain is that domain.
        yield from lines if len(lines) > 2 else lines[:1]


def _bar(row: Row, reference: float | None = None) -> Bar:
    return Bar(row["value"], row["low"], row["high"], reference, row["chance"])


def _wilds(runs: Sequence[Run]) -> dict[str, Any] | None:
    """The official score on each of WILDS' splits."""
    figure = wilds_figure(runs)
    if figure is None:
        return None
    lines, score = [], ""
    for split in WILDS_SPLITS:
        rows = [run.find(figure, side=split) for run in runs]
        if any(rows):
            lines.append(BarLine(split, [_bar(row) if row else None for row in rows]))
        score = next((row["score"] for row in rows if row), score)
    return {
        "score": score,
        "image": plots.bars(lines, [run.printed for run in runs], score),
        "alt": f"Bar chart, {score}. {_spoken(runs, lines)}",
    }


def _spoken(runs: Sequence[Run], lines: Sequence[BarLine]) -> str:
    said = []
    for line in lines:
        values = [
            f"{run.name} {percent(bar.value)}"
            for run, bar in zip(runs, line.bars, strict=True)
            if bar is not None
        ]
        side = "unseen" if line.section.startswith("Unseen") else "seen" if line.section else ""
        said.append(f"{line.name}{f' ({side})' if side else ''}: {', '.join(values)}.")
    return " ".join(said[:12]) + (" The table of all results has the rest." if said[12:] else "")


def _leakage(runs: Sequence[Run]) -> dict[str, str] | None:
    """How well a fresh probe finds the domain in each portion."""
    portions = ["all"]
    if any(run.config.ddm.enabled for run in runs):
        portions += ["invariant", "variant"]
    lines = []
    for portion in portions:
        figure: Key = ("leakage", "domain", portion, "seen", "seen")
        rows = [run.find(figure) for run in runs]
        if any(rows):
            lines.append(BarLine(PORTIONS[portion], [_bar(row) if row else None for row in rows]))
    if not lines:
        return None
    axis = "test images whose domain is found"
    return {
        "image": plots.bars(lines, [run.printed for run in runs], axis),
        "alt": f"Bar chart, {axis}. {_spoken(runs, lines)}",
    }


def _maps(run: Run, dataset: ImageDataset, printed: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """UMAP of the test images by domain and by class: all features and the invariant portion."""
    features = np.load(run.folder.features_file, mmap_mode="r")
    if len(features) != len(dataset):
        raise DdmError(
            f"{run.folder.features_file} holds {len(features)} images, the data {len(dataset)}; "
            f"evaluate anew: `ddm evaluate {run.folder.path}`"
        )
    chosen = np.flatnonzero(dataset.splits == "test")
    if len(chosen) > MAP_POINTS:
        chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:MAP_POINTS])
    if len(chosen) < FEWEST_MAP_POINTS:
        return
    start = int(run.results["variant_dim"])
    portions = {"all": 0, "invariant": start} if run.config.ddm.enabled else {"all": 0}
    label = next(iter(dataset.labels), None)
    for portion, first in portions.items():
        points = plots.umap(np.asarray(features[chosen, first:]))
        names = [printed[domain] for domain in dataset.domains.names]
        outlined = [printed[domain] for domain in run.unseen]
        about = f"{PORTIONS[portion]}, {run.name}"
        pictures = [_map(points, dataset.domains.index[chosen], names, "domain", about, outlined)]
        if label is not None:
            classes = dataset.labels[label]
            names = plot_names(classes.names, "class")
            picture = _map(points, classes.index[chosen], names, label, about)
            numbered = zip(names, classes.names, strict=True)
            unlike = [f"{n} is {c}" for n, c in numbered if n != plots.plain(c)]
            if unlike:
                picture["note"] = "; ".join(unlike[:MAP_KEYS]) + (" …" if unlike[MAP_KEYS:] else "")
            pictures.append(picture)
        yield {
            "title": f"{PORTIONS[portion].capitalize()}, {run.name}",
            "points": len(chosen),
            "pictures": pictures,
        }


def _map(
    points: NDArray[np.float32],
    index: NDArray[np.int64],
    names: Sequence[str],
    kind: str,
    about: str,
    outlined: Sequence[str] = (),
) -> dict[str, str]:
    marked = f"; {', '.join(outlined)} outlined" if outlined else ""
    return {
        "title": f"By {kind}",
        "image": plots.scatter(points, index, names, outlined),
        "alt": f"Map of {len(points)} test images, {about}, marked by {kind}{marked}.",
    }


def _curves(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Each logged value over the steps, or over the epochs, of all runs that have it."""
    logged = list(dict.fromkeys(c for run in runs for c in run.metrics.columns))
    wanted = [c for c in CURVES if c in logged and c not in PER_EPOCH]
    wanted += [c for c in logged if c not in CURVES and c not in NOT_CURVES]
    wanted += [c for c in PER_EPOCH if c in logged]
    pictures = []
    for column in wanted:
        axis = "epoch" if column in PER_EPOCH else "step"
        lines = []
        for style, run in enumerate(runs):
            if column not in run.metrics.columns:
                continue
            points = run.metrics[[axis, column]].apply(pd.to_numeric, errors="coerce").dropna()
            if len(points):
                x, y = points.to_numpy(np.float64).T
                lines.append(Curve(style, run.printed, x, y))
        if lines:
            name = CURVES.get(column, column)
            ends = ", ".join(f"{c.name} from {c.y[0]:.3g} to {c.y[-1]:.3g}" for c in lines)
            pictures.append(
                {
                    "title": name,
                    "image": plots.curves(lines, axis, from_zero=column in PER_EPOCH),
                    "alt": f"Line chart, {name} by {axis}: {ends}.",
                }
            )
    return pictures


def _table(runs: Sequence[Run]) -> dict[str, Any]:
    """All rows, the runs and portions beside each other."""
    keys = dict.fromkeys(
        (measure, label, trained_on, side, domain)
        for run in runs
        for measure, label, _, trained_on, side, domain in run.rows
    )
    portions = [p for p in PORTIONS if any(key[2] == p for run in runs for key in run.rows)]
    lines = []
    for measure, label, trained_on, side, domain in keys:
        cells: list[str] = []
        # Runs on other images have numbers of their own.
        numbers: dict[str, None] = {}
        chances: dict[str, None] = {}
        for run in runs:
            for portion in portions:
                row = run.rows.get((measure, label, portion, trained_on, side, domain))
                if row is not None:
                    numbers[f"{row['n']:,}"] = chances[f"{100 * row['chance']:.1f}"] = None
                cells.append("" if row is None else f"{100 * row['value']:.1f} [{span(row)}]")
        lines.append(
            {
                "measure": MEASURES.get(measure, measure),
                "label": label,
                "trained_on": {"none": "", "own": "that domain"}.get(trained_on, trained_on),
                "side": side,
                "domain": domain,
                "summary": domain in SUMMARIES,
                "n": " / ".join(numbers),
                "chance": " / ".join(chances),
                "cells": cells,
            }
        )
    return {"portions": [PORTIONS[p] for p in portions], "lines": lines}


def _settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each setting of each run, and whether the runs differ in it."""
    lines = []
    flat = []
    for run in runs:
        values = asdict(run.config)
        module = values.pop("ddm")
        del values["output"]
        flat.append({**values, **{f"ddm.{k}": v for k, v in module.items()}})
    for name in flat[0]:
        shown = [_shown(each[name]) for each in flat]
        lines.append({"name": name, "values": shown, "differs": len(set(shown)) > 1})
    return lines


def _provenance(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Versions, machine, seeds and data of each run."""

    def about(run: Run) -> dict[str, Any]:
        results, data = run.results, run.results["data"]
        machine = {
            {"device": "evaluated on"}.get(k, k): v for k, v in results.get("machine", {}).items()
        }
        return {
            "folder": run.folder.path.resolve().name,
            "images": f"{data['images']:,} in {len(data['domains'])} domains, {data['name']}",
            "splits": ", ".join(f"{n:,} {s}" for s, n in data["splits"].items()),
            "skipped images": f"{data['skipped']:,}",
            "seed of the training": run.config.seed,
            "seed of the intervals": results["seed"],
            "width of the features": results["feature_dim"],
            "of it variant": results["variant_dim"] if run.config.ddm.enabled else "no portions",
            **results.get("versions", {}),
            **machine,
        }

    every = [about(run) for run in runs]
    names = list(dict.fromkeys(name for each in every for name in each))
    return [
        {
            "name": name,
            "values": [_shown(each.get(name, "")) for each in every],
            "differs": len({str(each.get(name, "")) for each in every}) > 1 and name != "folder",
        }
        for name in names
    ]


def _shown(value: Any) -> str:
    """A value for a reader elsewhere, who has no use for where files lie on this machine."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return str(value)


def _credits(runs: Iterable[Run]) -> list[str]:
    emoji = [run for run in runs if run.config.images == "emoji"]
    domains = dict.fromkeys(d for run in emoji for d in run.results["data"]["domains"])
    return [EMOJI_CREDITS[d] for d in domains if d in EMOJI_CREDITS]
