"""Early warning of collapse: do the features still span more than a few directions?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def effective_rank(features: Tensor) -> float:
    """Exponential of the entropy of the singular values, of the centred features.

    RankMe, Garrido et al., 2023 (arXiv 2210.02885), equation 1; centred, so that a large common
    mean does not hide the rest.

    Args:
        features: shape (N, D).

    Returns:
        A number from 1 (all on a line, or all the same) to min(N - 1, D).
    """
    centred = features.double() - features.double().mean(0)
    singular = torch.linalg.svdvals(centred)
    share = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny)
    return float(torch.special.entr(share).sum().exp())


def relative_deviation(features: Tensor) -> float:
    """Deviation of the normalised features, as a share of the largest possible; 0 is collapse.

    The mean over dimensions of the standard deviation of ``h / |h|``, times ``sqrt(D)``, as in
    SimSiam (arXiv 2011.10566, figure 2): 1 for features spread evenly over the sphere.

    Args:
        features: shape (N, D).
    """
    normalized = F.normalize(features.double(), dim=1)
    return float(normalized.std(0).mean() * features.shape[1] ** 0.5)


def collapse_warning(rank: float, deviation: float, features: Tensor) -> str | None:
    """One line that says so, where features have collapsed; else None."""
    # Centred, so that one direction fewer than images is left.
    largest = min(len(features) - 1, features.shape[1])
    if deviation < 0.05:
        return f"all images get nearly the same features (deviation {deviation:.3f} of 1)"
    if rank < max(min(2.0, 0.5 * largest), 0.03 * largest):
        return f"the features span {rank:.1f} of {largest} directions"
    return None
