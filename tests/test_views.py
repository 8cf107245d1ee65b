"""Views against torchvision, image by image, and against what the docstrings promise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import functional as tv

from ddm.views import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ViewSettings,
    blur,
    crop_and_flip,
    draw_edges,
    jitter_color,
    normalize,
    plain_view,
    random_view,
    random_views,
    share_style,
    to_float,
)

LUMA = torch.tensor([0.299, 0.587, 0.114])
NOTHING: dict[str, Any] = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip": 0.0,
    "jitter": 0.0,
    "grayscale": 0.0,
}
JITTER: dict[str, Any] = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def still(size: int = 12, **changes: Any) -> ViewSettings:
    """Settings under which nothing happens, but for the changes."""
    return ViewSettings(size, **{**NOTHING, **changes})


def only(**changes: Any) -> ViewSettings:
    """Settings that always jitter, by nothing but the changes."""
    return still(jitter=1.0, **{**JITTER, **changes})


def random_images(n: int = 3, channels: int = 3, height: int = 12, width: int = 12) -> Tensor:
    return torch.rand(n, channels, height, width, generator=generator(7))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def undo_normalize(view: Tensor) -> Tensor:
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return view * std[:, None, None] + mean[:, None, None]


def draws(n: int, **columns: float | list[float]) -> Tensor:
    """Uniform numbers as jitter_color takes them, 0.5 (no change) where nothing is said."""
    names = ["on", "brightness", "contrast", "saturation", "hue", "gray"]
    draw = torch.full((n, 6), 0.5)
    for name, value in columns.items():
        draw[:, names.index(name)] = torch.tensor(value)
    return draw


def luma(images: Tensor) -> Tensor:
    return torch.einsum("c,nchw->nhw", LUMA.to(images), images)


# --- the whole view ------------------------------------------------------------------------------

BUSY = ViewSettings(10, hue=0.2, blur=0.5, solarize=0.5)


def test_the_seed_decides() -> None:
    images = random_images(8)
    first, again = (random_view(images, BUSY, generator(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, random_view(images, BUSY, generator(2)))


def test_views_of_one_step_differ() -> None:
    one, two = random_views(random_images(), [BUSY, BUSY], generator())
    assert not torch.equal(one, two)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("make", ["random_view", "plain_view"])
def test_shape_and_memory(make: str, channels: int) -> None:
    images = random_images(5, channels, 14, 9)
    if make == "random_view":
        view = random_view(images, BUSY, generator())
    else:
        view = plain_view(images, 10)
    assert view.shape == (5, channels, 10, 10)
    assert view.is_contiguous(memory_format=torch.channels_last)
    assert torch.isfinite(view).all()


def test_bytes_and_floats_are_the_same_image() -> None:
    images = torch.randint(0, 256, (4, 3, 12, 12), dtype=torch.uint8, generator=generator())
    floats = images.float() / 255
    assert torch.equal(to_float(images), floats)
    assert torch.equal(
        random_view(images, BUSY, generator()), random_view(floats, BUSY, generator())
    )
    assert torch.equal(plain_view(images, 8), plain_view(floats, 8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_floats_of_other_widths(dtype: torch.dtype) -> None:
    images = random_images().to(dtype)
    view = random_view(images, BUSY, generator())
    assert torch.equal(view, random_view(images.float(), BUSY, generator()))
    assert torch.equal(plain_view(images, 8), plain_view(images.float(), 8))


def test_input_is_left_alone() -> None:
    images = random_images()
    before = images.clone()
    random_view(images, BUSY, generator())
    plain_view(images, 12)
    assert torch.equal(images, before)


def test_nothing_random_is_the_image_itself() -> None:
    images = random_images()
    view = random_view(images, still(), generator())
    torch.testing.assert_close(undo_normalize(view), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(view, plain_view(images, 12), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [7, 12, 30])
def test_the_full_crop_is_the_image_resized(size: int) -> None:
    images = random_images(3, 3, 12, 12)
    view = random_view(images, still(size), generator())
    expected = F.interpolate(images, (size, size), mode="bilinear", align_corners=False)
    torch.testing.assert_close(undo_normalize(view), expected, atol=1e-5, rtol=0)


def test_values_are_clamped_before_they_are_normalised() -> None:
    images = random_images(64)
    view = undo_normalize(random_view(images, only(brightness=5.0, contrast=5.0), generator()))
    assert view.min() > -1e-5 and view.max() < 1 + 1e-5
    assert (view > 0.999).any()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_normalize(channels: int) -> None:
    images = random_images(2, channels)
    mean = IMAGENET_MEAN if channels == 3 else (0.5,) * channels
    std = IMAGENET_STD if channels == 3 else (0.25,) * channels
    torch.testing.assert_close(normalize(images), tv.normalize(images, mean, std))


def test_plain_view_is_torchvisions_resize() -> None:
    images = random_images(2, 3, 21, 17)
    expected = normalize(tv.resize(images, [8, 8], antialias=True))
    torch.testing.assert_close(plain_view(images, 8), expected)


# --- crop and flip -------------------------------------------------------------------------------


def test_flip_is_exact() -> None:
    images = random_images()
    flipped = random_view(images, still(flip=1.0), generator())
    torch.testing.assert_close(undo_normalize(flipped), images.flip(-1), atol=1e-5, rtol=0)


def test_flip_of_a_crop_is_the_crop_flipped() -> None:
    images = random_images(6)
    settings_ = ViewSettings(9)
    draw = torch.rand(6, 5, generator=generator())
    draw[:, 4] = 0.9
    upright = crop_and_flip(images, settings_, draw)
    draw[:, 4] = 0.1
    torch.testing.assert_close(
        crop_and_flip(images, settings_, draw), upright.flip(-1), atol=1e-5, rtol=0
    )


def test_crop_cuts_out_the_pixels_it_should() -> None:
    # A quarter of the area from each corner: at half the size, pixel for pixel.
    images = random_images(1, 3, 12, 12)
    quarter = still(6, crop_scale=(0.25, 0.25))
    for x, columns in ((0.0, slice(0, 6)), (1.0, slice(6, 12))):
        for y, rows in ((0.0, slice(0, 6)), (1.0, slice(6, 12))):
            crop = crop_and_flip(images, quarter, torch.tensor([[0.5, 0.5, x, y, 0.5]]))
            torch.testing.assert_close(crop, images[:, :, rows, columns], atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    draw=st.tuples(*[st.floats(0, 1, exclude_max=True, width=32)] * 4),
    low=st.floats(0.05, 1),
    high=st.floats(0.05, 1),
    shape=st.tuples(st.integers(8, 64), st.integers(8, 64)),
)
def test_area_ratio_and_place_of_crops(
    draw: tuple[float, ...], low: float, high: float, shape: tuple[int, int]
) -> None:
    height, width = shape
    low, high = sorted((low, high))
    # An image whose values are its own coordinates shows where the crop was taken.
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    images = torch.stack([x, y])[None].float()
    size = 32
    crop = still(size, crop_scale=(low, high), crop_ratio=(0.5, 2.0))
    view = crop_and_flip(images, crop, torch.tensor([[*draw, 0.5]]))[0]
    # Slopes from the middle, where the border does not act.
    middle = slice(size // 2 - 1, size // 2 + 1)
    across = float(view[0, 0, middle].diff()) * size
    down = float(view[1, middle, 0].diff()) * size
    center_x, center_y = float(view[0, 0, middle].mean()), float(view[1, middle, 0].mean())
    assert across <= width * 1.001 and down <= height * 1.001
    # Inside the image.
    assert center_x - across / 2 > -1e-2 and center_x + across / 2 < width + 1e-2
    assert center_y - down / 2 > -1e-2 and center_y + down / 2 < height + 1e-2
    area = low + (high - low) * draw[0]
    ratio = math.exp(math.log(0.5) + math.log(4.0) * draw[1])
    share = across * down / (width * height)
    if across < width * 0.999 and down < height * 0.999:
        assert share == pytest.approx(area, rel=1e-2)
        assert across / down == pytest.approx(ratio, rel=1e-2)
    else:
        # Cut to the image: smaller than drawn, never larger.
        assert share <= area * 1.01


def test_crops_cover_their_settings() -> None:
    images = (torch.arange(32) + 0.5).expand(2000, 1, 32, 32).contiguous()
    draw = torch.rand(2000, 5, generator=generator())
    view = crop_and_flip(images, still(16, crop_scale=(0.2, 0.9)), draw)
    share = (view[:, 0, 0, 7:9].diff(dim=1).squeeze(1) * 16 / 32).square()
    assert share.min() == pytest.approx(0.2, abs=0.01)
    assert share.max() == pytest.approx(0.9, abs=0.01)
    assert share.mean() == pytest.approx(0.55, abs=0.02)


# --- colour --------------------------------------------------------------------------------------


@pytest.mark.parametrize("u", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_torchvisions_jitter(name: str, u: float) -> None:
    # Half as bright and around the middle, so that torchvision's clamps do not act.
    images = 0.3 + 0.3 * random_images()
    changed = jitter_color(images, only(**{name: 0.6}), draws(3, **{name: u}))
    factor = 1 + 0.6 * (2 * u - 1)
    expected = getattr(tv, f"adjust_{name}")(images, factor)
    # torchvision rounds the weights of grey to four digits.
    torch.testing.assert_close(changed, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_strength_above_one_never_inverts(name: str) -> None:
    images = random_images()
    changed = jitter_color(images, only(**{name: 1.5}), draws(3, **{name: 0.0}))
    torch.testing.assert_close(
        changed, getattr(tv, f"adjust_{name}")(images, 0.0), atol=2e-4, rtol=0
    )
    changed = jitter_color(0.3 * images, only(brightness=1.5), draws(3, brightness=1.0))
    torch.testing.assert_close(changed, 0.3 * images * 2.5, atol=1e-5, rtol=0)


def test_jitter_in_any_order_is_the_same() -> None:
    images = random_images()
    all_at_once = jitter_color(
        images,
        only(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
        draws(3, brightness=0.1, contrast=0.8, saturation=0.9, hue=0.2),
    )
    steps = {
        "brightness": (0.4, 0.1),
        "contrast": (0.4, 0.8),
        "saturation": (0.4, 0.9),
        "hue": (0.1, 0.2),
    }
    for order in (list(steps), list(steps)[::-1], ["hue", "contrast", "saturation", "brightness"]):
        one_by_one = images
        for name in order:
            strength, u = steps[name]
            one_by_one = jitter_color(one_by_one, only(**{name: strength}), draws(3, **{name: u}))
        torch.testing.assert_close(one_by_one, all_at_once, atol=1e-5, rtol=0)


def test_hue_of_nothing_changes_nothing() -> None:
    images = random_images()
    torch.testing.assert_close(
        jitter_color(images, only(hue=0.5), draws(3, hue=0.5)), images, atol=1e-5, rtol=0
    )


def test_hue_keeps_luma_and_chroma() -> None:
    images = random_images()
    turned = jitter_color(images, only(hue=0.5), draws(3, hue=[0.1, 0.7, 0.95]))
    assert (turned - images).abs().max() > 0.1
    torch.testing.assert_close(luma(turned), luma(images), atol=1e-5, rtol=0)
    # The length of the chroma, in the I and Q of NTSC.
    iq = torch.tensor([[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    before, after = (torch.einsum("kc,nchw->nkhw", iq, x).norm(dim=1) for x in (images, turned))
    torch.testing.assert_close(after, before, atol=1e-3, rtol=0)


def test_half_a_turn_of_hue_is_the_opposite_colour() -> None:
    images = random_images()
    turned = jitter_color(images, only(hue=0.5), draws(3, hue=1.0))
    torch.testing.assert_close(turned, 2 * luma(images)[:, None] - images, atol=1e-5, rtol=0)


def test_a_full_turn_of_hue_is_no_turn() -> None:
    images = random_images()
    turned = jitter_color(images, only(hue=1.0), draws(3, hue=1.0))
    torch.testing.assert_close(turned, images, atol=1e-5, rtol=0)


def test_grayscale_is_luma_in_every_channel() -> None:
    images = random_images()
    # Even where all else is jittered: colour must not come back.
    gray = jitter_color(images, only(hue=0.2, saturation=0.5, grayscale=1.0), draws(3, hue=0.9))
    for channel in range(3):
        torch.testing.assert_close(gray[:, channel], luma(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(gray, tv.rgb_to_grayscale(images, 3), atol=2e-4, rtol=0)


def test_each_image_has_its_own_draw() -> None:
    images = random_images(1).expand(4, -1, -1, -1)
    draw = draws(4, on=[0.0, 0.0, 0.9, 0.9], brightness=0.9, gray=[0.9, 0.0, 0.9, 0.0])
    half = {**JITTER, "jitter": 0.5, "brightness": 0.5, "grayscale": 0.5}
    out = jitter_color(images, still(**half), draw)
    expected = [images[0] * 1.4, luma(images)[0] * 1.4, images[0], luma(images)[0]]
    for found, wanted in zip(out, expected, strict=True):
        torch.testing.assert_close(found, wanted.expand(3, -1, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_get_brightness_and_contrast_only(channels: int) -> None:
    images = random_images(2, channels)
    every = only(brightness=0.4, contrast=0.4, saturation=0.9, hue=0.5, grayscale=1.0)
    draw = draws(2, brightness=0.75, contrast=0.25, hue=0.9, saturation=0.9)
    out = jitter_color(images, every, draw)
    bright = 1.2 * images
    expected = 0.8 * bright + 0.2 * bright.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


# --- blur and solarise ---------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("u", [0.0, 0.4, 1.0])
def test_torchvisions_blur(u: float, channels: int) -> None:
    # At 224 pixels sigma is in pixels, and the kernel three of the largest sigma to each side.
    images = random_images(2, channels, 20, 24)
    settings_ = still(224, blur=1.0, blur_sigma=(0.5, 2.0))
    out = blur(images, settings_, torch.tensor([[0.5, u], [0.0, 1 - u]]))
    for i, v in enumerate((u, 1 - u)):
        expected = tv.gaussian_blur(images[i : i + 1], [13, 13], [0.5 + 1.5 * v] * 2)
        torch.testing.assert_close(out[i : i + 1], expected, atol=1e-5, rtol=0)


def test_blur_scales_with_the_view() -> None:
    images = random_images(1, 3, 56, 56)
    out = blur(images, still(56, blur=1.0, blur_sigma=(4.0, 4.0)), torch.tensor([[0.0, 0.5]]))
    torch.testing.assert_close(out, tv.gaussian_blur(images, [7, 7], [1.0, 1.0]), atol=1e-5, rtol=0)


def test_blur_of_some_images_only() -> None:
    images = random_images(3)
    out = blur(images, still(224, blur=0.5), torch.tensor([[0.9, 1.0], [0.1, 1.0], [0.5, 1.0]]))
    assert torch.equal(out[[0, 2]], images[[0, 2]])
    assert not torch.equal(out[1], images[1])
    assert torch.equal(blur(images, still(blur=0.5), torch.full((3, 2), 0.9)), images)


def test_blur_so_narrow_that_it_changes_nothing() -> None:
    images = random_images(2, 3, 8, 8)
    out = blur(images, still(8, blur=1.0, blur_sigma=(0.0, 0.1)), torch.zeros(2, 2))
    torch.testing.assert_close(out, images)


def test_solarize_is_torchvisions() -> None:
    images = random_images()
    view = undo_normalize(random_view(images, still(solarize=1.0), generator()))
    torch.testing.assert_close(view, tv.solarize(images, 0.5), atol=1e-5, rtol=0)


def test_solarize_of_some_images_only() -> None:
    images = random_images(1).expand(400, -1, -1, -1)
    view = undo_normalize(random_view(images, still(solarize=0.25), generator()))
    changed = (view - images).abs().amax((1, 2, 3)) > 1e-3
    assert changed.float().mean() == pytest.approx(0.25, abs=0.07)


def test_edges_are_where_the_image_changes() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[:, 1, :, 4:] = 0.8  # a green half: the red and the blue channel hold no edge
    drawn = draw_edges(image)
    expected = torch.ones(1, 3, 8, 8)
    expected[..., 3:5] = 0
    torch.testing.assert_close(drawn, expected)
    # The same edge in another style gives the same drawing.
    torch.testing.assert_close(draw_edges(1 - 0.5 * image), drawn)


def test_an_image_without_edges_stays_white() -> None:
    torch.testing.assert_close(draw_edges(torch.full((2, 1, 8, 8), 0.3)), torch.ones(2, 1, 8, 8))
    faint = torch.full((1, 3, 8, 8), 0.5) + 1e-4 * torch.randn(1, 3, 8, 8)
    assert draw_edges(faint).min() > 0.99


def test_edges_of_some_images_only() -> None:
    images = random_images(1).expand(400, -1, -1, -1)
    plain = undo_normalize(random_view(images, still(), generator()))
    view = undo_normalize(random_view(images, still(edges=0.25), generator()))
    changed = (view - plain).abs().amax((1, 2, 3)) > 1e-3
    assert changed.float().mean() == pytest.approx(0.25, abs=0.07)
    torch.testing.assert_close(view[changed][0], draw_edges(images[:1])[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_autocast_changes_nothing(channels: int) -> None:
    # Crops placed in bfloat16 are off by whole pixels in larger images.
    images = random_images(16, channels, 96, 96)
    busy = ViewSettings(64, crop_scale=(0.08, 1.0), blur=0.5, solarize=0.2, edges=0.3,
                        shared_style=0.5)  # fmt: skip
    expected = random_view(images, busy, generator())
    with torch.autocast("cpu", torch.bfloat16):
        view = random_view(images, busy, generator())
    assert view.dtype == torch.float32 and torch.equal(view, expected)


# --- draws ---------------------------------------------------------------------------------------


def test_images_of_one_batch_have_draws_of_their_own() -> None:
    images = random_images(1).expand(16, -1, -1, -1)
    view = random_view(images, BUSY, generator()).flatten(1)
    distance = torch.cdist(view, view) + 1e6 * torch.eye(16)
    assert distance.min() > 1e-3


def test_operations_are_drawn_independently() -> None:
    # Blur once read the number that also decided on greyscale: every grey image was blurred.
    n = 4000
    half = still(16, flip=0.5, grayscale=0.5, blur=0.5, blur_sigma=(20.0, 20.0))
    images = torch.zeros(n, 3, 16, 16)
    images[:, 0, :, :8] = 0.9  # red on the left
    view = undo_normalize(random_view(images, half, generator()))
    left, right = view[:, :, 8, 0], view[:, :, 8, -1]
    lit = torch.where((left.sum(1) > right.sum(1))[:, None], left, right)
    happened = torch.stack(
        [
            right.sum(1) > left.sum(1),  # flip
            lit.amax(1) - lit.amin(1) < 1e-3,  # greyscale
            (view[:, :, 8, 7] - view[:, :, 8, 0]).abs().amax(1) > 1e-3,  # blur, at the edge
        ]
    ).float()
    torch.testing.assert_close(happened.mean(1), torch.full((3,), 0.5), atol=0.05, rtol=0)
    torch.testing.assert_close(torch.corrcoef(happened), torch.eye(3), atol=0.08, rtol=0)


@pytest.mark.parametrize("size", [(12, 12), (9, 14)])
def test_the_whole_style_of_one_image_is_its_amplitudes_with_the_others_phases(
    size: tuple[int, int],
) -> None:
    # Half-way grey and faint, so that nothing is clamped.
    images = 0.5 + 0.02 * (random_images(4, height=size[0], width=size[1]) - 0.5)
    styled = share_style(images, 2, 1.0)
    expected = torch.fft.fft2(images[2]).abs().expand(4, -1, -1, -1)
    torch.testing.assert_close(torch.fft.fft2(styled).abs(), expected, rtol=1e-4, atol=1e-3)
    strong = torch.fft.fft2(images).abs() > 0.05
    turned = torch.fft.fft2(styled) * torch.fft.fft2(images).conj()
    assert (turned.angle().abs()[strong & (expected > 0.05)] < 0.05).all()
    torch.testing.assert_close(styled[2], images[2], rtol=0, atol=1e-5)


def test_the_smallest_style_is_the_mean_colour() -> None:
    images = 0.5 + 0.1 * (random_images(3) - 0.5)
    images[1] += 0.2
    styled = share_style(images, 1, 0.0)
    means = images.mean((2, 3), keepdim=True)
    torch.testing.assert_close(styled, images - means + means[1], rtol=0, atol=1e-5)


def test_the_area_of_a_style_is_a_share_of_the_spectrum() -> None:
    images = 0.5 + 0.02 * (random_images(2, height=64, width=64) - 0.5)
    changed = (
        torch.fft.fft2(share_style(images, 1, 0.25))[0] - torch.fft.fft2(images)[0]
    ).abs() > 1e-3
    assert changed.float().mean() == pytest.approx(0.25, abs=0.03)
    frequency = torch.fft.fftfreq(64).abs()
    assert not changed[:, frequency > 0.25].any() and not changed[:, :, frequency > 0.25].any()


def test_a_shared_style_makes_one_colour_of_a_batch() -> None:
    images = torch.stack([torch.full((3, 8, 8), v) for v in (0.2, 0.5, 0.8)])
    settings = ViewSettings(8, shared_style=0.5)
    first, second = random_views(images, [settings] * 2, generator(3))
    for view in (first, second):
        torch.testing.assert_close(view[0], view[1])
        torch.testing.assert_close(view[0], view[2])
    assert not torch.allclose(first, second)
    own = random_view(images, ViewSettings(8), generator(3))
    assert not torch.allclose(own[0], own[1])
