"""What makes the variant portion tell the domain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddm.objectives.batch import (
    DomainBatch,
    balanced_cross_entropy,
    call_in_type,
    directions,
)
from ddm.objectives.checks import require_positive


class CrossEntropyVariant(nn.Module):
    """A linear classifier reads the domain off the variant portion.

    Args:
        dim: width of the variant portion.
        num_domains: number of domains.
    """

    def __init__(self, dim: int, num_domains: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(dim, num_domains)

    def forward(self, features: Tensor, batch: DomainBatch) -> Tensor:
        """The term, shape (), of standardised features, shape (M, dim)."""
        return balanced_cross_entropy(call_in_type(self.classifier, features), batch)


class PrototypeVariant(nn.Module):
    """One prototype a domain, a momentum mean of its normalised features; cosine softmax to them.

    Prototypical softmax as in Snell et al., 2017 (arXiv 1703.05175), prototypes kept by momentum as
    in PCL (arXiv 2005.04966). Nothing here is learnt by gradient: the prototypes are buffers.

    Args:
        dim: width of the variant portion.
        num_domains: number of domains.
        temperature: of the cosine softmax.
        momentum: share of the old prototype that stays at each step.

    Raises:
        ValueError: a temperature that is not above 0, a momentum outside [0, 1).
    """

    prototypes: Tensor
    seen: Tensor

    def __init__(
        self, dim: int, num_domains: int, temperature: float = 0.1, momentum: float = 0.9
    ) -> None:
        super().__init__()
        require_positive(temperature=temperature)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must lie in [0, 1)")
        self.temperature = temperature
        self.momentum = momentum
        self.register_buffer("prototypes", torch.zeros(num_domains, dim))
        self.register_buffer("seen", torch.zeros(num_domains, dtype=torch.bool))

    @torch.no_grad()
    def update(self, normalized: Tensor, batch: DomainBatch) -> None:
        """Move the prototypes of the domains that the batch holds towards their mean.

        Args:
            normalized: directions of the rows, shape (M, dim).
            batch: their domains.
        """
        means, old = batch.averaging.T @ normalized, self.prototypes.to(normalized.dtype)
        # One domain alone has no direction that tells it from the others.
        present = (batch.counts > 0) & batch.several.bool()
        kept = (self.momentum * self.seen.to(means.dtype))[:, None]
        moved = F.normalize(kept * old + (1 - kept) * means, dim=1)
        self.prototypes.copy_(torch.where(present[:, None], moved, old))
        self.seen.logical_or_(present)

    def forward(self, features: Tensor, batch: DomainBatch) -> Tensor:
        """The term, shape (), of standardised features, shape (M, dim)."""
        normalized = directions(features)
        if self.training:
            self.update(normalized, batch)
        # A copy: the next call moves the prototypes in place, perhaps before this one's backward.
        prototypes = self.prototypes.to(normalized.dtype, copy=True)
        logits = normalized @ prototypes.T / self.temperature
        # A domain that no batch has held yet has no prototype to be confused with; a finite mask
        # because 0 * -inf, for the rows of weight 0, would be NaN.
        logits = logits.masked_fill(~self.seen, -1e4)
        return balanced_cross_entropy(logits, batch)
