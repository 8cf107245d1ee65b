"""Where files that are made once and used again live."""

from __future__ import annotations

import os
from pathlib import Path

from ddm.errors import DdmError


def cache_dir() -> Path:
    """The user's cache: ``$DDM_CACHE``, else ``$XDG_CACHE_HOME/ddm``, else ``~/.cache/ddm``.

    Raises:
        DdmError: none of these, for a user without a home.
    """
    if own := os.environ.get("DDM_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base).expanduser() if base else Path.home() / ".cache") / "ddm"
    except RuntimeError:
        raise DdmError("this user has no home for a cache: set DDM_CACHE to a folder") from None
