"""Barlow Twins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightly.models.modules import BarlowTwinsProjectionHead
from torch import Tensor, nn

from ddm.distributed import gather_rows
from ddm.methods.base import (
    Method,
    MethodOutput,
    byol_views,
    in_float32,
    require_range,
    require_widths,
)
from ddm.optimizers import OptimizerSettings
from ddm.views import ViewSettings


@dataclass(frozen=True)
class BarlowTwinsSettings:
    """Args of Barlow Twins.

    Args:
        scale: of the loss, which is a sum over output dimensions and so hundreds of times as large
            as others: without it nothing that is added to it would count.
        redundancy: weight of the off-diagonal part, the paper's lambda.
        hidden_dim: width of the projection head; the paper's 8192 is for a ResNet-50.
        output_dim: width of the projections, likewise.
    """

    scale: float = 0.024
    redundancy: float = 5e-3
    hidden_dim: int = 1024
    output_dim: int = 1024

    def __post_init__(self) -> None:
        require_range(self, 1e-6, 1e6, "scale")
        require_range(self, 0, 1e6, "redundancy")
        require_widths(self, "hidden_dim", "output_dim")


class BarlowTwins(Method):
    """Barlow Twins: Self-Supervised Learning via Redundancy Reduction.

    Zbontar et al., 2021 (arXiv 2103.03230), equation 1: the cross-correlation between the two
    views' projections, standardised over the global batch, is drawn to the identity. (lightly's
    loss standardises each rank by itself, so that two ranks do not equal one.)

    Args:
        encoder: gives pooled features, shape (N, feature_dim).
        feature_dim: their width.
        head_start: the head sees ``h[:, head_start:]``.
        settings: weight and widths.
    """

    settings_type = BarlowTwinsSettings
    # Section 2.2: LARS, rates at 256 of 0.2 for weights and 0.0048 for biases and norms, weight
    # decay 1.5e-6 (appendix). LARS does not see the scale of a loss, and moves biases and norms by
    # plain SGD: 0.2 with the loss scaled by 0.024, as in the authors' first code, is the same.
    optimizer = OptimizerSettings("lars", learning_rate=0.2, weight_decay=1.5e-6)

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        head_start: int = 0,
        settings: BarlowTwinsSettings | None = None,
    ) -> None:
        super().__init__(encoder, feature_dim, head_start, settings)
        s: BarlowTwinsSettings = self.settings
        self.head = BarlowTwinsProjectionHead(self.head_dim, s.hidden_dim, s.output_dim)

    def views(self, size: int) -> list[ViewSettings]:
        return byol_views(size)  # Appendix A.

    def step(self, views: list[Tensor]) -> MethodOutput:
        features = self.encoder(torch.cat(views))
        z1, z2 = self.head(features[:, self.head_start :]).chunk(2)
        loss = self.loss(gather_rows(z1), gather_rows(z2))
        return MethodOutput(loss, torch.stack(features.chunk(2)))

    def loss(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Equation 1, times ``scale``, on the global batch's projections: (N, output_dim) each."""
        with in_float32(z1, z2) as both:
            standardized = [_standardize(z) for z in both]
            correlation = standardized[0].T @ standardized[1] / len(z1)
            diagonal = correlation.diagonal()
            invariance = (1 - diagonal).square().sum()
            redundancy = correlation.square().sum() - diagonal.square().sum()
            settings: BarlowTwinsSettings = self.settings
            return settings.scale * (invariance + settings.redundancy * redundancy)


def _standardize(z: Tensor) -> Tensor:
    """Zero mean and unit variance in each dimension; the epsilon is batch norm's."""
    return (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()
