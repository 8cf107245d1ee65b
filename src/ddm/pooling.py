"""Pooled features out of whatever an encoder returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

#: Where well-known libraries put the features: torchvision, transformers, DINOv2, solo-learn,
#: stable-pretraining.
KEYS = ("pooler_output", "x_norm_clstoken", "feats", "embedding", "features", "last_hidden_state")


def pool_features(
    output: Any,
    key: str | int | None = None,
    tokens: Literal["mean", "first"] = "mean",
    channels_last: bool = False,
) -> Tensor:
    """Features of shape (N, D) from an encoder's output.

    A map (N, C, H, W) is averaged over its places; timm's Swin and others give (N, H, W, C), which
    ``channels_last=True`` says. A sequence of tokens (N, L, D) is averaged too,
    or its first one, the class token, is taken. Of a tuple or list the last entry is taken, of a
    mapping the first of the well-known keys that it has.

    Args:
        output: what the encoder returned.
        key: which entry of a mapping, tuple or list to take; of a tensor there are none.
        tokens: ``"mean"`` or ``"first"``.
        channels_last: whether maps are (N, H, W, C).

    Returns:
        Tensor of shape (N, D).

    Raises:
        ValueError: no such entry, an output that is no tensor and holds none, or a shape that none
            of this fits.
    """
    if isinstance(output, Mapping):
        if key is None:
            key = next((k for k in KEYS if output.get(k) is not None), None)
        if key not in output:
            raise ValueError(
                f"the encoder returns a mapping with {', '.join(map(str, output))}; say which "
                f"entry holds the features by key=, not {key!r}"
            )
        return pool_features(output[key], None, tokens, channels_last)
    if isinstance(output, Sequence) and not isinstance(output, str):
        place = -1 if key is None else key
        if not isinstance(place, int) or not -len(output) <= place < len(output):
            raise ValueError(f"the encoder returns {len(output)} outputs; key={key!r} is none")
        return pool_features(output[place], None, tokens, channels_last)
    if not isinstance(output, Tensor):
        raise ValueError(f"the encoder returns {type(output).__name__}, not tensors")
    if key is not None:
        raise ValueError(
            f"the encoder returns a tensor, of which key={key!r} names no entry; leave key= out"
        )
    if tokens not in ("mean", "first"):
        raise ValueError(f"tokens={tokens!r} must be 'mean' or 'first'")
    if output.ndim == 4:
        return output.mean((1, 2) if channels_last else (2, 3))
    if output.ndim == 3:
        return output.mean(1) if tokens == "mean" else output[:, 0]
    if output.ndim == 2:
        return output
    raise ValueError(
        f"features of shape {tuple(output.shape)} cannot be pooled: (N, D), (N, L, D) and "
        "(N, C, H, W) can"
    )


class Pooled(nn.Module):
    """An encoder whose forward gives features of shape (N, D), whatever ``encoder`` returns.

    Args:
        encoder: any module.
        key: see :func:`pool_features`.
        tokens: see :func:`pool_features`.
        channels_last: see :func:`pool_features`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        key: str | int | None = None,
        tokens: Literal["mean", "first"] = "mean",
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.key = key
        self.tokens: Literal["mean", "first"] = tokens
        self.channels_last = channels_last

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """The encoder's features, pooled.

        Args:
            inputs: what the encoder takes.
            named: the same by name.

        Returns:
            Tensor of shape (N, D).

        Raises:
            ValueError: as :func:`pool_features`.
        """
        output = self.encoder(*inputs, **named)
        return pool_features(output, self.key, self.tokens, self.channels_last)
