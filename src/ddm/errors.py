"""The one exception that the command line turns into a single clear line."""

from __future__ import annotations


class DdmError(ValueError):
    """Input that cannot be used.

    The message names the file or argument at fault and the remedy, on one line. ``ddm`` prints it
    without a traceback and exits with status 2; in Python it is an ordinary ``ValueError``.
    """


def first_line(error: BaseException) -> str:
    """What another library's error says first; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "")[:200] or type(error).__name__
