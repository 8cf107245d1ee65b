"""SimCLR."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn

from ddm.distributed import gather_rows
from ddm.methods.base import (
    Method,
    MethodOutput,
    in_float32,
    require_range,
    require_widths,
    simclr_view,
)
from ddm.optimizers import OptimizerSettings
from ddm.views import ViewSettings


@dataclass(frozen=True)
class SimCLRSettings:
    """Args of SimCLR.

    Args:
        temperature: of the NT-Xent loss; the paper's best for CIFAR-10 is 0.5, for ImageNet 0.1.
        hidden_dim: width of the projection head.
        output_dim: width of the projections.
        other_domains: weight of the negatives that come from another domain; 1 is SimCLR, 0 tells
            images apart within their own domain only (domain-aware negatives, after DARLING).
    """

    temperature: float = 0.2
    hidden_dim: int = 512
    output_dim: int = 128
    other_domains: float = 1.0

    def __post_init__(self) -> None:
        require_range(self, 1e-3, 100, "temperature")
        require_range(self, 0, 1, "other_domains")
        require_widths(self, "hidden_dim", "output_dim")


class SimCLR(Method):
    """A Simple Framework for Contrastive Learning of Visual Representations.

    Chen et al., 2020 (arXiv 2002.05709). Two views of an image attract, all other images of the
    global batch repel. Both views go through the encoder as one batch, as in the authors' code.

    With ``other_domains`` below 1, negatives from other domains count less: what tells domains
    apart then helps little to tell images apart (:func:`nt_xent`). It is the idea of
    DARLING (Zhang et al., 2022, arXiv 2107.06219), whose weights come from a classifier of domains,
    for domains that are given; it is not the whole of that method.

    Args:
        encoder: gives pooled features, shape (N, feature_dim).
        feature_dim: their width.
        head_start: the head sees ``h[:, head_start:]``.
        settings: temperature and widths.
    """

    settings_type = SimCLRSettings
    # Appendix B.1: 0.075 sqrt(batch), better for small batches than 0.3 batch / 256.
    optimizer = OptimizerSettings("lars", learning_rate=1.2, weight_decay=1e-6, scaling="sqrt")

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        head_start: int = 0,
        settings: SimCLRSettings | None = None,
    ) -> None:
        super().__init__(encoder, feature_dim, head_start, settings)
        s: SimCLRSettings = self.settings
        self.head = SimCLRProjectionHead(self.head_dim, s.hidden_dim, s.output_dim)

    def views(self, size: int) -> list[ViewSettings]:
        return [simclr_view(size)] * 2

    @property
    def needs_domains(self) -> bool:
        settings: SimCLRSettings = self.settings
        return settings.other_domains < 1

    def step(self, views: list[Tensor]) -> MethodOutput:
        features, projections = self._project(views)
        s: SimCLRSettings = self.settings
        return MethodOutput(nt_xent(gather_rows(projections, dim=1), s.temperature), features)

    def step_in_domains(self, views: list[Tensor], domains: Tensor) -> MethodOutput:
        features, projections = self._project(views)
        s: SimCLRSettings = self.settings
        loss = nt_xent(
            gather_rows(projections, dim=1),
            s.temperature,
            gather_rows(domains.to(projections.device)),
            s.other_domains,
        )
        return MethodOutput(loss, features)

    def _project(self, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Features (2, N, D) and projections (2, N, output_dim) of the two views."""
        features = self.encoder(torch.cat(views))
        projections = self.head(features[:, self.head_start :])
        return torch.stack(features.chunk(2)), torch.stack(projections.chunk(2))


def nt_xent(
    projections: Tensor,
    temperature: float,
    domains: Tensor | None = None,
    other_domains: float = 1.0,
) -> Tensor:
    """NT-Xent, whose negatives from other domains may have a weight of their own.

    The loss of a view with projection z, whose positive is z+, is

        -log(exp(z z+ / t) / (exp(z z+ / t) + sum_k w_k exp(z z_k / t)))

    with ``w_k = 1`` (equation 1 of SimCLR); given domains, ``w_k = other_domains`` for an image of
    another domain. Where either domain is unknown, ``w_k = 1``: nothing says that they differ. A
    view that is left without negatives has the loss 0.

    lightly's ``NTXentLoss`` gives the same number, but picks its negatives by a mask, which makes
    every step on a GPU wait until the encoder's passes are done.

    Args:
        projections: of both views, shape (2, N, D); normalised here.
        temperature: t.
        domains: shape (N,), -1 for unknown.
        other_domains: in [0, 1].

    Returns:
        The mean over the 2 N views, a scalar.
    """
    with in_float32(projections) as (projections,):
        z = F.normalize(projections.flatten(0, 1), dim=1)
        n = projections.shape[1]
        logits = z @ z.T / temperature
        if domains is not None:
            d = domains.repeat(2)
            differ = (d[:, None] != d) & (d[:, None] >= 0) & (d >= 0)
            log_weight = math.log(other_domains) if other_domains > 0 else -math.inf
            logits = torch.where(differ, logits + log_weight, logits)
        # A view is no negative of itself.
        logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -math.inf)
        return F.cross_entropy(logits, torch.arange(2 * n, device=z.device).roll(n))
