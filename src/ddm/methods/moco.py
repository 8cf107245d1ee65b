"""MoCo v2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightly.models.modules import MoCoProjectionHead
from torch import Tensor, nn

from ddm.distributed import gather_rows
from ddm.methods.base import (
    Method,
    MethodOutput,
    MomentumCopy,
    in_float32,
    moco_view,
    require_range,
    require_widths,
)
from ddm.optimizers import OptimizerSettings
from ddm.views import ViewSettings


@dataclass(frozen=True)
class MoCoSettings:
    """Args of MoCo v2.

    Args:
        temperature: of the InfoNCE loss.
        momentum: of the key encoder; the paper's 0.999 is for runs of 200 epochs of ImageNet, 0.99
            is that of its authors' CIFAR-10 demonstration.
        queue_size: keys kept as negatives. The paper's 65536 is 5% of ImageNet; on a small data set
            as many would be the data set itself, many epochs old.
        hidden_dim: width of the projection head; the paper's 2048 is for a ResNet-50.
        output_dim: width of the projections.
    """

    temperature: float = 0.2
    momentum: float = 0.99
    queue_size: int = 4096
    hidden_dim: int = 512
    output_dim: int = 128

    def __post_init__(self) -> None:
        require_range(self, 1e-3, 100, "temperature")
        require_range(self, 0, 1, "momentum")
        require_widths(self, "queue_size", "hidden_dim", "output_dim")


class KeyQueue(nn.Module):
    """A ring of keys, saved with the model.

    lightly's memory bank is not in the checkpoint of a model that holds it as a plain tensor, and
    drops what does not fit at its end; here a batch that does not divide the size wraps around.

    Args:
        size: number of keys.
        dim: width of a key.
    """

    keys: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Let new keys, shape (N, dim) and N <= size, take the place of the oldest."""
        size, count = len(self.keys), len(keys)
        place = (self.position + torch.arange(count, device=keys.device)) % size
        self.keys[place] = keys.to(self.keys.dtype)
        self.position.add_(count).remainder_(size)


class MoCo(Method):
    """Improved Baselines with Momentum Contrastive Learning (MoCo v2).

    He et al., 2019 (arXiv 1911.05722) and Chen et al., 2020 (arXiv 2003.04297). A query attracts
    the key of the other view of its image, which a slowly following encoder makes, and is repelled
    by a queue of earlier keys: equation 1 of the former. One direction only: of the two views in
    ``features`` the second is the key encoder's, without gradient. Other than in the authors' code
    the rate warms up, and biases and norms do not decay.

    The authors shuffle keys between GPUs, so that a query and its key do not share the statistics
    of batch norm, by which the positive could be told without looking. Here both come from the
    whole batch, on one rank or several: the cheat is open. On emoji it did no harm (k-NN beside
    lightly's MoCo with shuffling and split batch norm: ``benchmarks/methods.py``); on other data
    compare with an encoder without batch norm.

    Args:
        encoder: gives pooled features, shape (N, feature_dim).
        feature_dim: their width.
        head_start: the head sees ``h[:, head_start:]``.
        settings: temperature, momentum, queue and widths.
    """

    settings_type = MoCoSettings
    optimizer = OptimizerSettings("sgd", learning_rate=0.03, weight_decay=1e-4)

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        head_start: int = 0,
        settings: MoCoSettings | None = None,
    ) -> None:
        super().__init__(encoder, feature_dim, head_start, settings)
        s: MoCoSettings = self.settings
        self.head = MoCoProjectionHead(self.head_dim, s.hidden_dim, s.output_dim)
        self.key_encoder = MomentumCopy(self.encoder)
        self.key_head = MomentumCopy(self.head)
        self.queue = KeyQueue(s.queue_size, s.output_dim)

    def views(self, size: int) -> list[ViewSettings]:
        return [moco_view(size)] * 2

    def check_batch(self, global_batch: int) -> None:
        super().check_batch(global_batch)
        if global_batch > len(self.queue.keys):
            raise ValueError(
                f"queue_size={len(self.queue.keys)} is smaller than the global batch of "
                f"{global_batch}; raise queue_size, or choose a smaller batch"
            )

    def step(self, views: list[Tensor]) -> MethodOutput:
        query_view, key_view = views
        features = self.encoder(query_view)
        queries = self.head(features[:, self.head_start :])
        key_features = self.key_encoder(key_view)
        keys = self.key_head(key_features[:, self.head_start :])
        with in_float32(queries, keys) as (queries, keys):
            queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
            positive = (queries * keys).sum(1, keepdim=True)
            # A copy, since the queue moves on before the backward pass.
            negative = queries @ self.queue.keys.clone().T.to(queries.dtype)
            logits = torch.cat([positive, negative], dim=1) / self.settings.temperature
            loss = F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))
        if self.training:
            self.queue.push(gather_rows(keys))
        return MethodOutput(loss, torch.stack([features, key_features]))

    def after_step(self) -> None:
        self.key_encoder.update(self.encoder, self.settings.momentum)
        self.key_head.update(self.head, self.settings.momentum)
