"""SimCLR."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn

from ddm.methods.base import Method, MethodOutput, require_range, require_widths, simclr_view
from ddm.optimizers import OptimizerSettings
from ddm.views import ViewSettings


@dataclass(frozen=True)
class SimCLRSettings:
    """Args of SimCLR.

    Args:
        temperature: of the NT-Xent loss; the paper's best for CIFAR-10 is 0.5, for ImageNet 0.1.
        hidden_dim: width of the projection head.
        output_dim: width of the projections.
    """

    temperature: float = 0.2
    hidden_dim: int = 512
    output_dim: int = 128

    def __post_init__(self) -> None:
        require_range(self, 1e-3, 100, "temperature")
        require_widths(self, "hidden_dim", "output_dim")


class SimCLR(Method):
    """A Simple Framework for Contrastive Learning of Visual Representations.

    Chen et al., 2020 (arXiv 2002.05709). Two views of an image attract, all other images of the
    global batch repel. Both views go through the encoder as one batch, as in the authors' code.

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
        # Whether there are other ranks it asks at each step: Lightning starts them after this.
        self.criterion = NTXentLoss(
            s.temperature, gather_distributed=torch.distributed.is_available()
        )

    def views(self, size: int) -> list[ViewSettings]:
        return [simclr_view(size)] * 2

    def step(self, views: list[Tensor]) -> MethodOutput:
        features = self.encoder(torch.cat(views))
        projections = self.head(features[:, self.head_start :])
        loss = self.criterion(*projections.chunk(2))
        return MethodOutput(loss, torch.stack(features.chunk(2)))
