"""The terms of the loss: one small class each.

Every term but ``"instances"`` weighs domains, not samples: a domain with ten images in the batch
counts as much as one with a hundred. Samples of unknown domain (``-1``) have no weight, and a batch
that holds fewer than two known domains gives exactly zero, with a zero gradient. The features that
terms are given were standardised (:func:`standardize`) by the module, once for all of them. Nothing
depends on how many samples are known through a tensor's shape, so that no term waits for the
device.

The paper's own equations are not public (only its abstract is), so these are this library's design;
each class names the work that its term comes from.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ddm.objectives.batch import DomainBatch, standardize
from ddm.objectives.independence import CrossCorrelationIndependence, HSICIndependence
from ddm.objectives.invariance import (
    AdversarialInvariance,
    ConfusionInvariance,
    CORALInvariance,
    InstanceInvariance,
    MMDInvariance,
    NeighbourInvariance,
    PrototypeInvariance,
    reverse_gradient,
)
from ddm.objectives.variant import CrossEntropyVariant, PrototypeVariant

__all__ = [
    "INDEPENDENCE",
    "INVARIANCE",
    "VARIANT",
    "AdversarialInvariance",
    "CORALInvariance",
    "ConfusionInvariance",
    "CrossCorrelationIndependence",
    "CrossEntropyVariant",
    "DomainBatch",
    "HSICIndependence",
    "InstanceInvariance",
    "MMDInvariance",
    "NeighbourInvariance",
    "PrototypeInvariance",
    "PrototypeVariant",
    "reverse_gradient",
    "standardize",
]

#: What a name stands for: called with (width of the portion, number of domains).
VARIANT: dict[str, Callable[[int, int], nn.Module]] = {
    "cross_entropy": CrossEntropyVariant,
    "prototypes": PrototypeVariant,
}
INVARIANCE: dict[str, Callable[[int, int], nn.Module]] = {
    "adversarial": AdversarialInvariance,
    "confusion": ConfusionInvariance,
    "coral": lambda dim, num_domains: CORALInvariance(),
    "mmd": lambda dim, num_domains: MMDInvariance(),
    "prototypes": PrototypeInvariance,
    "instances": lambda dim, num_domains: InstanceInvariance(),
    "neighbours": lambda dim, num_domains: NeighbourInvariance(dim),
}
INDEPENDENCE: dict[str, Callable[[], nn.Module]] = {
    "cross_correlation": CrossCorrelationIndependence,
    "hsic": HSICIndependence,
}
