"""Global batches: the rows of every rank, with gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks; 1 where torch.distributed is not running."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    """All ranks' rows; the gradient of a row is summed over what all ranks' losses say of it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous()
        dist.all_reduce(summed)
        return summed[dist.get_rank()]


def gather_rows(rows: Tensor, dim: int = 0) -> Tensor:
    """Concatenate the rows of all ranks along ``dim``, in rank order.

    Gradients flow back to the rank that a row came from, summed over the ranks' losses. Under
    ``DistributedDataParallel``, which averages gradients over ranks, a loss that every rank
    computes on the gathered rows therefore has the very gradient of one process on the joined
    batch.

    Args:
        rows: the same shape on every rank.
        dim: the dimension of the batch.

    Returns:
        Tensor with ``world_size()`` times as many rows; ``rows`` itself on one process.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return torch.cat(list(gathered), dim)
