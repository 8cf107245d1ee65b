"""Statistics of an image's style: how it is drawn or taken, as far as possible not what it shows.

Histograms of colours, gradients and local contrast at several scales, of each quarter of the image.
They say nothing of where in a quarter anything is. Colour and gradient statistics tell domains
apart well (Choi et al., 2021, arXiv 2103.15597, for instance), and need no trained encoder.

Beside them the exact colours of flat areas. What is drawn on a computer takes them from a palette,
the same for whatever it shows; photographs have hardly any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ddm.data.base import ImageDataset
from ddm.data.loading import IndexedImages, batches, default_workers
from ddm.views import to_float

#: Side at which styles are compared, in pixels.
STYLE_SIZE = 64
LUMINANCE = (0.03, 0.2, 0.4, 0.6, 0.8, 0.97)
SATURATION = (0.02, 0.1, 0.3, 0.6, 0.85)
#: The first ones are a difference of one grey level, and of two.
GRADIENT = (1 / 255, 2.2 / 255, 5 / 255, 12 / 255, 0.1, 0.25, 0.6)
CONTRAST = (-0.25, -0.1, -0.04, -0.01, -0.002, 0.002, 0.01, 0.04, 0.1, 0.25)
SCALES = (1, 2, 4)
#: Flat colours that are kept of each quarter, those of the largest areas.
FLAT_COLOURS = 8
#: The quarters (upper left, upper right, lower left, lower right) of each half of an image.
HALVES = {"left": (0, 2), "right": (1, 3), "upper": (0, 1), "lower": (2, 3)}


@dataclass(frozen=True)
class StyleFeatures:
    """Style statistics of images, and of each image's halves.

    Args:
        whole: square roots of histograms, shape (N, F), float32.
        halves: the same of the left, right, upper and lower half, shape (N, 4, F), float32. The
            halves of an image share its style and differ in content: how much a statistic differs
            between them says how much content is in it.
        colours: codes of the flat colours of each quarter, shape (N, 4, ``FLAT_COLOURS``), int32;
            -1 where there are fewer.
        views: for each family of statistics ("colour", "edges", "texture"), its columns.
    """

    whole: NDArray[np.float32]
    halves: NDArray[np.float32]
    colours: NDArray[np.int32]
    views: dict[str, NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.whole)

    def subset(self, rows: Any) -> StyleFeatures:
        """Some images: whatever picks rows of an array."""
        return StyleFeatures(self.whole[rows], self.halves[rows], self.colours[rows], self.views)

    def only(self, *views: str) -> StyleFeatures:
        """Some families of statistics alone; ``"palette"`` stands for the flat colours."""
        columns = [self.views[view] for view in views if view != "palette"]
        chosen = np.concatenate([np.empty(0, np.int64), *columns])
        colours = self.colours if "palette" in views else np.full_like(self.colours, -1)
        return StyleFeatures(self.whole[:, chosen], self.halves[:, :, chosen], colours, {})


def style_histograms(images: Tensor) -> dict[str, Tensor]:
    """Histograms of each quarter of each image, by family.

    Args:
        images: values in [0, 1], shape (N, C, H, W); H and W are multiples of 8.

    Returns:
        Family -> tensor of shape (N, 4, F): shares of a quarter's pixels; each histogram of a
        family sums to 1.
    """
    weights = images.new_tensor([0.299, 0.587, 0.114]) if images.shape[1] == 3 else None
    # Multispectral images have no luminance; the mean of their bands is as good.
    grey = images.mean(1) if weights is None else torch.einsum("nchw,c->nhw", images, weights)
    lightness = _bins(grey, LUMINANCE)
    saturation = _bins(images.amax(1) - images.amin(1), SATURATION)
    gradient = _bins(_gradient(images), GRADIENT)
    s, m, g = len(SATURATION) + 1, len(LUMINANCE) + 1, len(GRADIENT) + 1
    families = {
        "colour": [_quarters(saturation * m + lightness, s * m)],
        "edges": [
            _quarters(lightness * g + gradient, m * g),
            _quarters(saturation * g + gradient, s * g),
        ],
        "texture": [],
    }
    for scale in SCALES:
        if scale > 1:
            coarse = _bins(_gradient(F.avg_pool2d(images, scale)), GRADIENT)
            families["edges"].append(_quarters(coarse, g))
        contrast = _bins(_contrast(F.avg_pool2d(grey[:, None], scale)), CONTRAST)
        families["texture"].append(_quarters(contrast, len(CONTRAST) + 1))
    return {name: torch.cat(parts, 2) for name, parts in families.items()}


def flat_colours(images: Tensor) -> Tensor:
    """Codes of the colours of flat areas, of each quarter of each image.

    A pixel is flat where it and its right, lower and lower right neighbours are of one colour, to
    the 256 levels of a channel. Black and white are left out: photographs have them too, where they
    are clipped, and at their borders. A colour of three channels is coded as 0xRRGGBB, one of
    others by a hash.

    Args:
        images: values in [0, 1], shape (N, C, H, W); H and W are even.

    Returns:
        Tensor of shape (N, 4, ``FLAT_COLOURS``), int32: the colours of the largest flat areas,
        those of equal areas by code; -1 where there are fewer.
    """
    n, channels, height, width = images.shape
    code = torch.zeros(n, height, width, dtype=torch.int64, device=images.device)
    levels = (images.clamp(0, 1) * 255).round().long()
    for channel in levels.unbind(1):
        code = (code * (256 if channels == 3 else 1_000_003) + channel) % 2**31
    inner = code[:, :-1, :-1]
    flat = code.new_full(code.shape, -1)
    same = (code[:, 1:, :-1] == inner) & (code[:, :-1, 1:] == inner) & (code[:, 1:, 1:] == inner)
    clipped = (levels == 0).all(1) | (levels == 255).all(1)
    flat[:, :-1, :-1] = torch.where(same & ~clipped[:, :-1, :-1], inner, -1)
    quarters = flat.view(n, 2, height // 2, 2, width // 2).transpose(2, 3).reshape(4 * n, -1)
    # Lengths of runs of equal codes, each noted at its first place.
    ordered = quarters.sort(1).values
    size = ordered.shape[1]
    place = torch.arange(size, device=images.device).expand_as(ordered)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    following = F.pad(torch.where(first, place, size)[:, 1:], (0, 1), value=size)
    end = following.flip(1).cummin(1).values.flip(1)
    area = torch.where(first & (ordered >= 0), end - place, 0)
    # Area and code in one number: which of two equal areas comes first is then no chance.
    largest = (area * 2**31 + ordered.clamp_min(0)).topk(min(FLAT_COLOURS, size), 1).values
    found = torch.where(largest >= 2**31, largest % 2**31, -1)
    found = F.pad(found, (0, FLAT_COLOURS - found.shape[1]), value=-1)
    return found.view(n, 4, FLAT_COLOURS).int()


def _bins(values: Tensor, edges: tuple[float, ...]) -> Tensor:
    return torch.bucketize(values.contiguous(), values.new_tensor(edges))


def _quarters(bins: Tensor, count: int) -> Tensor:
    """Share of each bin in each quarter, (N, H, W) -> (N, 4, count)."""
    n, height, width = bins.shape
    rows = torch.arange(height, device=bins.device) // (height // 2)
    columns = torch.arange(width, device=bins.device) // (width // 2)
    quarter = 2 * rows[:, None] + columns
    image = torch.arange(n, device=bins.device)[:, None, None]
    place = ((4 * image + quarter) * count + bins).flatten()
    counts = torch.bincount(place, minlength=4 * n * count).view(n, 4, count)
    return counts.float() / (height * width // 4)


def _gradient(images: Tensor) -> Tensor:
    """Length of the gradient over all channels, (N, C, H, W) -> (N, H, W)."""
    right = F.pad(images[..., 1:] - images[..., :-1], (0, 1))
    down = F.pad(images[..., 1:, :] - images[..., :-1, :], (0, 0, 0, 1))
    return (right.square() + down.square()).sum(1).sqrt()


def _contrast(grey: Tensor) -> Tensor:
    """How much darker a pixel is than its surroundings, (N, 1, H, W) -> (N, H, W)."""
    surroundings = F.avg_pool2d(F.pad(grey, (2, 2, 2, 2), mode="replicate"), 5, 1)
    return (surroundings - grey)[:, 0]


def style_features(
    dataset: ImageDataset, indices: NDArray[np.int64] | None = None, batch_size: int = 64
) -> StyleFeatures:
    """Style statistics of images of a data set, in one pass.

    Args:
        dataset: images of any size. They are read at ``STYLE_SIZE`` pixels, whatever size they are
            trained at, where their reader can (:meth:`ImageDataset.resized`): what is smaller has
            lost its flat colours. Else they are scaled.
        indices: which of them, shape (M,); all by default.
        batch_size: images at a time.
    """
    chosen = np.arange(len(dataset)) if indices is None else indices
    dataset = dataset.resized(STYLE_SIZE)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loader = batches(IndexedImages(dataset, chosen), None, batch_size, default_workers(dataset))
    whole, halves, colours, views = [], [], [], {}
    with torch.inference_mode():
        for images, _, _ in tqdm(loader, desc="Styles", unit="batch", leave=False):
            pixels = to_float(images.to(device))
            if pixels.shape[-1] != STYLE_SIZE:
                side = (STYLE_SIZE, STYLE_SIZE)
                pixels = F.interpolate(pixels, side, mode="bilinear", antialias=True)
            families = style_histograms(pixels)
            quarters = torch.cat(list(families.values()), 2)
            parts = [quarters[:, half].mean(1) for half in HALVES.values()]
            whole.append(quarters.mean(1).sqrt().cpu().numpy())
            halves.append(torch.stack(parts, 1).sqrt().cpu().numpy())
            colours.append(flat_colours(pixels).cpu().numpy())
            start = 0
            for name, family in families.items():
                views[name] = np.arange(start, start + family.shape[2])
                start += family.shape[2]
    return StyleFeatures(
        np.concatenate(whole), np.concatenate(halves), np.concatenate(colours), views
    )
