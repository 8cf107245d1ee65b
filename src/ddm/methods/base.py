"""The contract of a self-supervised method."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ddm.optimizers import OptimizerSettings
from ddm.views import ViewSettings


@dataclass(frozen=True)
class MethodOutput:
    """What one step of a method gives.

    Args:
        loss: the self-supervised loss, a scalar.
        features: the encoder's pooled output of each view with gradients, shape (V, N, D).
    """

    loss: Tensor
    features: Tensor


class Method(nn.Module):
    """A self-supervised method: views in, loss and features out.

    A method never hears of domains, and the module never hears of the method: they meet in the
    features.

    Args:
        encoder: gives pooled features, shape (N, feature_dim).
        feature_dim: their width D.
        head_start: the method's head sees ``h[:, head_start:]``: 0 for the whole representation,
            ``variant_dim`` for the invariant portion alone.
    """

    #: What the paper trains with.
    optimizer: ClassVar[OptimizerSettings]

    def __init__(self, encoder: nn.Module, feature_dim: int, head_start: int = 0) -> None:
        super().__init__()
        if not 0 <= head_start < feature_dim:
            raise ValueError(f"head_start={head_start} must lie in [0, feature_dim={feature_dim})")
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head_start = head_start
        self.head_dim = feature_dim - head_start

    @classmethod
    def views(cls, size: int) -> list[ViewSettings]:
        """The views of one step, for images of ``size`` pixels."""
        raise NotImplementedError

    def forward(self, views: Sequence[Tensor]) -> MethodOutput:
        """One step.

        Args:
            views: what :meth:`views` asks for, in that order, each of shape (N, C, size, size).
        """
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after each step of the optimizer; ``progress`` runs from 0 to 1 over training."""


def simclr_view(size: int, **changes: float) -> ViewSettings:
    """The view of SimCLR: strong colour jitter and blur; milder and sharp for small images.

    Chen et al., 2020 (arXiv 2002.05709), appendix A, and B.9 for CIFAR-10: strength 0.5 and no
    blur.
    """
    strength = 0.5 if size <= 64 else 1.0
    settings = {
        "brightness": 0.8 * strength,
        "contrast": 0.8 * strength,
        "saturation": 0.8 * strength,
        "hue": 0.2 * strength,
        "blur": 0.0 if size <= 64 else 0.5,
        **changes,
    }
    return ViewSettings(size, **settings)  # type: ignore[arg-type]


class MomentumCopy(nn.Module):
    """A copy of modules that follows them by an exponential moving average; gets no gradient.

    Buffers (the statistics of batch norm) are copied as they are: averaging them would lag behind,
    and lightly's ``update_momentum`` leaves them at their first value.
    """

    def __init__(self, online: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(online).requires_grad_(False)

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
