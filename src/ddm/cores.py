"""How many of the machine's cores a process may keep busy."""

from __future__ import annotations

import os

import torch

_sharers = 1


def share_cores(processes: int) -> None:
    """Be content with one n-th of the cores in this process, since others have the rest.

    Args:
        processes: n, how many do the same work at a time, this one among them.
    """
    global _sharers
    _sharers = processes
    # Not more than the user allows, such as by OMP_NUM_THREADS.
    torch.set_num_threads(min(torch.get_num_threads(), cores()))


def cores() -> int:
    """Cores for this process, 1 at least: those that it may run on, shared with its equals."""
    if hasattr(os, "sched_getaffinity"):  # Linux alone; a container or a scheduler may allow few.
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, allowed // _sharers)
