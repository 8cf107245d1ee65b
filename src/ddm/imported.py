"""What a setting names by where it is imported from, ``package.module:Name``."""

from __future__ import annotations

import importlib
from typing import Any

from ddm.errors import DdmError


def is_import(name: str) -> bool:
    """Whether a name says where something is imported from."""
    return ":" in name


def imported(setting: str, name: str) -> Any:
    """What lies there.

    Args:
        setting: whose value the name is, for errors.
        name: ``package.module:Name``.

    Raises:
        DdmError: there is no such module, or nothing of that name in it.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DdmError(
            f"{setting} {name}: {error}; give package.module:Name of what Python can import "
            "(`python -m ddm` finds modules of the folder that it is run in)"
        ) from None
