"""What the person at the terminal is told. Nothing heavy is imported here: every room tells."""

from __future__ import annotations

import sys

from tqdm import tqdm


def tell(message: str) -> None:
    """A warning for the person at the terminal, above the progress bar."""
    tqdm.write(f"ddm: warning: {message}", file=sys.stderr)
