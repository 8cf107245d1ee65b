"""BYOL."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from torch import Tensor, nn

from ddm.methods.base import (
    Method,
    MethodOutput,
    MomentumCopy,
    byol_views,
    cosine,
    in_float32,
    require_range,
    require_widths,
)
from ddm.optimizers import OptimizerSettings
from ddm.views import ViewSettings


@dataclass(frozen=True)
class BYOLSettings:
    """Args of BYOL.

    Args:
        momentum: of the target network at the start; rises to 1 along a cosine. The paper's 0.996
            is for 1000 epochs of ImageNet, its 0.99 for 300; here 0.99.
        hidden_dim: width of the projection and prediction heads; the paper's 4096 is for a
            ResNet-50.
        output_dim: width of the projections.
    """

    momentum: float = 0.99
    hidden_dim: int = 1024
    output_dim: int = 256

    def __post_init__(self) -> None:
        require_range(self, 0, 1, "momentum")
        require_widths(self, "hidden_dim", "output_dim")


class BYOL(Method):
    """Bootstrap Your Own Latent.

    Grill et al., 2020 (arXiv 2006.07733). An online network predicts, from one view, what a slowly
    following target network projects of the other. The loss is the mean of the two directions, each
    the negative cosine; the paper's is ``2 + 2`` of it a direction, four times as large with the
    same minimum. LARS makes that good for weights; biases and norms, which it does not scale, learn
    at a quarter of the paper's rate.

    Args:
        encoder: gives pooled features, shape (N, feature_dim).
        feature_dim: their width.
        head_start: the heads see ``h[:, head_start:]``.
        settings: momentum and widths.
    """

    settings_type = BYOLSettings
    optimizer = OptimizerSettings("lars", learning_rate=0.2, weight_decay=1.5e-6)

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        head_start: int = 0,
        settings: BYOLSettings | None = None,
    ) -> None:
        super().__init__(encoder, feature_dim, head_start, settings)
        s: BYOLSettings = self.settings
        self.head = BYOLProjectionHead(self.head_dim, s.hidden_dim, s.output_dim)
        self.prediction_head = BYOLPredictionHead(s.output_dim, s.hidden_dim, s.output_dim)
        self.target_encoder = MomentumCopy(self.encoder)
        self.target_head = MomentumCopy(self.head)
        self.criterion = NegativeCosineSimilarity()

    def views(self, size: int) -> list[ViewSettings]:
        return byol_views(size)

    def step(self, views: list[Tensor]) -> MethodOutput:
        both = torch.cat(views)
        features = self.encoder(both)
        predictions = self.prediction_head(self.head(features[:, self.head_start :]))
        targets = self.target_head(self.target_encoder(both)[:, self.head_start :])
        with in_float32(*predictions.chunk(2), *targets.chunk(2)) as (p1, p2, t1, t2):
            loss = (self.criterion(p1, t2) + self.criterion(p2, t1)) / 2
        return MethodOutput(loss, torch.stack(features.chunk(2)))

    def after_step(self) -> None:
        momentum = cosine(self.settings.momentum, 1, self.progress)
        self.target_encoder.update(self.encoder, momentum)
        self.target_head.update(self.head, momentum)
