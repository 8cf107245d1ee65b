"""Domain Disentanglement Module for self-supervised learning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddm.errors import DdmError as DdmError
    from ddm.module import Disentangled as Disentangled
    from ddm.module import DomainDisentanglement as DomainDisentanglement
    from ddm.module import gradient_ratio as gradient_ratio
    from ddm.pooling import Pooled as Pooled
    from ddm.pooling import pool_features as pool_features

__version__ = "0.1.0"

# Loaded when first used: the command line must not wait for torch to print its help.
_HOME = {
    "DdmError": "ddm.errors",
    "Disentangled": "ddm.module",
    "DomainDisentanglement": "ddm.module",
    "gradient_ratio": "ddm.module",
    "Pooled": "ddm.pooling",
    "pool_features": "ddm.pooling",
}
__all__ = [
    "DdmError",
    "Disentangled",
    "DomainDisentanglement",
    "Pooled",
    "__version__",
    "gradient_ratio",
    "pool_features",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ddm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
