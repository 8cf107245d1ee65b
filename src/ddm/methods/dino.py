"""DINO."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from torch import Tensor, nn

from ddm.methods.base import (
    Method,
    MethodOutput,
    MomentumCopy,
    cosine,
    in_float32,
    require_range,
    require_widths,
    simclr_view,
)
from ddm.optimizers import OptimizerSettings
from ddm.views import ViewSettings


@dataclass(frozen=True)
class DINOSettings:
    """Args of DINO.

    Args:
        momentum: of the teacher at the start; rises to 1 along a cosine.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's softmax after its warm-up from 0.04; at the default,
            that of the authors' code, it does not rise. Their long runs go to 0.07.
        warmup: share of training over which the teacher's temperature rises.
        frozen: share of training over which the last layer stays as it is.
        hidden_dim: width of the head; the paper's is 2048.
        bottleneck_dim: width of its normalised bottleneck.
        output_dim: number of prototypes; the paper's 65536 is for ImageNet.
        local_views: small crops, which the student alone sees; the authors' code takes 8.
    """

    momentum: float = 0.996
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    warmup: float = 0.1
    frozen: float = 0.01
    hidden_dim: int = 1024
    bottleneck_dim: int = 256
    output_dim: int = 4096
    local_views: int = 4

    def __post_init__(self) -> None:
        require_range(self, 0, 1, "momentum", "warmup", "frozen")
        require_range(self, 1e-3, 100, "student_temperature", "teacher_temperature")
        require_range(self, 0, 100, "local_views")
        require_widths(self, "hidden_dim", "bottleneck_dim", "output_dim")


class DINO(Method):
    """Emerging Properties in Self-Supervised Vision Transformers.

    Caron et al., 2021 (arXiv 2104.14294), equation 3: a student matches, on all crops, what its
    slowly following teacher says of the two large ones; centring and sharpening of the teacher keep
    it from collapse. ``features`` hold the two large crops.

    ``encoder`` is the student. The authors evaluate the teacher, an average over the last hundreds
    of steps, which short runs leave far behind; both are in the checkpoint.

    Args:
        encoder: gives pooled features, shape (N, feature_dim), for crops of both sizes.
        feature_dim: their width.
        head_start: the heads see ``h[:, head_start:]``.
        settings: momentum, temperatures, widths and crops.
    """

    settings_type = DINOSettings
    many_views = True
    # Section 3.2: AdamW with a rate of 5e-4 at 256, the decay rises from 0.04 to 0.4. The limit of
    # the gradients is the default of the authors' code.
    optimizer = OptimizerSettings(
        "adamw", learning_rate=5e-4, weight_decay=0.04, final_weight_decay=0.4, clip_norm=3.0
    )

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        head_start: int = 0,
        settings: DINOSettings | None = None,
    ) -> None:
        super().__init__(encoder, feature_dim, head_start, settings)
        s: DINOSettings = self.settings

        def head() -> nn.Module:
            with warnings.catch_warnings():
                # Of lightly's code; its user can do nothing about it.
                warnings.filterwarnings("ignore", ".*weight_norm.* is deprecated", FutureWarning)
                return DINOProjectionHead(  # type: ignore[no-any-return]
                    self.head_dim, s.hidden_dim, s.bottleneck_dim, s.output_dim
                )

        self.head: Any = head()
        self.teacher_encoder = MomentumCopy(self.encoder)
        # A head of its own, since weight norm cannot be deep-copied.
        self.teacher_head = MomentumCopy(self.head, head())
        self.criterion = DINOLoss(s.output_dim, student_temp=s.student_temperature)

    def views(self, size: int) -> list[ViewSettings]:
        large = simclr_view(size, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
        large = replace(large, crop_scale=(0.4, 1.0))
        # 96 for 224, in whole patches of 16 as far as there are any.
        local = max(16, round(size * 96 / 224 / 16) * 16)
        small = replace(large, size=min(size, local), crop_scale=(0.05, 0.4))
        first, second = large, replace(large, solarize=0.2)
        if size > 64:
            first, second = replace(first, blur=1.0), replace(second, blur=0.1)
        return [first, second] + [small] * self.settings.local_views

    def step(self, views: list[Tensor]) -> MethodOutput:
        large = torch.cat(views[:2])
        features = self.encoder(large)
        parts = list(features.chunk(2))
        if len(views) > 2:
            parts += self.encoder(torch.cat(views[2:])).chunk(len(views) - 2)
        student = [self.head(part[:, self.head_start :]) for part in parts]
        teacher = self.teacher_head(self.teacher_encoder(large)[:, self.head_start :])
        with in_float32(teacher, *student) as (teacher, *student):
            loss = self.criterion(
                list(teacher.chunk(2)), student, teacher_temp=self._teacher_temperature()
            )
        return MethodOutput(loss, torch.stack(parts[:2]))

    def _teacher_temperature(self) -> float:
        s: DINOSettings = self.settings
        risen = min(1.0, self.progress / s.warmup) if s.warmup else 1.0
        return 0.04 + (s.teacher_temperature - 0.04) * risen

    def before_step(self) -> None:
        if self.progress < self.settings.frozen:
            for parameter in self.head.last_layer.parameters():
                parameter.grad = None

    def after_step(self) -> None:
        momentum = cosine(self.settings.momentum, 1, self.progress)
        self.teacher_encoder.update(self.encoder, momentum)
        self.teacher_head.update(self.head, momentum)
