"""The plots of the report, each an image in a data URI.

They are narrow on purpose: a page shows two beside each other, a telephone one below the other, and
the text stays readable on both. No series is told by its colour alone. Matplotlib is used without
pyplot, so nothing global is touched and no display is needed.
"""

from __future__ import annotations

import io
import re
import warnings
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from ddm.errors import DdmError, first_line

WIDTH = 5.2  # inches
FONT = 11.5  # points
DPI = 160
INK = "#222222"
FAINT = "#d4d4d4"

#: Okabe and Ito's colours that all can tell apart; grey for their yellow, too faint on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#808080")
HATCHES = ("", "////", "\\\\\\\\", "xxxx", "----", "||||", "++++", "//")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
#: Markers of the same size in points do not look the same size.
MARKER_SCALE = {"*": 1.4, "v": 1.1, "^": 1.1, "X": 1.1, "P": 1.1, "<": 1.1, ">": 1.1, "D": 0.9}
DASHES: tuple[Any, ...] = (
    "-",
    "--",
    ":",
    "-.",
    (0, (6, 1, 1, 1, 1, 1)),
    (0, (1, 3)),
    (0, (8, 4)),
    (0, (4, 1)),
)

#: Points of a curve that are drawn; a longer one is averaged down to them.
CURVE_POINTS = 300
#: Classes that a map tells apart; the rest of them share one grey.
MAP_CLASSES = 12


@dataclass(frozen=True)
class Bar:
    """A figure in [0, 1] with its interval.

    Args:
        value: the figure.
        low: where its interval begins.
        high: where it ends.
        reference: another figure, marked beside the bar.
        chance: what no skill gets.
    """

    value: float
    low: float
    high: float
    reference: float | None = None
    chance: float | None = None


@dataclass(frozen=True)
class BarLine:
    """The bars of one name, one for each series.

    Args:
        name: what stands to the left.
        bars: one for each series; None where there is none.
        bold: for a mean.
        section: a heading above the first line of each section.
    """

    name: str
    bars: Sequence[Bar | None]
    bold: bool = False
    section: str = ""


@dataclass(frozen=True)
class Curve:
    """A line of one run.

    Args:
        style: number of the run; the same number looks the same in every plot.
        name: of the run.
        x: steps or epochs, shape (n,).
        y: values, shape (n,).
    """

    style: int
    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def bars(
    lines: Sequence[BarLine],
    series: Sequence[str],
    axis: str,
    limit: float | None = None,
    reference: str = "",
) -> str:
    """Horizontal bars from zero, with intervals; chance is dashed, bar by bar where it differs.

    Args:
        lines: from top to bottom.
        series: name of each series.
        axis: what the figures are.
        limit: right end of the axis, so that plots side by side share it; found by default.
        reference: what the reference marks are.

    Returns:
        Data URI of an SVG image.
    """
    thick, gap, heading = 0.24, 0.17, 0.36  # inches
    heights = [thick * len(series) + gap for _ in lines]
    headings = [
        bool(line.section) and (i == 0 or lines[i - 1].section != line.section)
        for i, line in enumerate(lines)
    ]
    total = sum(heights) + heading * sum(headings)
    drawn = [bar for line in lines for bar in line.bars if bar is not None]
    chances = {bar.chance for bar in drawn if bar.chance is not None}
    keys = len(series) + bool(chances) + bool(reference)
    figure, axes = _figure(total + 0.6 + 0.26 * keys)
    dashed: dict[str, Any] = {"color": INK, "linestyle": (0, (4, 3)), "linewidth": 1.2}
    names, places = [], []
    top = 0.0
    for line, height, headed in zip(lines, heights, headings, strict=True):
        if headed:
            top += heading
            # Off the axis by a little, so that its white ground leaves the axis whole.
            axes.annotate(
                line.section, (0, top - 0.09), xycoords=axes.get_yaxis_transform(),
                xytext=(5, 0), textcoords="offset points", va="baseline", fontsize=FONT,
                color=INK, style="italic", zorder=7,
                bbox={"boxstyle": "square,pad=0.12", "facecolor": "white", "linewidth": 0},
            )  # fmt: skip
        names.append(line.name)
        places.append(top + height / 2)
        for i, bar in enumerate(line.bars):
            if bar is not None:
                middle = top + gap / 2 + thick * (i + 0.5)
                _bar(axes, middle, thick * 0.86, bar, i, line.bold)
                if bar.chance is not None and len(chances) > 1:
                    ends = [middle - thick / 2, middle + thick / 2]
                    axes.plot([bar.chance] * 2, ends, zorder=4, **dashed)
        top += height
    axes.set_ylim(top + 0.02, 0)
    axes.set_yticks(places, labels=[plain(n) for n in names], fontsize=FONT, color=INK)
    for label, line in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if line.bold else "normal")
        label.set_parse_math(False)
    axes.set_xlim(0, limit or bar_limit(lines))
    axes.xaxis.set_major_formatter(lambda v, _: f"{100 * v:g}%")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel(axis, fontsize=FONT, color=INK)
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.tick_params(axis="y", length=0)
    handles: list[Any] = [
        Patch(facecolor=_colour(i), hatch=_hatch(i), edgecolor="white", label=plain(name, 40))
        for i, name in enumerate(series)
    ]
    if chances:
        called = "chance, each bar's own"
        if len(chances) == 1:
            (chance,) = chances
            axes.axvline(chance, zorder=4, **dashed)
            called = f"chance, {100 * chance:.1f}%"
        handles.append(Line2D([], [], label=called, **dashed))
    if reference:
        handles.append(
            Line2D([], [], color=INK, marker="D", markerfacecolor="white", linestyle="none",
                   markersize=6, label=reference)
        )  # fmt: skip
    _legend(figure, handles, columns=1)
    return _svg(figure)


def bar_limit(lines: Sequence[BarLine]) -> float:
    """A right end of the axis that leaves room for the numbers."""
    shown = [b for line in lines for b in line.bars if b is not None]
    highest = max(
        (max(b.high, b.value, b.reference or 0.0, b.chance or 0.0) for b in shown), default=1.0
    )
    return max(0.05, highest * 1.2)


def _bar(axes: Axes, y: float, height: float, bar: Bar, style: int, bold: bool) -> None:
    axes.barh(
        y, bar.value, height, color=_colour(style), hatch=_hatch(style), edgecolor="white",
        linewidth=0, zorder=2,
    )  # fmt: skip
    # A bootstrap interval need not hold the figure itself.
    ends = [[max(0.0, bar.value - bar.low)], [max(0.0, bar.high - bar.value)]]
    axes.errorbar(
        bar.value, y, xerr=ends, color="white", elinewidth=3.2, capsize=0, zorder=3, fmt="none"
    )
    axes.errorbar(
        bar.value, y, xerr=ends, color=INK, elinewidth=1.3, capsize=2.5, zorder=3.1, fmt="none"
    )
    right, gap = max(bar.high, bar.value), 6.0
    if bar.reference is not None:
        axes.plot(
            bar.reference, y, marker="D", color=INK, markerfacecolor="white", markersize=6, zorder=5
        )
        if bar.reference > right:
            # Further from a diamond: the figure is not the diamond's.
            right, gap = bar.reference, 12.0
    axes.annotate(
        f"{100 * bar.value:.1f}", (right, y), xytext=(gap, -0.5), textcoords="offset points",
        va="center", fontsize=FONT - 1, color=INK, fontweight="bold" if bold else "normal",
        zorder=6, bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "linewidth": 0},
    )  # fmt: skip


def curves(lines: Sequence[Curve], axis: str, from_zero: bool = False) -> str:
    """Lines of several runs.

    Args:
        lines: the curves.
        axis: what ``x`` is.
        from_zero: whether the vertical axis begins at zero.

    Returns:
        Data URI of an SVG image.
    """
    figure, axes = _figure(2.6 + 0.26 * len(lines))
    handles = []
    for curve in lines:
        x, y = _thinned(curve.x, curve.y)
        look: dict[str, Any] = {
            "color": _colour(curve.style),
            "linestyle": DASHES[curve.style % len(DASHES)],
            "linewidth": 1.9,
            "marker": _marker(curve.style),
            "markersize": 5.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
        }
        axes.plot(x, y, markevery=max(1, len(x) // 8), **look)
        handles.append(Line2D([], [], label=plain(curve.name, 40), **look))
    if from_zero:
        axes.set_ylim(0, 1.12 * max(float(curve.y.max()) for curve in lines) or 1)
    axes.set_xlabel(axis, fontsize=FONT, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    places = np.concatenate([curve.x for curve in lines])
    if places.min() == places.max():
        axes.set_xlim(places[0] - 1, places[0] + 1)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(color=FAINT, linewidth=0.7)
    _legend(figure, handles, columns=1)
    return _svg(figure)


def _thinned(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most ``CURVE_POINTS`` points, each the mean of its neighbours."""
    if len(x) <= CURVE_POINTS:
        return x, y
    parts = np.array_split(np.arange(len(x)), CURVE_POINTS)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def scatter(
    points: NDArray[np.floating[Any]],
    index: NDArray[np.int64],
    names: Sequence[str],
    outlined: Sequence[str] = (),
) -> str:
    """A map of points by kind.

    Args:
        points: shape (N, 2).
        index: kind of each, shape (N,); -1 for none.
        names: the kinds' names.
        outlined: kinds whose points get a dark outline.

    Returns:
        Data URI of a PNG image.
    """
    counts = np.bincount(index[index >= 0], minlength=len(names))
    present = [int(k) for k in np.flatnonzero(counts)]
    named = present
    if len(present) > max(MAP_CLASSES, 20 if outlined else 0):
        named = sorted(sorted(present, key=lambda k: -counts[k])[:MAP_CLASSES])
    rest = ~np.isin(index, named)
    looks: list[tuple[str, NDArray[np.int64], dict[str, Any]]] = []
    look: dict[str, Any]
    if rest.any():
        others = len(present) - len(named)
        label = f"{others} others" if others else "unknown"
        look = {"color": "#b0b0b0", "marker": ".", "markersize": 3, "markeredgewidth": 0}
        looks.append((label, np.flatnonzero(rest), look))
    for i, kind in enumerate(named):
        outline = names[kind] in outlined
        look = {
            "color": _colour(i),
            "marker": _marker(i),
            "markersize": (5.8 if outline else 5.0) * MARKER_SCALE.get(_marker(i), 1.0),
            "markeredgecolor": "black" if outline else "white",
            "markeredgewidth": 0.8 if outline else 0.25,
        }
        looks.append((plain(names[kind], 22), np.flatnonzero(index == kind), look))
    columns = 2 if max((len(label) for label, _, _ in looks), default=0) > 9 else 3
    figure, axes = _figure(4.2 + 0.26 * -(-len(looks) // columns))
    # In rounds, so that no kind lies on top of all the others.
    rounds = 6
    for turn in range(rounds):
        for _, members, look in looks:
            mine = points[members[turn::rounds]]
            axes.plot(mine[:, 0], mine[:, 1], linestyle="none", zorder=2 + turn, **look)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(FAINT)
    handles = [
        Line2D([], [], linestyle="none", label=label, **{**look, "markersize": 7})
        for label, _, look in looks
    ]
    _legend(figure, handles, columns)
    return _png(figure)


def umap(features: NDArray[np.floating[Any]], seed: int = 0) -> NDArray[np.float32]:
    """Features in two dimensions by UMAP, by the cosine between them (arXiv 1802.03426).

    Args:
        features: shape (N, D), with N of at least 5.
        seed: of its random choices; the same features and seed give the same map.

    Returns:
        Shape (N, 2).

    Raises:
        DdmError: umap-learn is not installed or does not load.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from umap import UMAP
        except Exception as error:  # numba fails in ways of its own
            raise DdmError(
                f"the maps of the features need umap-learn, which does not load "
                f"({first_line(error)}): "
                "pip install umap-learn"
            ) from None
        reducer = UMAP(
            n_neighbors=min(15, len(features) - 1),
            min_dist=0.1,
            metric="cosine",
            # The spectral start needs more points than its eigenvectors, and some to spare.
            init="spectral" if len(features) > 50 else "random",
            random_state=seed,
            n_jobs=1,
        )
        placed: NDArray[np.float32] = reducer.fit_transform(np.asarray(features, np.float32))
    return placed


def strip(images: Sequence[NDArray[np.uint8] | NDArray[np.float32] | None], side: int = 96) -> str:
    """Images side by side, at most ``side`` pixels high; smaller ones keep their pixels.

    Args:
        images: each of shape (H, W, C), uint8 or float in [0, 1], all of one shape; None leaves
            its place empty. Multispectral ones are shown grey, as the mean of their channels.
        side: largest height, in pixels.

    Returns:
        Data URI of a PNG image, or of a JPEG where that is smaller and the images are.
    """
    shape = next(image.shape for image in images if image is not None)
    grey = shape[2] != 3
    side = min(side, shape[0])
    space = max(1, side // 16)
    width = len(images) * (side + space) - space
    canvas = Image.new("L" if grey else "RGB", (width, side), "white")
    for i, image in enumerate(images):
        if image is not None:
            scaled = image if image.dtype == np.uint8 else 255 * image
            pixels = scaled.mean(2) if grey else scaled
            small = Image.fromarray(np.rint(pixels).astype(np.uint8))
            if small.size != (side, side):
                small = small.resize((side, side), Image.Resampling.LANCZOS)
            canvas.paste(small, (i * (side + space), 0))
    png, jpeg = io.BytesIO(), io.BytesIO()
    canvas.save(png, "PNG", optimize=True)
    if shape[0] <= 64:
        return _uri("image/png", png.getvalue())
    canvas.save(jpeg, "JPEG", quality=85)
    if len(png.getvalue()) <= len(jpeg.getvalue()):
        return _uri("image/png", png.getvalue())
    return _uri("image/jpeg", jpeg.getvalue())


def plain(text: str, longest: int = 18) -> str:
    """A name as Matplotlib can print it: short, and without letters that its font lacks."""
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    text = "".join(c if ord(c) in _letters() else "□" for c in text)
    # A name that begins with _ would be left out of legends.
    return f"\u2009{text}" if text.startswith("_") else text


def printable(text: str) -> bool:
    """Whether the plots' font has every letter of a name."""
    return all(ord(c) in _letters() for c in text)


@cache
def _letters() -> frozenset[int]:
    path = font_manager.findfont("DejaVu Sans")
    return frozenset(font_manager.get_font(path).get_charmap())


def _colour(style: int) -> str:
    return COLOURS[style % len(COLOURS)]


def _hatch(style: int) -> str:
    return HATCHES[style % len(HATCHES)]


def _marker(style: int) -> str:
    return MARKERS[style % len(MARKERS)]


def _figure(height: float) -> tuple[Figure, Axes]:
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05)
    figure = Figure(figsize=(WIDTH, height), layout=layout, facecolor="white")
    axes = figure.subplots()
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=FONT - 1, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    return figure, axes


def _legend(figure: Figure, handles: list[Any], columns: int) -> None:
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=FONT - 1,
        frameon=False, labelcolor=INK, columnspacing=1.2, handletextpad=0.6, borderaxespad=0.1,
        labelspacing=0.35, handlelength=2.6,
    )  # fmt: skip
    # A dollar sign in a name is no formula.
    for text in legend.get_texts():
        text.set_parse_math(False)


def _svg(figure: Figure) -> str:
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", data.getvalue().decode(), flags=re.S)
    text = re.sub(r"\s+", " ", text).replace("> <", "><")
    # Hundredths of a point are enough; factors below one keep their digits.
    text = re.sub(r"\b([1-9]\d*\.\d\d)\d+", r"\1", text)
    return _uri("image/svg+xml", text.encode())


def _png(figure: Figure) -> str:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    data = io.BytesIO()
    # A palette is a third of the size, and enough for a handful of colours.
    image = Image.open(drawn).convert("RGB").quantize(96, dither=Image.Dither.NONE)
    image.save(data, "PNG", optimize=True)
    return _uri("image/png", data.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}"
