"""What one or several evaluated runs come to: figures, paired differences, caveats.

Every number comes from what ``ddm evaluate`` wrote, and a difference between two runs carries an
interval of its own, paired image by image.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ddm import plots
from ddm.config import PretrainConfig, differences
from ddm.domains import SUMMARIES
from ddm.errors import DdmError
from ddm.probe import Interval, Row, paired_difference
from ddm.run_folder import RunFolder

PORTIONS = {
    "all": "all features",
    "invariant": "invariant portion",
    "variant": "variant portion",
    "whitened": "all features, whitened",
    "standardized": "all features, standardised by domain",
}
MEASURES = {
    "linear": "linear probe",
    "linear_balanced": "linear probe, balanced accuracy",
    "linear_validation": "linear probe, validation images",
    "knn": "nearest neighbours",
    "knn_balanced": "nearest neighbours, balanced accuracy",
    "retrieval": "retrieval",
    "leakage": "leakage",
}
#: In the order of a report.
WILDS_SPLITS = ("id_val", "val", "id_test", "test")
#: Below so many groups of images 95% bootstrap intervals hold the truth less often than in 90%.
FEW_GROUPS = 10
#: Why there is no accuracy though there are labels.
NOT_PROBED = (
    "these images have labels, but a probe needs training images of two classes at least, in "
    "domains that are known. Give each image a domain (in a manifest, a column domain; one name "
    "for all will do)."
)
#: Measure, label, portion, trained_on, side.
Key = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Run:
    """An evaluated run, read from its folder.

    Args:
        folder: where it lies.
        name: what the report calls it.
        printed: what the plots call it.
        config: its settings.
        results: what ``ddm evaluate`` found.
    """

    folder: RunFolder
    name: str
    printed: str
    config: PretrainConfig
    results: Mapping[str, Any]

    @cached_property
    def rows(self) -> dict[tuple[str, ...], Row]:
        """Figures by measure, label, portion, trained_on, side and domain."""
        keys = ("measure", "label", "portion", "trained_on", "side", "domain")
        return {tuple(row[k] for k in keys): row for row in self.results["rows"]}

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One line an answer, see :meth:`ddm.protocols.SeenUnseen.table`."""
        return pd.read_parquet(self.folder.predictions_file)

    @cached_property
    def images(self) -> pd.DataFrame:
        """The images of the run and their domains."""
        return pd.read_parquet(self.folder.domains_file)[["path", "domain", "split"]]

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """What was logged during training; empty where nothing was."""
        if not self.folder.metrics_file.exists():
            return pd.DataFrame(columns=["step", "epoch"])
        return pd.read_csv(self.folder.metrics_file)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Domains that the encoder was not trained on."""
        return tuple(self.results["unseen"])

    @property
    def domains(self) -> tuple[str, ...]:
        """All domains, the unseen ones last."""
        names = self.results["data"]["domains"]
        return (*(d for d in names if d not in self.unseen), *self.unseen)

    def find(self, figure: Key, domain: str | None = None, side: str | None = None) -> Row | None:
        """The row of a figure, by default of the mean over domains; None where there is none."""
        side = side or figure[4]
        # WILDS' scores are of a split, whatever the domains in it.
        domain = domain or (side if figure[0] == "wilds" else "mean")
        return self.rows.get((*figure[:4], side, domain))


def open_runs(paths: Sequence[Path]) -> list[Run]:
    """Read evaluated runs; of two that differ in having the module, the one without comes first.

    Raises:
        DdmError: no folder, the same one twice, not a run, or not evaluated yet.
    """
    if not paths:
        raise DdmError("a report needs a run: name one or more run folders")
    folders = [RunFolder.open(path) for path in paths]
    places = [folder.path.resolve() for folder, _ in folders]
    if len(set(places)) < len(places):
        twice = Counter(places).most_common(1)[0][0]
        raise DdmError(f"{twice.name} is named twice; name each run once")
    if _is_comparison([config for _, config in folders]):
        folders.sort(key=lambda pair: pair[1].ddm.enabled)
        names = ["without DDM", "with DDM"]
    else:
        names = [place.name for place in places]
        if len(set(names)) < len(names):
            names = [f"{place.parent.name}/{place.name}" for place in places]
    return [
        Run(folder, name, name if plots.printable(name) else f"run {i}", config, _results(folder))
        for i, ((folder, config), name) in enumerate(zip(folders, names, strict=True), 1)
    ]


def _is_comparison(configs: Sequence[PretrainConfig]) -> bool:
    return len(configs) == 2 and configs[0].ddm.enabled != configs[1].ddm.enabled


def _results(folder: RunFolder) -> dict[str, Any]:
    for file in (folder.results_file, folder.predictions_file, folder.features_file):
        if not file.exists():
            raise DdmError(
                f"{file} is missing: evaluate the run first, with `ddm evaluate {folder.path}`"
            )
    try:
        results: dict[str, Any] = json.loads(folder.results_file.read_text(encoding="utf-8"))
    except ValueError:
        raise DdmError(
            f"{folder.results_file} is damaged; evaluate anew: `ddm evaluate {folder.path}`"
        ) from None
    return results


@dataclass(frozen=True)
class Difference:
    """One figure of two runs and what lies between them.

    Args:
        name: of the figure.
        first: the figure of the first run.
        second: that of the second.
        second_name: what the second run is called.
        interval: second less first; None where the two cannot be paired.
        points: the interval as text.
        verdict: what it says.
    """

    name: str
    first: str
    second: str
    second_name: str
    interval: Interval | None
    points: str
    verdict: str


def headline(runs: Sequence[Run]) -> list[str]:
    """What the report comes to, in a sentence or three; the rule is the same whoever wins.

    All features of each run are compared, on the unseen domains where there are any, by the linear
    probe where there are labels, else by retrieval, else by how well the domain is found; in WILDS
    by the official score on its test split.
    """
    figure = _main_figure(runs)
    if figure is None and not_probed(runs):
        return [f"There is nothing to measure yet: {NOT_PROBED}"]
    if figure is None:
        return [
            "These images have neither labels, nor instances, nor two domains that were trained "
            "on: there is nothing to measure."
        ]
    found = [(run, run.find(figure)) for run in runs]
    shown = [(run, row) for run, row in found if row is not None]
    where, what = _where(figure, shown[0][0], len(shown)), _what(figure, shown[0][1])
    sentences = [f"{where} {what} {_values(shown)}"]
    if len(shown) < 2:
        run, row = shown[0]
        seen = run.find(figure, side="seen") if figure[4] == "unseen" else None
        beside = f"{percent(seen['value'])} on the seen domains, " if seen else ""
        sentences[0] += f"; {beside}chance is {percent(row['chance'])}."
        return sentences
    # Runs of other domains, or of other images, have another chance each.
    chances = list(dict.fromkeys(percent(row["chance"]) for _, row in shown))
    if len(shown) > 2:
        sentences[0] += f"; chance is {' / '.join(chances)}."
        return sentences
    if figure[0] == "leakage":
        sentences[0] += f"; chance is {' / '.join(chances)}."
        sentences.append(
            "Of the runs that have labels accuracy stands below."
            if main_label(probed(runs)) is not None
            else "No labels that all of the runs have tell whether that helps or hurts."
            if probed(runs)
            else "No labels tell whether that helps or hurts."
        )
        return sentences
    if figure[0] == "wilds":
        sentences[0] += f"; chance is {' / '.join(chances)}."
        sentences.append("An official score is not taken image by image: no paired interval.")
        return sentences
    (first, _), (second, _) = shown
    interval = paired(first, second, figure, figure)
    if interval is None:
        sentences[0] += "."
        sentences.append("They were evaluated on different images: no interval of a difference.")
        return sentences
    sentences[0] += f" (difference {_points(interval)})."
    sentences.append(_conclusion(interval, first, second))
    return sentences


def _main_figure(runs: Sequence[Run]) -> Key | None:
    """The figure of the headline: the first of these that every run has."""
    wilds = wilds_figure(runs)
    if wilds is not None:
        return wilds
    label = main_label(runs)
    candidates: list[Key] = []
    for side in ("unseen", "seen"):
        if label is not None:
            candidates.append(("linear", label, "all", "seen", side))
    for side in ("unseen", "seen"):
        candidates.append(("retrieval", "instance", "all", "none", side))
    candidates.append(("leakage", "domain", "all", "seen", "seen"))
    for figure in candidates:
        same = len({run.unseen for run in runs}) == 1 or figure[4] == "seen"
        if same and all(run.find(figure) for run in runs):
            return figure
    return None


def wilds_figure(runs: Sequence[Run]) -> Key | None:
    """The official score on WILDS' test split; None where not every run has it."""
    for measure, label, portion, trained_on, side, _ in runs[0].rows:
        figure = measure, label, portion, trained_on, side
        if (measure, portion, side) == ("wilds", "all", "test"):
            return figure if all(run.find(figure) for run in runs) else None
    return None


def not_probed(runs: Sequence[Run]) -> bool:
    """Whether the images of a run have labels, and no probe learnt them."""
    return any(run.results["data"]["labels"] and main_label([run]) is None for run in runs)


def probed(runs: Sequence[Run]) -> list[Run]:
    """The runs whose classes a probe has learnt."""
    return [run for run in runs if main_label([run]) is not None]


def main_label(runs: Sequence[Run]) -> str | None:
    """The first way of naming the content that every run was probed on; None for no runs."""
    if not runs:
        return None
    for label in runs[0].results["data"]["labels"]:
        if all(any(k[0] == "linear" and k[1] == label for k in run.rows) for run in runs):
            return str(label)
    return None


def _where(figure: Key, run: Run, runs: int) -> str:
    if figure[0] == "leakage":
        return "On the domains that it was trained on" if runs == 1 else "On the seen domains"
    if figure[0] == "wilds":
        return "On the test split of WILDS"
    names = run.unseen if figure[4] == "unseen" else run.domains[: -len(run.unseen) or None]
    if len(names) == 1:
        return f"On the {figure[4]} domain {names[0]}"
    listed = f" ({', '.join(names)})" if len(names) < 4 else ""
    return f"On average over the {len(names)} {figure[4]} domains{listed}"


def _what(figure: Key, row: Row) -> str:
    if figure[0] == "linear":
        return "the probe trained on the seen domains is right for"
    if figure[0] == "retrieval":
        return "the nearest image of another domain shows the same thing for"
    if figure[0] == "wilds":
        return f"the official score ({row['score']}) is"
    return "a fresh probe finds the domain of"


def _values(shown: Sequence[tuple[Run, Row]]) -> str:
    of = "" if shown[0][1]["measure"] == "wilds" else " of the images"
    if len(shown) == 1:
        row = shown[0][1]
        return f"{percent(row['value'])}{of} (95% interval {span(row)})"
    if _is_comparison([run.config for run, _ in shown]):
        (_, without), (_, having) = shown
        return f"{percent(having['value'])}{of} with DDM and {percent(without['value'])} without"
    parts = [f"{percent(row['value'])} ({run.name})" for run, row in shown]
    return f"{', '.join(parts[:-1])} and {parts[-1]}{of}"


def _conclusion(interval: Interval, first: Run, second: Run) -> str:
    if interval.low <= 0 <= interval.high:
        return "The interval holds zero: these images do not show which of the two is better."
    better, worse = (second, first) if interval.value > 0 else (first, second)
    return f"On these images the run {better.name} is better than the run {worse.name}."


def paired(first: Run, second: Run, one: Key, other: Key) -> Interval | None:
    """A figure of the second run less one of the first, image by image.

    Args:
        first: a run.
        second: another.
        one: which figure of the first.
        other: which figure of the second; they may differ in the portion.

    Returns:
        The difference and its interval; None where the runs were not evaluated on the same images.
    """
    if not first.images.equals(second.images) or first.unseen != second.unseen:
        return None
    ours, theirs = _answers(first, one), _answers(second, other)
    if not ours or ours.keys() != theirs.keys():
        return None
    parts = []
    for domain, mine in ours.items():
        yours = theirs[domain]
        if not np.array_equal(mine["sample"], yours["sample"]):
            return None
        parts.append(
            (mine["right"].to_numpy(), yours["right"].to_numpy(), mine["group"].to_numpy())
        )
    return paired_difference(parts, int(second.results["seed"]))


def _answers(run: Run, figure: Key) -> dict[str, pd.DataFrame]:
    table = run.predictions
    chosen = np.ones(len(table), bool)
    keys = ("measure", "label", "portion", "trained_on", "side")
    for column, value in zip(keys, figure, strict=True):
        chosen &= (table[column] == value).to_numpy()
    parts = table[chosen]
    return {str(d): part for d, part in parts.groupby("domain", observed=True, sort=False)}


def all_differences(runs: Sequence[Run]) -> list[Difference]:
    """The main figures of each later run against the first."""
    label = main_label(runs)
    wanted: list[Key] = []
    for side in ("unseen", "seen"):
        if label is not None:
            wanted.append(("linear", label, "all", "seen", side))
        wanted.append(("retrieval", "instance", "all", "none", side))
    found = []
    for second in runs[1:]:
        for figure in wanted:
            portions = ["all", "invariant"] if second.config.ddm.enabled else ["all"]
            if figure[0] == "retrieval":
                portions.append("whitened")
            for portion in portions:
                # A run without the module has no portions: what one would use of it is the whole.
                whole = portion == "invariant" and not runs[0].config.ddm.enabled
                base = "all" if whole else portion
                one, other = with_portion(figure, base), with_portion(figure, portion)
                a, b = runs[0].find(one), second.find(other)
                if a is None or b is None:
                    continue
                interval = paired(runs[0], second, one, other)
                compared = PORTIONS[portion]
                if base != portion:
                    compared = f"{PORTIONS[portion]} against all features"
                found.append(
                    Difference(
                        f"{MEASURES[figure[0]].capitalize()}, {figure[4]} domains, {compared}",
                        percent(a["value"]),
                        percent(b["value"]),
                        second.name,
                        interval,
                        "not the same images" if interval is None else _brackets(interval),
                        "" if interval is None else _verdict(interval),
                    )
                )
    return found


def with_portion(figure: Key, portion: str) -> Key:
    """The same figure on another portion."""
    measure, label, _, trained_on, side = figure
    return measure, label, portion, trained_on, side


def _verdict(interval: Interval) -> str:
    if interval.low <= 0 <= interval.high:
        return "no clear difference"
    return "better" if interval.value > 0 else "worse"


def caveats(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before believing a comparison."""
    notes = []
    first = runs[0]
    for second in runs[1:]:
        between = differences(first.config, second.config)
        if first.config.ddm.enabled != second.config.ddm.enabled:
            between = [d for d in between if not d.startswith("ddm.")]
            also = "also "
        else:
            also = ""
        if between:
            notes.append(
                f"{first.name} / {second.name}: the runs {also}differ in {'; '.join(between)}."
            )
        if not first.images.equals(second.images):
            notes.append(
                f"{first.name} / {second.name}: the runs hold different images or other splits, so "
                "no paired difference is given."
            )
        if first.unseen != second.unseen:
            notes.append(
                f"{first.name} / {second.name}: different domains are unseen "
                f"({', '.join(first.unseen) or 'none'} / {', '.join(second.unseen) or 'none'})."
            )
    for run in runs:
        if run.config.train_split == "all":
            notes.append(
                f"{run.name}: pre-trained on all images (--train_split all), the test images too; "
                "figures on seen domains are not those of new images."
            )
        data = run.results["data"]
        # Results of earlier versions do not say.
        if len(data["domains"]) > 1 and data.get("shared_classes", {}).get(main_label([run])) == 0:
            notes.append(
                f"{run.name}: no class occurs in two domains, so that telling the domains apart is "
                "telling the classes apart, and accuracy may owe nothing to content. If the "
                "folders in the domains are no classes but dates or places, move the images up."
            )
        few = _few_groups(run)
        if few:
            notes.append(
                f"{run.name}: the test images of {few} are in fewer than {FEW_GROUPS} groups of "
                "images that belong together. Intervals over so few are too narrow, and a single "
                "group says nothing of others."
            )
    if not first.unseen and wilds_figure(runs) is None:
        notes.append(
            "No domain was held out, so nothing here says how the features fare on a new one; "
            + (
                "pre-train with --held_out to find out."
                if any(key[0] in ("linear", "retrieval") for run in runs for key in run.rows)
                else "without classes, or the same things in several domains, nothing could."
            )
        )
    return notes


def _few_groups(run: Run) -> str:
    """The domains whose figures rest on few groups."""
    few = {
        row["domain"]: None
        for row in run.results["rows"]
        # Results of earlier versions do not say.
        if row["domain"] not in SUMMARIES and row.get("groups", FEW_GROUPS) < FEW_GROUPS
    }
    return ", ".join(few)


def percent(value: float) -> str:
    """A share as text: ``47.9%``."""
    return f"{100 * value:.1f}%"


def span(row: Row) -> str:
    """The interval of a row as text."""
    return f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"


def _signed(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _points(interval: Interval) -> str:
    ends = f"{_signed(interval.low)} to {_signed(interval.high)}"
    return f"{_signed(interval.value)} points, 95% interval {ends}"


def _brackets(interval: Interval) -> str:
    ends = f"{_signed(interval.low)} to {_signed(interval.high)}"
    return f"{_signed(interval.value)} [{ends}]"


def default_title(runs: Sequence[Run]) -> str:
    """What a report on these runs is called when nobody says."""
    data = " and ".join(dict.fromkeys(run.results["data"]["name"] for run in runs))
    if _is_comparison([run.config for run in runs]):
        return f"Without and with DDM on {data}"
    return f"{runs[0].name} on {data}" if len(runs) == 1 else f"{len(runs)} runs on {data}"
