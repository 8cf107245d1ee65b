"""Images that lie many to a file, as small uint8 squares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddm.data.base import Resizable
from ddm.errors import DdmError


class Rows(Protocol):
    """Images that lie in one file, not in a file each."""

    def raw(self, i: int) -> NDArray[np.uint8]:
        """Image ``i``: RGB, shape (side, side, 3); raises `UnreadableImage`."""
        ...


class RowReader(Resizable):
    """Reads some of the rows, scaled: uint8, shape (size, size, channels).

    Args:
        rows: all images of the files.
        chosen: which of them, shape (M,).
        size: side of the images in pixels.
        channels: 3 for colour, 1 for grey.

    Raises:
        DdmError: a size below 1, or channels other than 1 and 3.
    """

    def __init__(self, rows: Rows, chosen: Sequence[int], size: int, channels: int) -> None:
        if size < 1:
            raise DdmError(f"size must be at least 1 pixel, not {size}")
        if channels not in (1, 3):
            raise DdmError(f"channels must be 3 (colour) or 1 (grey), not {channels}")
        self.rows = rows
        self.chosen = np.asarray(chosen, dtype=np.int64)
        self.size = size
        self.channels = channels

    def __call__(self, i: int) -> NDArray[np.uint8]:
        image = Image.fromarray(self.rows.raw(int(self.chosen[i])))
        image = image.convert("RGB" if self.channels == 3 else "L")
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.array(image).reshape(self.size, self.size, self.channels)

    def is_enlarged(self, i: int) -> bool:
        """Whether readable image ``i`` has fewer pixels a side in its file than when it is read."""
        side: int = self.rows.raw(int(self.chosen[i])).shape[0]
        return side < self.size
