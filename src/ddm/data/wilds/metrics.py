"""What WILDS judges its data sets by, in numpy and scikit-learn alone.

The numbers are those of the package ``wilds`` 2.0.0, but for one thing: where a correlation is not
defined because a model predicts a constant, that package passes over the group and this refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddm.errors import DdmError


@dataclass(frozen=True)
class WildsScore:
    """The scores of one model on one split.

    Args:
        official: name of the one that the leaderboard ranks by.
        values: name -> score; of a group, ``"accuracy of region Asia"`` say.
    """

    official: str
    values: Mapping[str, float]

    @property
    def value(self) -> float:
        """The official score."""
        return self.values[self.official]


def wilds_score(
    name: str,
    predicted: NDArray[Any],
    true: NDArray[Any],
    metadata: Mapping[str, NDArray[Any]],
) -> WildsScore:
    """Score predictions as WILDS does.

    =========== ============================ ===================================================
    data set    official score               further scores
    =========== ============================ ===================================================
    camelyon17  accuracy                     accuracy of each slide and of the worst
    iwildcam    macro F1                     accuracy, macro recall
    fmow        accuracy in the worst region accuracy, in each region and year, in the worst year
    rxrx1       accuracy                     accuracy of each cell type and of the worst
    poverty     Pearson r, the lower of      r and mean squared error, in all and of each of the two
                urban and rural
    =========== ============================ ===================================================

    Macro averages run over the classes that occur in ``true``. The worst region of fmow leaves out
    ``"Other"``. Poverty's official figure is the mean over its folds.

    Args:
        name: of the data set.
        predicted: classes, or for poverty wealth, shape (N,).
        true: the same, given.
        metadata: columns of shape (N,): slide; region and year; cell_type; urban. A superset does:
            `ImageDataset.metadata` at the same images.

    Raises:
        DdmError: a data set without a metric here; no predictions; shapes that differ; a column
            that is missing; values that are not finite; a correlation that is not defined.
    """
    if name not in WILDS_METRICS:
        raise DdmError(f"no metric of WILDS is known for {name!r}; use {', '.join(WILDS_METRICS)}")
    predicted, true = np.asarray(predicted), np.asarray(true)
    if predicted.shape != true.shape or true.ndim != 1:
        raise DdmError(
            f"{name}: predictions of shape {predicted.shape} for targets of shape {true.shape}; "
            "both must have shape (N,)"
        )
    if len(true) == 0:
        raise DdmError(f"{name}: there is nothing to score; choose a split that has images")
    if name != "poverty" and not (predicted.dtype.kind in "iu" and true.dtype.kind in "iu"):
        raise DdmError(
            f"{name}: predictions are {predicted.dtype} and targets {true.dtype}, but classes are "
            "whole numbers; take the class with the highest output"
        )
    columns: dict[str, NDArray[Any]] = {}
    for column in _GROUPED_BY[name]:
        if column not in metadata:
            raise DdmError(f"{name}: the metric needs metadata[{column!r}]; pass the data set's")
        columns[column] = np.asarray(metadata[column])
        if columns[column].shape != true.shape:
            raise DdmError(
                f"{name}: metadata[{column!r}] has shape {columns[column].shape}, but the targets "
                f"have {true.shape}; take it at the same images"
            )
    return WILDS_METRICS[name](predicted, true, columns)


def _accuracies(correct: NDArray[np.bool_], column: str, groups: NDArray[Any]) -> dict[str, float]:
    """Accuracy of each group that has images."""
    return {
        f"accuracy of {column} {group}": float(correct[groups == group].mean())
        for group in np.unique(groups).tolist()
    }


def _mean_accuracy(column: str) -> Callable[..., WildsScore]:
    def score(
        predicted: NDArray[Any], true: NDArray[Any], columns: Mapping[str, NDArray[Any]]
    ) -> WildsScore:
        correct = predicted == true
        each = _accuracies(correct, column, columns[column])
        values = {"accuracy": float(correct.mean()), **each}
        values[f"accuracy of the worst {column}"] = min(each.values())
        return WildsScore("accuracy", values)

    return score


def _macro_f1(
    predicted: NDArray[Any], true: NDArray[Any], columns: Mapping[str, NDArray[Any]]
) -> WildsScore:
    from sklearn.metrics import f1_score, recall_score

    classes = np.unique(true)
    how = {"average": "macro", "labels": classes, "zero_division": 0}
    return WildsScore(
        "macro F1",
        {
            "macro F1": float(f1_score(true, predicted, **how)),
            "macro recall": float(recall_score(true, predicted, **how)),
            "accuracy": float((predicted == true).mean()),
        },
    )


def _worst_region(
    predicted: NDArray[Any], true: NDArray[Any], columns: Mapping[str, NDArray[Any]]
) -> WildsScore:
    correct = predicted == true
    regions = _accuracies(correct, "region", columns["region"])
    years = _accuracies(correct, "year", columns["year"])
    ranked = [value for name, value in regions.items() if name != "accuracy of region Other"]
    if not ranked:
        raise DdmError("fmow: all images are of region 'Other'; the worst region needs another one")
    return WildsScore(
        "accuracy of the worst region",
        {
            "accuracy of the worst region": min(ranked),
            "accuracy of the worst year": min(years.values()),
            "accuracy": float(correct.mean()),
            **regions,
            **years,
        },
    )


def _worst_correlation(
    predicted: NDArray[Any], true: NDArray[Any], columns: Mapping[str, NDArray[Any]]
) -> WildsScore:
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        raise DdmError("poverty: some predictions or targets are not finite; the model diverged")
    predicted, true = predicted.astype(np.float64), true.astype(np.float64)
    everything = np.ones(len(true), bool)
    parts = {"all": everything}
    for place, urban in (("rural", 0), ("urban", 1)):
        chosen = columns["urban"] == urban
        if chosen.any():
            parts[place] = chosen
    if len(parts) == 1:
        raise DdmError(
            "poverty: metadata['urban'] is neither 0 nor 1 anywhere; pass the data set's"
        )
    values = {f"r, {part}": _pearson(predicted[c], true[c], part) for part, c in parts.items()}
    values |= {
        f"squared error, {part}": float(((predicted[c] - true[c]) ** 2).mean())
        for part, c in parts.items()
    }
    official = "r, the lower of urban and rural"
    values[official] = min(v for name, v in values.items() if name in ("r, rural", "r, urban"))
    return WildsScore(official, values)


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64], part: str) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise DdmError(
            f"poverty: Pearson's r is not defined on {part} images ({len(x)}), the predictions or "
            "targets there are all the same; train further, or score more images"
        )
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1, 1))


WILDS_METRICS: dict[str, Callable[..., WildsScore]] = {
    "camelyon17": _mean_accuracy("slide"),
    "iwildcam": _macro_f1,
    "fmow": _worst_region,
    "rxrx1": _mean_accuracy("cell_type"),
    "poverty": _worst_correlation,
}

_GROUPED_BY: dict[str, tuple[str, ...]] = {
    "camelyon17": ("slide",),
    "iwildcam": (),
    "fmow": ("region", "year"),
    "rxrx1": ("cell_type",),
    "poverty": ("urban",),
}
