"""The contract of a self-supervised method."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ddm.distributed import world_size
from ddm.optimizers import OptimizerSettings
from ddm.views import ViewSettings


@dataclass(frozen=True)
class MethodOutput:
    """What one step of a method gives.

    Args:
        loss: the self-supervised loss, a scalar.
        features: the encoder's pooled output of each view with gradients, shape (V, N, D); MoCo's
            second view is its key encoder's, without.
    """

    loss: Tensor
    features: Tensor


class Method(nn.Module):
    """A self-supervised method: views in, loss and features out.

    A method never hears of domains unless it asks (:attr:`needs_domains`), and the module never
    hears of the method: they meet in the features.

    Args:
        encoder: gives pooled features, shape (N, feature_dim).
        feature_dim: their width D.
        head_start: the method's head sees ``h[:, head_start:]``: 0 for the whole representation,
            ``variant_dim`` for the invariant portion alone.
        settings: a ``settings_type``; the defaults without it.
    """

    #: What the paper trains with.
    optimizer: ClassVar[OptimizerSettings]
    #: Whether there may be more than two views.
    many_views: ClassVar[bool] = False
    #: The dataclass of the method's own settings.
    settings_type: ClassVar[type[Any]]

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        head_start: int = 0,
        settings: Any | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= head_start < feature_dim:
            raise ValueError(f"head_start={head_start} must lie in [0, feature_dim={feature_dim})")
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head_start = head_start
        self.head_dim = feature_dim - head_start
        self.settings = self.settings_type() if settings is None else settings

    def views(self, size: int) -> list[ViewSettings]:
        """The views of one step, for images of ``size`` pixels."""
        raise NotImplementedError

    def check_batch(self, global_batch: int) -> None:
        """Refuse a batch that the method cannot learn from.

        Args:
            global_batch: images in a batch, of all ranks together.

        Raises:
            ValueError: too small, or too large, for this method.
        """
        if global_batch < 2:
            raise ValueError(
                f"a batch of {global_batch} image: batch norm and negatives need two at least; "
                "raise the batch size"
            )

    @property
    def needs_domains(self) -> bool:
        """Whether :meth:`forward` must be told the images' domains."""
        return False

    def forward(self, views: Sequence[Tensor], domains: Tensor | None = None) -> MethodOutput:
        """One step.

        Args:
            views: what :meth:`views` asks for, in that order, each of shape (N, C, size, size).
            domains: domain of each image, shape (N,), -1 for unknown; read by a method that
                :attr:`needs_domains` only.

        Raises:
            ValueError: too few views or too many, a batch that the method cannot learn from, or no
                domains where they are needed.
        """
        views = list(views)
        wanted = "two views or more" if self.many_views else "two views"
        if len(views) < 2 or (len(views) > 2 and not self.many_views):
            raise ValueError(
                f"{type(self).__name__} needs {wanted} of each image, not {len(views)}"
            )
        if self.training:
            self.check_batch(len(views[0]) * world_size())
        if not self.needs_domains:
            return self.step(views)
        if domains is None:
            raise ValueError(
                f"{type(self).__name__} with these settings needs the domain of each image: "
                "method(views, domains)"
            )
        return self.step_in_domains(views, domains)

    def step(self, views: list[Tensor]) -> MethodOutput:
        """What each method does with its views."""
        raise NotImplementedError

    def step_in_domains(self, views: list[Tensor], domains: Tensor) -> MethodOutput:
        """What a method that :attr:`needs_domains` does instead of :meth:`step`."""
        raise NotImplementedError

    #: Share of training that is done, from 0 to 1; whoever trains sets it before each step.
    progress: float = 0.0

    def before_step(self) -> None:
        """Called after the backward pass, before each step of the optimizer."""

    def after_step(self) -> None:
        """Called after each step of the optimizer."""


@contextmanager
def in_float32(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Inside, autocast is off; gives the tensors, those of half precision in float32.

    Losses are computed so, as the module's terms are: in bfloat16 logits at a temperature of 0.1
    would keep eight bits, and the gradient of a contrastive loss be off by some percent.
    """
    half = torch.float16, torch.bfloat16
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield tuple(t.float() if t.dtype in half else t for t in tensors)


def require_widths(settings: Any, *names: str) -> None:
    """Refuse settings that are no positive whole numbers.

    Raises:
        ValueError: one is not; it is named.
    """
    for name in names:
        value = getattr(settings, name)
        if not 1 <= value <= 1 << 20:
            raise ValueError(f"{name}={value} must lie between 1 and {1 << 20}")


def require_range(settings: Any, low: float, high: float, *names: str) -> None:
    """Refuse settings outside ``[low, high]``; not-a-number lies outside.

    Raises:
        ValueError: one is; it is named.
    """
    for name in names:
        value = getattr(settings, name)
        if not low <= value <= high:
            raise ValueError(f"{name}={value} must lie in [{low:g}, {high:g}]")


def simclr_view(size: int, **changes: Any) -> ViewSettings:
    """The view of SimCLR: strong colour jitter and blur; milder and sharp for small images.

    Chen et al., 2020 (arXiv 2002.05709), appendix A, and B.9 for CIFAR-10: strength 0.5 and no
    blur. Crops cover 8% of the image and more; up to 64 pixels, where 8% would be a few pixels,
    20% and more, as in MoCo.
    """
    strength = 0.5 if size <= 64 else 1.0
    settings: dict[str, Any] = {
        "crop_scale": (0.2 if size <= 64 else 0.08, 1.0),
        "brightness": 0.8 * strength,
        "contrast": 0.8 * strength,
        "saturation": 0.8 * strength,
        "hue": 0.2 * strength,
        "blur": 0.0 if size <= 64 else 0.5,
        **changes,
    }
    return ViewSettings(size, **settings)


def byol_views(size: int) -> list[ViewSettings]:
    """The two views of BYOL and Barlow Twins, the second of which is sometimes solarised.

    Grill et al., 2020 (arXiv 2006.07733), table 6, above 64 pixels: milder colours than SimCLR's,
    the first nearly always blurred, the second nearly never. Small images keep SimCLR's views for
    small images: neither paper says what theirs would be.
    """
    if size <= 64:
        return [simclr_view(size), simclr_view(size, solarize=0.2)]
    mild = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
    return [
        simclr_view(size, **mild, blur=1.0),
        simclr_view(size, **mild, blur=0.1, solarize=0.2),
    ]


def moco_view(size: int) -> ViewSettings:
    """The view of MoCo v2 and SimSiam: SimCLR's with half the colour jitter, crops from 20% on."""
    mild = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    return simclr_view(size, crop_scale=(0.2, 1.0), **mild)


def cosine(start: float, end: float, progress: float) -> float:
    """From ``start`` to ``end`` along half a cosine, as ``progress`` runs from 0 to 1."""
    return end - (end - start) * (math.cos(math.pi * progress) + 1) / 2


class MomentumCopy(nn.Module):
    """A copy of modules that follows them by an exponential moving average; gets no gradient.

    Buffers (the statistics of batch norm) are copied as they are: averaging them would lag behind,
    and lightly's ``update_momentum`` leaves them at their first value.

    Args:
        online: what to follow.
        twin: a module of the same build to use where ``online`` cannot be deep-copied.
    """

    def __init__(self, online: nn.Module, twin: nn.Module | None = None) -> None:
        super().__init__()
        if twin is None:
            twin = copy.deepcopy(online)
        else:
            twin.load_state_dict(online.state_dict())
        self.model = twin.requires_grad_(False)

    @torch.no_grad()
    def update(self, online: nn.Module, momentum: float) -> None:
        """``copy = momentum * copy + (1 - momentum) * online``."""
        torch._foreach_lerp_(list(self.model.parameters()), list(online.parameters()), 1 - momentum)
        for mine, theirs in zip(self.model.buffers(), online.buffers(), strict=True):
            mine.copy_(theirs)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.model(x)
        return output
