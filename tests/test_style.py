"""Style statistics against counting by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ddm.data import load_images
from ddm.style import (
    FLAT_COLOURS,
    HALVES,
    LUMINANCE,
    SATURATION,
    STYLE_SIZE,
    flat_colours,
    style_features,
    style_histograms,
)
from synthetic import make_dataset, write_folder


def joint_by_hand(image: np.ndarray) -> np.ndarray:
    """Joint histogram of saturation and luminance of each quarter, pixel by pixel."""
    height, width, _ = image.shape
    counts = np.zeros((4, (len(SATURATION) + 1) * (len(LUMINANCE) + 1)))
    for y in range(height):
        for x in range(width):
            r, g, b = (float(v) / 255 for v in image[y, x])
            grey, spread = 0.299 * r + 0.587 * g + 0.114 * b, max(r, g, b) - min(r, g, b)
            m = sum(grey > edge for edge in LUMINANCE)
            s = sum(spread > edge for edge in SATURATION)
            quarter = 2 * (y >= height // 2) + (x >= width // 2)
            counts[quarter, s * (len(LUMINANCE) + 1) + m] += 1
    return counts / (height * width / 4)


def test_colours_are_counted() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    found = style_histograms(pixels)["colour"][0].numpy()
    np.testing.assert_allclose(found, joint_by_hand(image), atol=1e-6)


def test_gradients_of_a_step() -> None:
    """A black and a white half: one column of large gradients, nothing else."""
    pixels = torch.zeros(1, 3, 16, 16)
    pixels[..., 8:] = 1
    edges = style_histograms(pixels)["edges"][0].numpy()
    # The first histogram: luminance x gradient; the step is seen from the dark side, at column 7.
    by_gradient = edges[:, : 7 * 8].reshape(4, 7, 8).sum(1)
    np.testing.assert_allclose(by_gradient[0], [7 / 8, *[0] * 6, 1 / 8], atol=1e-6)
    np.testing.assert_allclose(by_gradient[1], [1, *[0] * 7], atol=1e-6)


def flat_by_hand(image: np.ndarray) -> list[list[int]]:
    """Colours of flat areas of each quarter, pixel by pixel, the largest first."""
    height, width, _ = image.shape
    areas: list[dict[int, int]] = [{} for _ in range(4)]
    for y in range(height - 1):
        for x in range(width - 1):
            block = image[y : y + 2, x : x + 2].reshape(4, 3)
            if (block == block[0]).all() and block[0].tolist() not in ([0] * 3, [255] * 3):
                r, g, b = map(int, block[0])
                area = areas[2 * (y >= height // 2) + (x >= width // 2)]
                area[(r << 16) + (g << 8) + b] = area.get((r << 16) + (g << 8) + b, 0) + 1
    return [sorted(area, key=lambda c: (-area[c], -c))[:FLAT_COLOURS] for area in areas]


def test_flat_colours_by_hand() -> None:
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (12, 3), dtype=np.uint8)
    image = np.kron(palette[rng.integers(0, 12, (8, 8))], np.ones((4, 4, 1), np.uint8))
    image[-8:, -6:-4], image[-8:, -4:] = 0, 255
    image[:6, :9] = rng.integers(0, 256, (6, 9, 3))  # Nothing flat there.
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    found = flat_colours(pixels)
    assert found.shape == (1, 4, FLAT_COLOURS) and found.dtype == torch.int32
    for mine, theirs in zip(found[0].tolist(), flat_by_hand(image), strict=True):
        assert mine == theirs + [-1] * (FLAT_COLOURS - len(theirs))
    assert (flat_colours(torch.rand(2, 3, 16, 16)) == -1).all()


def test_black_and_white_are_nobodys_palette() -> None:
    """Photographs have them too, at borders and where they are clipped."""
    image = torch.rand(1, 3, 16, 16)
    image[..., :4, :], image[..., -4:, :] = 0, 1
    assert (flat_colours(image) == -1).all()


def test_halves_and_views() -> None:
    dataset = make_dataset(each=3, size=64)
    features = style_features(dataset, batch_size=7)
    assert len(features) == len(dataset) and features.halves.shape[1] == len(HALVES)
    columns = np.concatenate(list(features.views.values()))
    assert (np.sort(columns) == np.arange(features.whole.shape[1])).all()
    # Square roots of shares: left and right half together are the whole image.
    mean = (features.halves[:, 0] ** 2 + features.halves[:, 1] ** 2) / 2
    np.testing.assert_allclose(mean, features.whole**2, atol=1e-6)
    some = style_features(dataset, np.array([5, 2]))
    np.testing.assert_array_equal(some.whole, features.whole[[5, 2]])
    colour = features.only("colour")
    np.testing.assert_array_equal(colour.whole, features.whole[:, features.views["colour"]])
    assert (colour.colours == -1).all()
    palette = features.only("palette").subset([4, 1])
    assert palette.whole.shape == (2, 0)
    np.testing.assert_array_equal(palette.colours, features.colours[[4, 1]])


def test_style_is_the_same_whatever_size_is_trained_at(tmp_path: Path) -> None:
    root = write_folder(tmp_path, each=2)
    small, large = (style_features(load_images(str(root), size)) for size in (16, STYLE_SIZE))
    np.testing.assert_array_equal(small.whole, large.whole)
    np.testing.assert_array_equal(small.colours, large.colours)
    # Images that are held in memory have no other size: they are scaled.
    scaled = style_features(make_dataset(each=2, size=16))
    assert scaled.whole.shape == large.whole.shape
    assert (scaled.whole != large.whole).any()


@pytest.mark.parametrize("channels", [1, 8])
def test_other_channels(channels: int) -> None:
    pixels = torch.rand(2, channels, 16, 16)
    for name, histograms in style_histograms(pixels).items():
        assert torch.isfinite(histograms).all(), name
        assert histograms.shape[:2] == (2, 4)
    one = flat_colours(torch.full((1, channels, 16, 16), 0.5))
    other = flat_colours(torch.full((1, channels, 16, 16), 0.6))
    assert (one[..., 0] >= 0).all() and (one[..., 0] != other[..., 0]).all()
