"""Multispectral images: arrays of standardised bands in ``.npz`` files."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddm.data.base import Resizable
from ddm.data.images import FileReader, UnreadableImage

#: How many standard deviations from the mean become 3/4 and 1/4.
_HALFWAY = 2
#: NumPy reads the header of an array with ``ast.literal_eval``, which several threads at once can
#: break in CPython 3.11 ("AST constructor recursion depth mismatch").
_HEADER = threading.Lock()


def to_unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map standardised values to (0, 1): ``0.5 + 0.5 x / (|x| + 2)``.

    Views take images in [0, 1], but a standardised band has no bounds, and night lights reach
    dozens of deviations in a city. A fixed range would cut them off, eight bits would lose what is
    dark; this map is one-to-one, so nothing is lost but float32's last digits: with
    ``s = 2 u - 1``, ``x = 2 s / (1 - |s|)``. After `ddm.views.normalize`, which takes 0.5 off and
    divides by 0.25, the encoder sees ``x`` where ``|x|`` is small, and never more than 2.

    Args:
        values: any shape, mean 0 and deviation 1 for each band.

    Returns:
        float32 of the same shape.
    """
    unit: NDArray[np.float32] = np.float32(0.5) + np.float32(0.5) * values / (
        np.abs(values) + np.float32(_HALFWAY)
    )
    return unit


def read_array(path: str | os.PathLike[str], size: int, channels: int) -> NDArray[np.float32]:
    """Read the central square of a multispectral image as values in [0, 1].

    Args:
        path: an ``.npz`` file with one array ``x``, shape (channels, H, W), standardised.
        size: side of the square in pixels. The shorter side is scaled to it, antialiased, and the
            longer one is cropped at the centre.
        channels: bands that the array must have.

    Returns:
        float32, shape (size, size, channels); `to_unit` of the bands.

    Raises:
        UnreadableImage: a file that is missing, empty, truncated or damaged, without such an
            array, or with values that are not finite.
    """
    try:
        bands = np.asarray(_load(path), np.float32)
        if bands.ndim != 3 or bands.shape[0] != channels:
            raise ValueError(f"the array has shape {bands.shape}, not ({channels}, H, W)")
        if not np.isfinite(bands).all():
            raise ValueError("some values are not finite")
        return to_unit(np.stack([_central_square(band, size) for band in bands], axis=2))
    except FileNotFoundError as error:
        raise UnreadableImage(os.fspath(path), "no such file") from error
    # zipfile and zlib raise many kinds on damaged files; whatever it is, the file is to be named.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(os.fspath(path), reason) from error


def _load(path: str | os.PathLike[str]) -> NDArray[np.generic]:
    if os.path.getsize(path) == 0:
        raise ValueError("the file is empty")
    if not zipfile.is_zipfile(path):
        raise ValueError("not an .npz file, or cut off at its end")
    with _HEADER, np.load(path, allow_pickle=False) as arrays:
        if "x" not in arrays:
            raise ValueError("it holds no array 'x'")
        array: NDArray[np.generic] = arrays["x"]
    return array


def _central_square(band: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    height, width = band.shape
    if height == width == size:
        return band
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    square = Image.fromarray(band).resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    return np.asarray(square, np.float32)


class ArrayReader(Resizable):
    """Reads image ``i`` of a list of ``.npz`` files.

    Args:
        root: the folder that the paths are relative to.
        paths: N paths.
        size: side of the images in pixels.
        channels: bands of every image.
    """

    def __init__(
        self, root: str | os.PathLike[str], paths: Sequence[str], size: int, channels: int
    ) -> None:
        self.size = size
        self.channels = channels
        self._files = FileReader(root, paths, size)

    def __len__(self) -> int:
        return len(self._files)

    def path_of(self, i: int) -> str:
        """Where image ``i`` lies."""
        return self._files.path_of(i)

    def __call__(self, i: int) -> NDArray[np.float32]:
        """Read image ``i``: float32 in [0, 1], (size, size, channels); raises `UnreadableImage`."""
        return read_array(self.path_of(i), self.size, self.channels)

    def is_enlarged(self, i: int) -> bool:
        """Whether readable image ``i`` has fewer pixels a side in its file than when it is read."""
        # The header alone: the bands take long to unpack.
        with _HEADER, zipfile.ZipFile(self.path_of(i)) as file, file.open("x.npy") as array:
            np.lib.format.read_magic(array)
            shape, _, _ = np.lib.format.read_array_header_1_0(array)
        return int(min(shape[1:])) < self.size
