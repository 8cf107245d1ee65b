"""Random views of a whole batch at once, on the device of the batch.

A view is a random resized crop, a flip, colour jitter, greyscale, blur and solarisation, each image
with its own draw, as in SimCLR (arXiv 2002.05709) and BYOL (arXiv 2006.07733). Crop and flip are
one affine resampling; brightness, contrast, saturation, hue and greyscale are one 3 x 3 matrix and
an offset an image. All draws come from a generator on the CPU, so that a seed gives the same views
on every device and nothing waits for the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Mean and standard deviation of ImageNet's colours, which pretrained encoders expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_RGB_TO_YIQ = torch.tensor(
    [
        [0.299, 0.587, 0.114],
        [0.59590059, -0.27455667, -0.32134392],
        [0.21153661, -0.52273617, 0.31119955],
    ]
)


@dataclass(frozen=True)
class ViewSettings:
    """How a random view is drawn. Probabilities are per image.

    Args:
        size: side of the view, in pixels.
        crop_scale: area of the crop as a share of the image, low and high.
        crop_ratio: width over height of the crop, low and high.
        flip: probability of a horizontal flip.
        jitter: probability of colour jitter.
        brightness: factor drawn from ``1 +- brightness``.
        contrast: factor drawn from ``1 +- contrast``.
        saturation: factor drawn from ``1 +- saturation``.
        hue: turn drawn from ``+- hue``, as a share of the colour circle.
        grayscale: probability of losing all colour.
        blur: probability of a Gaussian blur.
        blur_sigma: its standard deviation, low and high, in pixels of a view of 224; scaled by
            size.
        solarize: probability of inverting all values above one half.
        edges: probability of drawing the image as its edges (:func:`draw_edges`), last of all.
        shared_style: area of the amplitude spectrum, drawn up to this share, that all images of a
            batch take from one of them (:func:`share_style`), which then also share one draw of
            colour jitter; 0 for none.
    """

    size: int
    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grayscale: float = 0.2
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    edges: float = 0.0
    shared_style: float = 0.0


def normalization(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation that images are normalised by: ImageNet's for colour, else 0.5."""
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (0.5,) * channels, (0.25,) * channels


def to_float(images: Tensor) -> Tensor:
    """Images in [0, 1], float32; uint8 ones are divided by 255."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def normalize(images: Tensor) -> Tensor:
    """Subtract the mean and divide by the deviation of each channel; channels-last in memory."""
    mean, std = normalization(images.shape[1])
    shape = (1, -1, 1, 1)
    shifted = (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)
    return shifted.contiguous(memory_format=torch.channels_last)


def plain_view(images: Tensor, size: int) -> Tensor:
    """The view for evaluation: resized, normalised, nothing random.

    Args:
        images: shape (N, C, H, W), uint8 or float in [0, 1].
        size: side of the view, in pixels.

    Returns:
        Tensor of shape (N, C, size, size).
    """
    images = to_float(images)
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return normalize(images)


def random_view(images: Tensor, settings: ViewSettings, generator: torch.Generator) -> Tensor:
    """One random view of each image.

    Args:
        images: shape (N, C, H, W), uint8 or float in [0, 1]. Colour is jittered for C = 3; for
            other C brightness and contrast only.
        settings: how to draw.
        generator: on the CPU; N x 13 uniform numbers are taken from it, two more for a shared
            style, and N more each where images may be solarised or drawn as edges.

    Returns:
        Normalised views, shape (N, C, size, size), channels-last in memory.
    """
    # Under autocast crops would be placed, and colours made, in bfloat16, which has eight bits.
    with torch.autocast(images.device.type, enabled=False):
        draw = torch.rand(len(images), 13, generator=generator)
        view = crop_and_flip(to_float(images), settings, draw[:, :5])
        if settings.shared_style > 0:
            which, area = torch.rand(2, generator=generator).tolist()
            view = share_style(view, int(which * len(view)), area * settings.shared_style)
            draw[:, 5:11] = draw[:1, 5:11].clone()
        view = jitter_color(view, settings, draw[:, 5:11]).clamp(0, 1)
        if settings.blur > 0:
            view = blur(view, settings, draw[:, 11:])
        if settings.solarize > 0:
            chosen = torch.rand(len(images), generator=generator) < settings.solarize
            chosen = chosen.to(view.device)[:, None, None, None]
            view = torch.where(chosen & (view >= 0.5), 1 - view, view)
        if settings.edges > 0:
            chosen = (
                (torch.rand(len(images), generator=generator) < settings.edges).nonzero().flatten()
            )
            chosen = chosen.to(view.device)
            view = view.index_copy(0, chosen, draw_edges(view[chosen]))
        return normalize(view)


def random_views(
    images: Tensor, settings: Sequence[ViewSettings], generator: torch.Generator
) -> list[Tensor]:
    """One random view of each image for each of the settings, drawn in turn."""
    return [random_view(images, s, generator) for s in settings]


def _between(uniform: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * uniform


def crop_and_flip(images: Tensor, settings: ViewSettings, draw: Tensor) -> Tensor:
    """Random resized crop and flip as one bilinear resampling.

    A crop that would be wider or higher than the image is cut to it (torchvision draws again, and
    after ten failures takes the centre).

    Args:
        images: float, shape (N, C, H, W).
        settings: how to draw.
        draw: uniform numbers, shape (N, 5): area, ratio, x, y, flip.

    Returns:
        Tensor of shape (N, C, size, size).
    """
    area = _between(draw[:, 0], *settings.crop_scale)
    low, high = settings.crop_ratio
    ratio = _between(draw[:, 1], math.log(low), math.log(high)).exp()
    # Shares of the image's sides; 1 reaches from edge to edge, as -1 to 1 does in grid_sample.
    aspect = images.shape[-2] / images.shape[-1]
    width = (area * ratio * aspect).sqrt().clamp(max=1)
    height = (area / ratio / aspect).sqrt().clamp(max=1)
    x = (2 * draw[:, 2] - 1) * (1 - width)
    y = (2 * draw[:, 3] - 1) * (1 - height)
    sign = torch.where(draw[:, 4] < settings.flip, -1.0, 1.0)
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = sign * width, x
    theta[:, 1, 1], theta[:, 1, 2] = height, y
    shape = [len(images), images.shape[1], settings.size, settings.size]
    grid = F.affine_grid(theta.to(images.device), shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def share_style(images: Tensor, reference: int, area: float) -> Tensor:
    """All images in the style of one of them: its low-frequency Fourier amplitudes, their phases.

    Batch styles standardization (Scalbert et al., 2024, arXiv 2303.06088): with one style in a
    batch, style does not help to tell its images apart. No domain labels are needed. Under several
    ranks each has a style of its own.

    Args:
        images: float in [0, 1], shape (N, C, H, W).
        reference: index of the image that gives the style.
        area: share of the spectrum that is replaced, a square round the mean colour, in [0, 1]; 0
            replaces the mean colour alone.

    Returns:
        Tensor of the images' shape, in [0, 1].
    """
    height, width = images.shape[-2:]
    spectrum = torch.fft.rfft2(images)
    amplitude = spectrum.abs()
    # In cycles a pixel: up to one half in each direction.
    reach = math.sqrt(area) / 2
    rows = torch.fft.fftfreq(height, device=images.device).abs() <= reach
    columns = torch.fft.rfftfreq(width, device=images.device) <= reach
    replaced = torch.where(rows[:, None] & columns, amplitude[reference], amplitude)
    spectrum = torch.polar(replaced, spectrum.angle())
    styled: Tensor = torch.fft.irfft2(spectrum, s=(height, width))
    return styled.clamp(0, 1)


def jitter_color(images: Tensor, settings: ViewSettings, draw: Tensor) -> Tensor:
    """Brightness, contrast, saturation, hue and greyscale as one affine map of the colours.

    Hue turns the chroma plane of YIQ, which keeps the luma (torchvision turns HSV, which does not).
    In this form the four operations commute: that torchvision shuffles them matters only for its
    clamping in between, which is left out here.

    Args:
        images: float in [0, 1], shape (N, C, H, W).
        settings: how to draw.
        draw: uniform numbers, shape (N, 6): whether, brightness, contrast, saturation, hue, grey.

    Returns:
        Tensor of the images' shape, not clamped.
    """
    on = (draw[:, 0] < settings.jitter).float()

    def factor(column: int, strength: float) -> Tensor:
        return 1 + on * _between(draw[:, column], -min(strength, 1), strength)

    brightness, contrast = factor(1, settings.brightness), factor(2, settings.contrast)
    if images.shape[1] == 3:
        saturation = factor(3, settings.saturation) * (draw[:, 5] >= settings.grayscale)
        angle = on * 2 * math.pi * _between(draw[:, 4], -settings.hue, settings.hue)
        chroma = torch.zeros(len(images), 3, 3)
        chroma[:, 0, 0] = 1
        chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * angle.cos()
        chroma[:, 2, 1] = saturation * angle.sin()
        chroma[:, 1, 2] = -chroma[:, 2, 1]
        colors = _RGB_TO_YIQ.inverse() @ chroma @ _RGB_TO_YIQ
        luma = torch.einsum("c,nchw->n", _RGB_TO_YIQ[0].to(images.device), images)
        luma = luma / images[0, 0].numel()
    else:
        colors = torch.eye(images.shape[1]).expand(len(images), -1, -1)
        luma = images.mean((1, 2, 3))
    colors = (colors * (brightness * contrast)[:, None, None]).to(images.device)
    offset = (brightness * (1 - contrast)).to(images.device) * luma
    return torch.baddbmm(offset[:, None, None], colors, images.flatten(2)).view_as(images)


def draw_edges(images: Tensor) -> Tensor:
    """Edges as dark lines on white: what most styles of drawing one thing have in common.

    The length of Sobel's gradient, in the channel where it is largest, as a share of the largest in
    the image. Views that bridge styles follow BrAD (Harary et al., 2022, arXiv 2112.02300), which
    learns its edges; here nothing is learnt.

    Args:
        images: float in [0, 1], shape (N, C, H, W).

    Returns:
        Tensor of the images' shape, in [0, 1], all channels alike; an image without edges is white.
    """
    n, c, h, w = images.shape
    sobel = images.new_tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]) / 4
    flat = F.pad(images.reshape(n * c, 1, h, w), [1] * 4, mode="replicate")
    gradient = F.conv2d(flat, torch.stack([sobel, sobel.T])[:, None])
    length = gradient.square().sum(1).sqrt().view(n, c, h, w).amax(1, keepdim=True)
    # Below a tenth of the full range there is no edge worth drawing, but noise.
    share = length / length.amax((2, 3), keepdim=True).clamp_min(0.1)
    return (1 - share.clamp(max=1)).expand(-1, c, -1, -1)


def blur(images: Tensor, settings: ViewSettings, draw: Tensor) -> Tensor:
    """Gaussian blur of some of the images, each with its own width.

    Args:
        images: float, shape (N, C, H, W).
        settings: how to draw.
        draw: uniform numbers, shape (N, 2): whether, width.

    Returns:
        Tensor of the images' shape.
    """
    chosen = (draw[:, 0] < settings.blur).nonzero().flatten()
    if len(chosen) == 0:
        return images
    sigma = _between(draw[chosen, 1], *settings.blur_sigma) * settings.size / 224
    radius = max(1, round(3 * settings.blur_sigma[1] * settings.size / 224))
    offsets = torch.arange(-radius, radius + 1)
    kernel = (-(offsets[None, :] ** 2) / (2 * sigma.clamp_min(1e-3)[:, None] ** 2)).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(images.device)
    chosen = chosen.to(images.device)
    some = images[chosen]
    n, c, h, w = some.shape
    rows = kernel.repeat_interleave(c, 0)[:, None]
    flat = F.pad(some.reshape(1, n * c, h, w), [radius] * 4, mode="reflect")
    flat = F.conv2d(flat, rows[:, :, :, None], groups=n * c)
    flat = F.conv2d(flat, rows[:, :, None, :], groups=n * c)
    return images.index_copy(0, chosen, flat.view(n, c, h, w))
