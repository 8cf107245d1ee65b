"""Image files as small uint8 squares, whatever their format and mode."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

from ddm.cores import cores
from ddm.data.base import ImageReader, Resizable
from ddm.data.checked import Memory
from ddm.data.keys import Keys
from ddm.errors import DdmError

#: Images that nobody here can decode, told of where a folder holds some: phones' and artists', raw
#: ones of cameras, those of hospitals and microscopes.
OTHER_FORMATS = frozenset(
    {".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".psd", ".tga", ".exr", ".hdr", ".svg"}
    | {".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw"}
    | {".dcm", ".dicom", ".nii", ".svs", ".ndpi", ".mrxs", ".scn", ".czi", ".lif", ".nd2"}
)
#: What counts as an image when a folder is listed; compare with the suffix in lower case.
IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
    | {".ppm", ".pgm", ".pbm"}
)

# Pillow goes by content, not by name. Left to itself it would also hand an EPS file that is called
# .png to Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")

# How much larger than asked for the cheap first reduction may leave an image. At 2 the result can
# hardly be told from a full antialiased resize.
_GAP = 2

_CHECKED_AT_ONCE = 64

# By EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(DdmError):
    """A file that cannot be decoded.

    Args:
        path: the file.
        reason: why, on one line.
    """

    # The reason is optional because torch raises a worker's error anew from its message alone.
    def __init__(self, path: str, reason: str = "") -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.reason else self.path


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def read_image(
    path: str | os.PathLike[str], size: int, channels: int = 3, data: bytes | None = None
) -> NDArray[np.uint8]:
    """Read the central square of an image, upright, as 8 bits a channel.

    Transparent pixels become white. Integer pixels of more than 8 bits are taken to span 16 bits
    and are scaled, not clipped; floats are taken to span [0, 1], or [0, 255] where one exceeds 1.
    Of several frames or pages the first counts. Colour profiles are not applied.

    Args:
        path: the file; its content decides the format, not its name.
        size: side of the square in pixels. The shorter side is scaled to it, bilinearly and
            antialiased as torchvision does, and the longer one is cropped at the centre.
        channels: 3 for colour, 1 for grey.
        data: what the file holds, where it is no file of its own; ``path`` then only names it.

    Returns:
        Writable array, uint8, shape (size, size, channels).

    Raises:
        UnreadableImage: a file that is missing, empty, truncated, damaged, too large or no image.
    """
    mode = "RGB" if channels == 3 else "L"
    try:
        source = path if data is None else io.BytesIO(data)
        with Image.open(source, formats=_FORMATS) as image:
            image.draft(mode, (_GAP * size, _GAP * size))
            image.load()
            square = _central_square(_to_eight_bits(_upright(image), mode), size)
    # On damaged files the decoders raise OSError, SyntaxError, ValueError, struct.error, IndexError
    # and more. Whatever it is, the file is to be named.
    except Exception as error:
        raise UnreadableImage(os.fspath(path), _reason(error, path, data)) from error
    return np.array(square).reshape(size, size, channels)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says. Pillow's own function writes all other tags anew too,
    and gives up on the image where one of them is odd."""
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _to_eight_bits(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_deep(np.asarray(image)).convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert(mode)
    if image.mode == "CMYK":
        image = image.convert("RGB")
    # Pillow would copy an image that is in the mode already.
    return image if image.mode == mode else image.convert(mode)


def _from_deep(pixels: NDArray[np.generic]) -> Image.Image:
    """Scale 16-bit integers or floats, shape (H, W), to an 8-bit grey image."""
    values = pixels.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if pixels.dtype.kind == "f":
        white, kind = (1.0 if high <= 1 else 255.0), "floats"
    else:
        white, kind = 65535.0, "integers"
    if not 0 <= low <= high <= white:
        raise ValueError(f"{kind} from {low:g} to {high:g} lie outside the range 0 to {white:g}")
    return Image.fromarray(np.rint(values * np.float32(255 / white)).astype(np.uint8))


def _central_square(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize(
        (size, size),
        Image.Resampling.BILINEAR,
        box=(left, top, left + side, top + side),
        reducing_gap=_GAP,
    )


def _reason(error: Exception, path: str | os.PathLike[str], data: bytes | None) -> str:
    """One line without the path."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):
        if (os.path.getsize(path) if data is None else len(data)) == 0:
            return "the file is empty"
        return "not an image, or damaged at its start"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels (more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


class FileReader(Resizable):
    """Reads image ``i`` of a list of files.

    Args:
        root: the folder that the paths are relative to.
        paths: N paths; an absolute one stands for itself.
        size: side of the images in pixels.
        channels: 3 for colour, 1 for grey.

    Raises:
        DdmError: a size below 1, or channels other than 1 and 3.
    """

    def __init__(
        self, root: str | os.PathLike[str], paths: Sequence[str], size: int, channels: int = 3
    ) -> None:
        if size < 1:
            raise DdmError(f"size must be at least 1 pixel, not {size}")
        if channels not in (1, 3):
            raise DdmError(f"channels must be 3 (colour) or 1 (grey), not {channels}")
        self.root = os.fspath(root)
        self.size = size
        self.channels = channels
        self._paths = Keys(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def path_of(self, i: int) -> str:
        """Where image ``i`` lies; a negative ``i`` counts from the end."""
        return os.path.join(self.root, self._paths[i])

    def __call__(self, i: int) -> NDArray[np.uint8]:
        """Read image ``i``: uint8, shape (size, size, channels); raises `UnreadableImage`."""
        return read_image(self.path_of(i), self.size, self.channels)

    def is_enlarged(self, i: int) -> bool:
        """Whether readable image ``i`` has fewer pixels a side in its file than when it is read."""
        with Image.open(self.path_of(i), formats=_FORMATS) as image:
            side: int = min(image.size)
        return side < self.size


class PathReader(Protocol):
    """What `keep_readable` asks of a reader: `FileReader` has it."""

    def __call__(self, i: int) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Read image ``i``; raises `UnreadableImage`."""

    def is_enlarged(self, i: int) -> bool:
        """Whether readable image ``i`` has fewer pixels a side in its file than when it is read."""


def check_images(
    reader: ImageReader,
    keys: Sequence[str],
    strict: bool,
    progress_desc: str,
    which: Sequence[int] | None = None,
) -> tuple[tuple[int, str], ...]:
    """Decode every image once, in parallel threads, under a progress bar on stderr.

    Args:
        reader: reads image ``i`` or raises `UnreadableImage`.
        keys: the images' names, N of them.
        strict: refuse data with an unreadable image.
        progress_desc: what the progress bar says.
        which: the images to look at; all of them by default.

    Returns:
        (index, reason) of each image that cannot be read, in order of index.

    Raises:
        DdmError: under ``strict``, if any image cannot be read.
    """

    asked = range(len(keys)) if which is None else which

    def check(start: int) -> list[tuple[int, str]]:
        found = []
        for i in asked[start : start + _CHECKED_AT_ONCE]:
            try:
                reader(i)
            except UnreadableImage as error:
                found.append((i, error.reason))
        return found

    unreadable: list[tuple[int, str]] = []
    starts = range(0, len(asked), _CHECKED_AT_ONCE)
    # Threads are enough: Pillow releases the interpreter's lock while it decodes and resizes.
    with (
        ThreadPoolExecutor(cores()) as pool,
        tqdm(total=len(asked), desc=progress_desc) as progress,
    ):
        for start, found in zip(starts, pool.map(check, starts), strict=True):
            unreadable += found
            progress.update(min(_CHECKED_AT_ONCE, len(asked) - start))
    if strict and unreadable:
        first, reason = unreadable[0]
        raise DdmError(
            f"{len(unreadable):,} of {len(keys):,} images cannot be read, first {keys[first]!r} "
            f"({reason}): repair or remove them, or leave out strict to skip them"
        )
    return tuple(unreadable)


def keep_readable(
    root: Path,
    keys: Sequence[str],
    size: int,
    channels: int,
    strict: bool,
    open_with: Callable[[Path, Sequence[str], int, int], PathReader] = FileReader,
) -> tuple[PathReader, list[int], tuple[tuple[str, str], ...], int]:
    """Check the files and leave out those that cannot be read.

    Of a large folder, those that were readable before and have not changed are taken as they are.

    Args:
        root: the folder that the keys are relative to.
        keys: the files' paths, N of them.
        size: side of the images in pixels.
        channels: 3 for colour, 1 for grey.
        strict: refuse data with an unreadable image.
        open_with: makes a reader of root, keys, size and channels.

    Returns:
        A reader of the K images that can be read, their positions among the keys,
        (key, reason) of the others, and how many of the K have fewer pixels than ``size``.

    Raises:
        DdmError: no image can be read, or under ``strict`` not every one.
    """
    keys = Keys(keys)
    reader = open_with(root, keys, size, channels)
    memory = Memory(root, keys, reader, size, channels)
    which = np.flatnonzero(~memory.same).tolist()
    desc = f"Checking {root.resolve().name}"
    unreadable = dict(check_images(reader, keys, strict, desc, which)) if which else {}
    kept = [i for i in range(len(keys)) if i not in unreadable]
    if not kept:
        raise DdmError(
            f"none of the {len(keys):,} images under {root} can be read, first {keys[0]!r} "
            f"({unreadable[0]}): check that they are complete and in a common format"
        )
    skipped = tuple((keys[i], reason) for i, reason in unreadable.items())
    enlarged = memory.enlarged.copy()
    looked_at = [i for i in which if i not in unreadable]

    def check(start: int) -> list[bool]:
        return [reader.is_enlarged(i) for i in looked_at[start : start + _CHECKED_AT_ONCE]]

    # In parts, since each task of a pool takes more than a kilobyte.
    starts = range(0, len(looked_at), _CHECKED_AT_ONCE)
    with ThreadPoolExecutor(cores()) as pool:
        for start, part in zip(starts, pool.map(check, starts), strict=True):
            enlarged[looked_at[start : start + _CHECKED_AT_ONCE]] = part
    memory.keep(kept, enlarged)
    if len(kept) < len(keys):
        reader = open_with(root, [keys[i] for i in kept], size, channels)
    return reader, kept, skipped, int(enlarged.sum())
