"""SimSiam."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor, nn

from ddm.methods.base import Method, MethodOutput, in_float32, moco_view, require_widths
from ddm.optimizers import OptimizerSettings
from ddm.views import ViewSettings


@dataclass(frozen=True)
class SimSiamSettings:
    """Args of SimSiam.

    Args:
        hidden_dim: width of the projection, as in section 3 of the paper.
        bottleneck_dim: width of the prediction's hidden layer, a quarter of it.
    """

    hidden_dim: int = 2048
    bottleneck_dim: int = 512

    def __post_init__(self) -> None:
        require_widths(self, "hidden_dim", "bottleneck_dim")


class SimSiam(Method):
    """Exploring Simple Siamese Representation Learning.

    Chen & He, 2020 (arXiv 2011.10566). Each view predicts the projection of the other, which gets
    no gradient: equation 4, the mean of both directions' negative cosines. As in MoCo, views are
    milder than SimCLR's in their colours (appendix A).

    Other than in the authors' code the rate warms up, biases and norms do not decay, and the
    predictor's rate falls with the rest (there it can be held, ``--fix-pred-lr``).

    Args:
        encoder: gives pooled features, shape (N, feature_dim).
        feature_dim: their width.
        head_start: the heads see ``h[:, head_start:]``.
        settings: widths.
    """

    settings_type = SimSiamSettings
    # Section 3: SGD with a base rate of 0.05, scaled linearly, weight decay 1e-4.
    optimizer = OptimizerSettings("sgd", learning_rate=0.05, weight_decay=1e-4)

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        head_start: int = 0,
        settings: SimSiamSettings | None = None,
    ) -> None:
        super().__init__(encoder, feature_dim, head_start, settings)
        s: SimSiamSettings = self.settings
        self.head = SimSiamProjectionHead(self.head_dim, s.hidden_dim, s.hidden_dim)
        self.prediction_head = SimSiamPredictionHead(s.hidden_dim, s.bottleneck_dim, s.hidden_dim)
        self.criterion = NegativeCosineSimilarity()

    def views(self, size: int) -> list[ViewSettings]:
        return [moco_view(size)] * 2

    def step(self, views: list[Tensor]) -> MethodOutput:
        features = self.encoder(torch.cat(views))
        projections = self.head(features[:, self.head_start :])
        predictions = self.prediction_head(projections)
        both = *predictions.chunk(2), *projections.detach().chunk(2)
        with in_float32(*both) as (p1, p2, z1, z2):
            loss = (self.criterion(p1, z2) + self.criterion(p2, z1)) / 2
        return MethodOutput(loss, torch.stack(features.chunk(2)))
