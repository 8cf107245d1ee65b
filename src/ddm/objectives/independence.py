"""What keeps the two portions apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddm.objectives.batch import EPS, DomainBatch, squared_distances


class CrossCorrelationIndependence(nn.Module):
    """Mean squared correlation between every variant and every invariant dimension; in [0, 1].

    The off-diagonal part of Barlow Twins' objective (arXiv 2103.03230), between portions instead of
    views. It sees linear dependence only.
    """

    def forward(self, variant: Tensor, invariant: Tensor, batch: DomainBatch) -> Tensor:
        """The term, shape (), of standardised portions, shapes (M, D_v) and (M, D_i)."""
        return ((variant * batch.weights[:, None]).T @ invariant).square().mean()


class HSICIndependence(nn.Module):
    """Normalised Hilbert-Schmidt independence criterion; in [0, 1], sees any dependence.

    Gretton et al., 2005, with Gaussian kernels as wide as the mean squared distance, normalised as
    in centred kernel alignment (Kornblith et al., 2019, arXiv 1905.00414). Rows are weighted so
    that domains count alike.
    """

    def forward(self, variant: Tensor, invariant: Tensor, batch: DomainBatch) -> Tensor:
        """The term, shape (), of standardised portions, shapes (M, D_v) and (M, D_i)."""
        root = torch.outer(batch.weights, batch.weights).sqrt()

        def kernel(x: Tensor) -> Tensor:
            distances = squared_distances(x)
            mean = (batch.weights @ distances @ batch.weights).detach() + EPS
            k = (-distances / mean).exp()
            row_mean = k @ batch.weights
            centred = k - row_mean[:, None] - row_mean[None, :] + batch.weights @ row_mean
            return root * centred

        k_v, k_i = kernel(variant), kernel(invariant)
        # Not the smallest number: its power of -1.5, in the gradient, must be finite too.
        scale = k_v.square().sum() * k_i.square().sum() + 1e-12
        return (k_v * k_i).sum() / scale.sqrt()
