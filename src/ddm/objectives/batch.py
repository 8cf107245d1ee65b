"""The domains of a batch, and what several terms do with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-5


@dataclass(frozen=True)
class DomainBatch:
    """The domains of a batch, in the forms that the terms need; :meth:`from_index` makes it.

    Args:
        one_hot: shape (M, K), row of zeros where the domain is unknown. M = views x samples, view
            by view: row ``v * N + n`` is view ``v`` of sample ``n``.
        num_views: how many views of each sample the rows hold.
        counts: rows of each domain, shape (K,).
        several: 1 where the batch holds two known domains or more, else 0; shape ().
        weights: weight of each row, shape (M,): each present domain weighs the same, their sum is
            1. All zero for a batch of fewer than two known domains.
        averaging: ``averaging.T @ x`` is the mean of each domain; shape (M, K).
    """

    one_hot: Tensor
    num_views: int
    counts: Tensor
    several: Tensor
    weights: Tensor
    averaging: Tensor

    @classmethod
    def from_index(
        cls, domains: Tensor, num_domains: int, num_views: int = 1, dtype: torch.dtype | None = None
    ) -> DomainBatch:
        """Build from domain indices.

        Args:
            domains: of the samples, shape (N,), ``-1`` for unknown.
            num_domains: K.
            num_views: how many views of each sample the rows hold.
            dtype: of the features; PyTorch's default for None.
        """
        classes = torch.arange(num_domains, device=domains.device)
        one_hot = (domains[:, None] == classes).to(dtype or torch.get_default_dtype())
        one_hot = one_hot.repeat(num_views, 1)
        counts = one_hot.sum(0)
        present = (counts > 0).sum()
        several = (present > 1).to(one_hot.dtype)
        share = one_hot @ (1 / counts.clamp_min(1))
        weights = several * share / present.clamp_min(1)
        return cls(one_hot, num_views, counts, several, weights, one_hot / counts.clamp_min(1))

    def share(self) -> Tensor:
        """Of the samples, those in the company of another of their own and one of another domain.

        Returns:
            A scalar in [0, 1]; 0 for a batch without samples.
        """
        company = (self.counts > self.num_views).to(self.one_hot.dtype)
        return self.several * (self.one_hot @ company).sum() / max(1, len(self.one_hot))

    def pairs(self, minimum: int) -> Tensor:
        """Which pairs of domains have ``minimum`` rows each: (K, K), 1 or 0, above the diagonal."""
        enough = (self.counts >= minimum).to(self.one_hot.dtype)
        return torch.outer(enough, enough).triu(1)


def call_in_type(module: nn.Module, x: Tensor, frozen: bool = False) -> Tensor:
    """``module(x)``, computed with the module's parameters in the type of ``x``.

    A module that was cast to half precision as a whole holds parameters that the terms' float32
    does not go with. Gradients arrive in the parameters' own type.

    Args:
        module: takes and gives one tensor.
        x: its input.
        frozen: whether to keep the gradient from the parameters.
    """
    parameters = {
        name: (p.detach() if frozen else p).to(x.dtype) for name, p in module.named_parameters()
    }
    output: Tensor = torch.func.functional_call(module, parameters, (x,))
    return output


def standardize(features: Tensor, batch: DomainBatch) -> Tensor:
    """Zero mean and unit variance in each dimension, all domains weighing the same.

    Encoders differ in the scale of their features by orders of magnitude, and a penalty on raw
    features could be met by shrinking them; on standardised ones it can not.

    Args:
        features: shape (M, D).
        batch: the domains of the M rows.

    Returns:
        Tensor of shape (M, D); all zero where the batch holds fewer than two known domains.
    """
    mean = batch.weights @ features
    # Without weights there is no scale: large features, divided by the root of EPS alone, would
    # overflow further on, and 0 * inf is NaN.
    centred = batch.several * (features - mean)
    variance = batch.weights @ centred.square()
    return centred / (variance + EPS).sqrt()


def standardize_within(features: Tensor, batch: DomainBatch) -> Tensor:
    """Zero mean and unit variance in each dimension within each domain, shape (M, D).

    Rows of unknown domain are left as they are.
    """
    centred = features - batch.one_hot @ (batch.averaging.T @ features)
    variance = batch.averaging.T @ centred.square()
    known = batch.one_hot.sum(1, keepdim=True)
    return centred * (1 - known + batch.one_hot @ (variance + EPS).rsqrt())


def directions(standardized: Tensor) -> Tensor:
    """Rows of length 1, but for those close to the mean, which have no direction to speak of.

    A standardised row is about ``sqrt(D)`` long. Were the shortest also brought to length 1, then
    features that are all the same, a dead portion, would get gradients of 1e14.
    """
    return F.normalize(standardized, dim=1, eps=1e-2)


def balanced_cross_entropy(logits: Tensor, batch: DomainBatch) -> Tensor:
    """Cross-entropy of the domain, the mean over present domains of each domain's mean."""
    return -(batch.weights[:, None] * batch.one_hot * logits.log_softmax(1)).sum()


def mean_over_pairs(similarity: Tensor, pairs: Tensor) -> Tensor:
    """Mean of ``S_aa + S_bb - 2 S_ab`` over the chosen pairs of domains; 0 if there is none."""
    own = similarity.diagonal()
    discrepancy = own[:, None] + own[None, :] - similarity - similarity.T
    return (pairs * discrepancy).sum() / pairs.sum().clamp_min(1)


def squared_distances(x: Tensor) -> Tensor:
    """Squared Euclidean distances between rows, shape (M, M), differentiable at zero."""
    norms = x.square().sum(1)
    return (norms[:, None] + norms[None, :] - 2 * x @ x.T).clamp_min(0)
