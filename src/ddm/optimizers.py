"""Optimizers and the schedule of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightly.models.utils import get_weight_decay_parameters
from timm.optim.lars import Lars
from torch import nn

#: The batch that learning rates are given for.
REFERENCE_BATCH = 256


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer that a method's paper trains with.

    Args:
        name: ``"lars"``, ``"sgd"`` or ``"adamw"``.
        learning_rate: at a batch of 256.
        weight_decay: not applied to normalisation layers and biases.
        final_weight_decay: where the decay arrives, along a cosine; None keeps it.
        clip_norm: length to which each parameter's gradient is cut; None for no limit.
        scaling: how the rate grows with the batch, ``"linear"`` or with its ``"sqrt"``.
    """

    name: Literal["lars", "sgd", "adamw"]
    learning_rate: float
    weight_decay: float
    scaling: Literal["linear", "sqrt"] = "linear"
    final_weight_decay: float | None = None
    clip_norm: float | None = None


def make_optimizer(
    modules: Iterable[nn.Module], settings: OptimizerSettings, batch: int
) -> torch.optim.Optimizer:
    """The optimizer of all parameters that want a gradient.

    Args:
        modules: whose parameters to train.
        settings: which optimizer.
        batch: the global batch, which the learning rate is scaled to.

    Raises:
        ValueError: an unknown optimizer or scaling.
    """
    for name, value, known in (
        ("name", settings.name, ("lars", "sgd", "adamw")),
        ("scaling", settings.scaling, ("linear", "sqrt")),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}")
    decayed, free = get_weight_decay_parameters(modules)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in decayed if p.requires_grad]},
        {"params": [p for p in free if p.requires_grad], "weight_decay": 0.0},
    ]
    growth = batch / REFERENCE_BATCH
    growth = growth if settings.scaling == "linear" else growth**0.5
    rate = settings.learning_rate * growth
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=settings.weight_decay)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, weight_decay=settings.weight_decay)
    # Where the decay is exactly 0 LARS leaves out its trust ratio, as is wanted of norms and
    # biases, and takes steps many times as long.
    decay = settings.weight_decay or 1e-12
    return LARS(groups, lr=rate, momentum=0.9, weight_decay=decay)


class LARS(Lars):  # type: ignore[misc]
    """timm's LARS, which goes on from a checkpoint of lightly's too, as runs had it before.

    lightly's takes the same steps, wherever a gradient is not all zero, but makes a GPU wait twice
    for each parameter.
    """

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for group in self.param_groups:
            for name in ("trust_coeff", "trust_clip", "always_adapt"):
                group.setdefault(name, self.defaults[name])


def clip_gradients(optimizer: torch.optim.Optimizer, settings: OptimizerSettings) -> None:
    """Cut each parameter's gradient to the length that the settings allow, as DINO's code does.

    Each by itself, not all together as ``torch.nn.utils.clip_grad_norm_`` does with several.

    Args:
        optimizer: of :func:`make_optimizer`.
        settings: the same as there.
    """
    if settings.clip_norm is None:
        return
    gradients = [
        p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    for gradient, norm in zip(gradients, torch._foreach_norm(gradients), strict=True):
        gradient.mul_((settings.clip_norm / (norm + 1e-6)).clamp(max=1))


def schedule_weight_decay(
    optimizer: torch.optim.Optimizer, settings: OptimizerSettings, progress: float
) -> None:
    """Set the decay for the next step; nothing for a constant one.

    Args:
        optimizer: of :func:`make_optimizer`.
        settings: the same as there.
        progress: share of training that is done, from 0 to 1.
    """
    end = settings.final_weight_decay
    if end is not None:
        decay = end - (end - settings.weight_decay) * (1 + math.cos(math.pi * progress)) / 2
        optimizer.param_groups[0]["weight_decay"] = decay


def cosine_with_warmup(steps: int, warmup: int) -> Callable[[int], float]:
    """Factor of the learning rate at each step: a linear rise, then half a cosine to zero."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2

    return factor
