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

from inspect import signature

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
    "OBJECTIVES",
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
    "build",
    "reverse_gradient",
    "settings_of",
    "standardize",
]

#: What a name stands for; `build` makes one.
VARIANT: dict[str, type[nn.Module]] = {
    "cross_entropy": CrossEntropyVariant,
    "prototypes": PrototypeVariant,
}
INVARIANCE: dict[str, type[nn.Module]] = {
    "adversarial": AdversarialInvariance,
    "confusion": ConfusionInvariance,
    "coral": CORALInvariance,
    "mmd": MMDInvariance,
    "prototypes": PrototypeInvariance,
    "instances": InstanceInvariance,
    "neighbours": NeighbourInvariance,
}
INDEPENDENCE: dict[str, type[nn.Module]] = {
    "cross_correlation": CrossCorrelationIndependence,
    "hsic": HSICIndependence,
}

#: Of each role of the module.
OBJECTIVES = {"variant": VARIANT, "invariance": INVARIANCE, "independence": INDEPENDENCE}


def build(kind: type[nn.Module], *shape: int, **settings: int | float) -> nn.Module:
    """An objective for a portion.

    Args:
        kind: its class.
        shape: width of the portion and number of domains, each given to classes that ask for it;
            nothing for independence.
        settings: of its other arguments, see :func:`settings_of`.

    Raises:
        ValueError: a setting out of range.
    """
    asked = signature(kind).parameters
    # Nothing is left over: there are two numbers, or none.
    named = zip(("dim", "num_domains"), shape, strict=False)
    return kind(**{name: value for name, value in named if name in asked}, **settings)


def settings_of(kind: type[nn.Module]) -> dict[str, int | float]:
    """The numbers that an objective can be given, with their defaults."""
    return {
        name: parameter.default
        for name, parameter in signature(kind).parameters.items()
        if isinstance(parameter.default, (int, float))
    }
