"""What the settings of a term may be."""

from __future__ import annotations

import math
import numbers


def require_positive(**settings: float) -> None:
    """Refuse what is no finite number above zero.

    Raises:
        ValueError: one is not; it is named.
    """
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value} must be a finite number above 0")


def require_whole(**settings: int) -> None:
    """Refuse what is no whole number from 1 on.

    Raises:
        ValueError: one is not; it is named.
    """
    for name, value in settings.items():
        if not (isinstance(value, numbers.Integral) and value >= 1):
            raise ValueError(f"{name}={value} must be a whole number, 1 at least")
