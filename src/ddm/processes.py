"""The processes of one run: they stop together, and say why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from ddm.errors import DdmError
from ddm.messages import tell
from ddm.run_folder import RunFolder


def is_first_process() -> bool:
    """Whether this is rank 0: Lightning starts the other ranks by the same command.

    By Lightning's own account, which knows of torchrun on several machines, and of SLURM.
    """
    rank: int = getattr(rank_zero_only, "rank", 0)
    return rank == 0


@contextmanager
def stopping_together(run: RunFolder) -> Iterator[None]:
    """Where one of several processes stops, the others stop with its error.

    What the others notice by themselves is that a connection broke; why, the process that stopped
    leaves in a file of the run folder.
    """
    if is_first_process():
        run.stopped_file.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        if not _lost_another(error):
            with suppress(OSError):
                reason = " ".join(str(error).split()) or type(error).__name__
                run.stopped_file.write_text(reason, encoding="utf-8")
            raise
        # A process that raises writes before it goes.
        end = time.monotonic() + 0.5
        while not run.stopped_file.exists() and time.monotonic() < end:
            time.sleep(0.05)
        if run.stopped_file.exists():
            reason = run.stopped_file.read_text(encoding="utf-8")
            raise DdmError(f"another process of this run stopped: {reason}") from None
        raise DdmError(_died(run)) from None


def _died(run: RunFolder) -> str:
    return (
        "another process of this run died, most often for want of memory; "
        f"`ddm resume {run.path}` goes on from the last checkpoint"
    )


def _lost_another(error: Exception) -> bool:
    """Whether this is a collective's complaint about the other side."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    words = ("gloo", "nccl", "connection", "store")
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in words)


class LastWord(pl.Callback):
    """Lightning's watcher lets the first process say why it stops before it kills it.

    As it is, the watcher kills within five seconds of another process's death and says nothing.
    The first process mostly ends by itself, in `stopping_together`; where it hangs in a
    collective (NCCL), the watcher says it instead.
    """

    def __init__(self, run: RunFolder, patience: float = 30) -> None:
        self.run, self.patience = run, patience

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for thread in threading.enumerate():
            if thread.name == "child-process-observer":
                thread._terminate_all = partial(self._end, thread._terminate_all)  # type: ignore[attr-defined]

    def _end(self, kill_all: Callable[[], None]) -> None:
        time.sleep(self.patience)
        tell(_died(self.run))
        kill_all()
