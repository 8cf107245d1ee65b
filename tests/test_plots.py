"""The plots: whole, readable, the same for the same numbers."""

import base64
import io
import os
import subprocess
import sys
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ddm import plots
from ddm.plots import Bar, BarLine, Curve


def decode(uri):
    kind, data = uri.removeprefix("data:").split(";base64,")
    return kind, base64.b64decode(data)


def svg(uri):
    kind, data = decode(uri)
    assert kind == "image/svg+xml"
    return ElementTree.fromstring(data)


def picture(uri):
    return Image.open(io.BytesIO(decode(uri)[1]))


def height(element):
    return float(element.get("height").removesuffix("pt"))


def line(name="photo", values=(0.5, 0.6), **more):
    bars = [None if v is None else Bar(v, v - 0.1, v + 0.1, chance=0.25) for v in values]
    return BarLine(name, bars, **more)


def test_bars_grow_with_their_number():
    few = svg(plots.bars([line()], ["a", "b"], "right"))
    many = svg(plots.bars([line(f"d{i}") for i in range(20)], ["a", "b"], "right"))
    assert few.get("width") == many.get("width") == f"{72 * plots.WIDTH:g}pt"
    assert height(many) > height(few) + 19 * 30


def test_chance_is_one_line_or_each_bars_own():
    def dashed(*chances):
        lines = [BarLine(f"d{i}", [Bar(0.5, 0.4, 0.6, chance=c)]) for i, c in enumerate(chances)]
        drawn = svg(plots.bars(lines, ["a"], "right"))
        return sum("stroke-dasharray" in (e.get("style") or "") for e in drawn.iter())

    # With the one in the legend.
    assert dashed(None) == 0
    assert dashed(0.25, 0.25, 0.25) == dashed(0.25) == 2
    assert dashed(0.25, 0.7, 0.3) == 4
    assert plots.bar_limit([BarLine("x", [Bar(0.1, 0.1, 0.1, chance=0.7)])]) > 0.7


def test_bars_of_odd_figures():
    # An interval that does not hold its figure, an absent bar, nothing but zeros.
    lines = [
        BarLine("x", [Bar(0.5, 0.55, 0.6, reference=0.9), None], section="Seen"),
        line("y", (0.0, None), bold=True, section="Unseen"),
    ]
    svg(plots.bars(lines, ["a", "b"], "right", reference="own"))
    assert plots.bar_limit(lines) == pytest.approx(1.08)
    assert plots.bar_limit([BarLine("x", [Bar(0, 0, 0)])]) == 0.05


def test_no_two_series_look_alike():
    looks = {
        (plots._colour(i), plots._hatch(i), plots._marker(i), str(plots.DASHES[i % 8]))
        for i in range(20)
    }
    assert len(looks) == 20
    assert len({(plots._colour(i), plots._marker(i)) for i in range(40)}) == 40


@pytest.mark.filterwarnings("error")
def test_curves():
    x = np.arange(5000.0)
    short = plots.curves([Curve(0, "a", x[:3], x[:3])], "step")
    long = plots.curves([Curve(0, "a", x, np.sin(x)), Curve(3, "b", x[:1], x[:1])], "step")
    svg(short), svg(long)
    assert len(long) < 60_000
    thin_x, thin_y = plots._thinned(x, 2 * x)
    assert len(thin_x) == plots.CURVE_POINTS
    assert thin_y == pytest.approx(2 * thin_x)
    svg(plots.curves([Curve(0, "zero", x[:2], 0 * x[:2])], "epoch", from_zero=True))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kinds", [1, 12, 40])
def test_scatter(kinds):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 2))
    index = rng.integers(-1, kinds, 300)
    names = [f"kind {i}" for i in range(kinds)]
    uri = plots.scatter(points, index, names, names[:1])
    image = picture(uri)
    assert image.width == round(plots.WIDTH * plots.DPI)
    assert len(uri) < 150_000
    assert uri == plots.scatter(points, index, names, names[:1])


@pytest.mark.parametrize("name", ["$a$ $", "_hidden", "x" * 99, "病院", "a\\b^2", "%"])
def test_names_are_printed_as_they_are(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg(plots.bars([line(name)], [name, "b"], "right"))
        plots.scatter(np.zeros((2, 2)), np.zeros(2, np.int64), [name])
    assert len(plots.plain(name)) < 22


def test_printable():
    assert plots.printable("Größe ñ é Ω Я") and not plots.printable("病院")
    assert plots.plain("病院") == "□□"


def test_strip_keeps_small_pixels_and_shrinks_large_ones():
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(3)]
    image = picture(plots.strip([small[0], None, small[2]]))
    assert image.size == (3 * 32 + 2 * 2, 32)
    pixels = np.asarray(image)
    assert (pixels[:, :32] == small[0]).all() and (pixels[:, 68:] == small[2]).all()
    assert (pixels[:, 32:68] == 255).all()
    large = picture(plots.strip([np.zeros((224, 224, 1), np.uint8)] * 8))
    assert (large.mode, large.height) == ("L", 96)
    photos = [Image.fromarray(image[:7, :7]).resize((224, 224)) for image in small]
    assert decode(plots.strip([np.asarray(photo) for photo in photos]))[0] == "image/jpeg"


UMAP = """
import warnings
import numpy as np
from ddm import plots
warnings.simplefilter("error")
rng = np.random.default_rng(0)
features = np.repeat(4 * rng.normal(size=(2, 16)), 6, axis=0) + rng.normal(size=(12, 16))
points = plots.umap(features)
assert points.shape == (12, 2), points.shape
one, other = points[:6], points[6:]
apart = np.linalg.norm(one.mean(0) - other.mean(0))
assert apart > max(one.std(0).max(), other.std(0).max()), points
assert (plots.umap(features) == points).all()
"""


def test_umap_repeats_itself_and_keeps_neighbours():
    # To compile UMAP takes longer than to let a few points do without; only a new process can.
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", UMAP], env=environment, check=True, timeout=300)
