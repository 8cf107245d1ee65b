"""Where files that are made once and used again live."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The user's cache: ``$DDM_CACHE``, else ``$XDG_CACHE_HOME/ddm``, else ``~/.cache/ddm``."""
    if own := os.environ.get("DDM_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "ddm"
