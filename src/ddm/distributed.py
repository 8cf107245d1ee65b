"""Global batches: the rows of every rank, with gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Number of ranks; 1 where torch.distributed is not running."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    """All ranks' rows; the gradient of a row is summed over what all ranks' losses say of it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows)
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

    Raises:
        ValueError: no dimension to gather along, or ranks that bring different shapes. (The latter
            is looked at on the CPU only: on GPUs every step would wait for it.)
    """
    if world_size() == 1:
        return rows
    if rows.ndim == 0:
        raise ValueError("a single number has no rows to gather; give it a dimension: x[None]")
    if rows.device.type == "cpu":
        _require_equal_shapes(rows)
    gathered: Tensor = _Gather.apply(rows)
    return torch.cat(list(gathered), dim)


def _require_equal_shapes(rows: Tensor) -> None:
    own = torch.tensor([rows.ndim, *rows.shape] + [0] * (8 - rows.ndim))
    parts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(parts, own)
    if any(not torch.equal(part, own) for part in parts):
        shapes = [tuple(part[1 : 1 + int(part[0])].tolist()) for part in parts]
        raise ValueError(
            f"ranks bring rows of different shapes, {shapes}: a last batch that does not divide? "
            "drop it (drop_last=True), on every rank"
        )


class _Sum(torch.autograd.Function):
    """Sum over ranks; so is its gradient, as each rank's loss depends on the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the samples of all ranks, on any device.

    PyTorch's ``SyncBatchNorm`` exists on GPUs only; this one makes several processes on the CPU
    compute what one does. Ioffe & Szegedy, 2015 (arXiv 1502.03167), algorithm 1, with sums that run
    over all ranks, which may hold different numbers of samples. :func:`synchronize_batch_norm`
    makes it of other layers.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do: the second one holds the channels."""

    def forward(self, input: Tensor) -> Tensor:
        by_batch = self.training or self.running_mean is None
        gathers = by_batch and world_size() > 1
        output: Tensor = self._over_all_ranks(input) if gathers else super().forward(input)
        # timm has layers that hold what follows the norm too.
        for name in ("drop", "act"):
            if name in self._modules:
                output = getattr(self, name)(output)
        return output

    def _over_all_ranks(self, input: Tensor) -> Tensor:
        dims = [0, *range(2, input.ndim)]
        shape = [1, -1] + [1] * (input.ndim - 2)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        own = x.new_tensor([x.numel() / x.shape[1]])
        sums = _Sum.apply(torch.cat([x.sum(dims), own]))
        count = sums[-1]
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        output = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        if self.running_mean is not None:
            self._remember(mean.detach(), variance.detach(), count.detach())
        result: Tensor = output.to(input.dtype)
        return result

    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), share)


#: PyTorch's, and timm's with the activation that it holds.
_KNOWN_BATCH_NORMS = (
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "SyncBatchNorm",
    "BatchNormAct2d",
    "GlobalBatchNorm",
)


def synchronize_batch_norm(module: nn.Module, device_type: str = "cpu") -> nn.Module:
    """Make every batch norm inside ``module`` compute its statistics over all ranks, in place.

    Parameters, buffers and their names stay what they are, so optimizers and checkpoints do not
    notice.

    Args:
        module: holds the layers.
        device_type: where it will train. For ``"cuda"`` the layers become PyTorch's
            ``SyncBatchNorm`` (by timm's converter, which keeps the activation that some of timm's
            layers hold), elsewhere :class:`GlobalBatchNorm`.

    Returns:
        The module; another one only where it is itself a batch norm and the device a GPU.

    Raises:
        ValueError: a batch norm of an unknown kind, off the GPU.
    """
    if device_type == "cuda":
        import timm.layers

        converted: nn.Module = timm.layers.convert_sync_batchnorm(module)  # type: ignore
        return converted
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
            continue
        if type(layer).__name__ not in _KNOWN_BATCH_NORMS:
            raise ValueError(
                f"{name} is a {type(layer).__name__}, which cannot be made a batch norm over all "
                f"ranks; known are {', '.join(_KNOWN_BATCH_NORMS)}"
            )
        layer.__class__ = GlobalBatchNorm
    return module
