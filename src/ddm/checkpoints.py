"""Checkpoints that a full disk or a kill cannot spoil, and a log that follows them on resume."""

from __future__ import annotations

import csv
import errno
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only

from ddm.errors import DdmError, first_line
from ddm.files import atomic


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and then puts it in its place.

    Lightning's own goes through the system's temporary folder, which on another file system means a
    copy that can break off in the middle. Reading allows tensors and plain values only.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        with atomic(path) as temporary:
            try:
                with open(temporary, "wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
            # torch reports a failed write as a RuntimeError of its own zip writer. Why it failed is
            # to be found out before the half-written file is removed.
            except (OSError, RuntimeError) as error:
                raise DdmError(_why(error, Path(path))) from None

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_checkpoint(path, map_location or "cpu")


def load_checkpoint(path: Path | str, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint; tensors and plain values only.

    Raises:
        DdmError: there is none, or it is damaged.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise DdmError(
            f"{path} does not exist: nothing was saved yet, begin the run anew"
        ) from None
    except Exception as error:
        raise DdmError(
            f"{path} cannot be read as a checkpoint ({first_line(error)}); begin the run anew"
        ) from None
    return checkpoint


def _why(error: Exception, path: Path) -> str:
    kept = "the previous checkpoint is untouched" if path.exists() else "nothing was saved before"
    full = getattr(error, "errno", None) == errno.ENOSPC or _disk_is_full(path.parent)
    cause = "the disk is full" if full else first_line(error)
    return (
        f"cannot write {path}: {cause}; {kept}. "
        f"Make room and continue with `ddm resume {path.parent.parent}`"
    )


def _disk_is_full(folder: Path) -> bool:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize < 1 << 20


class MetricsFile(Logger):
    """One CSV row a logged step, on disk at once.

    Lightning's CSV logger deletes the old file on resume; this one keeps the rows up to the
    checkpoint and drops those after it, which will be written again.

    Args:
        path: the file.
        resume_step: steps that the checkpoint holds; None for a new file.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        super().__init__()
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.columns: list[str] = ["step"]
        if resume_step is not None and path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                lines = file.readlines()
            # A line that was cut off, as a full disk does, holds a wrong step.
            lines = [line for line in lines if line.endswith("\n")]
            reader = csv.DictReader(lines)
            # Step s is logged before the optimizer's step that makes it s + 1.
            self.rows = [row for row in reader if int(row["step"]) < resume_step]
            self.columns = list(reader.fieldnames or self.columns)
            self._write_all()

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """The configuration has a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step, **metrics}
        known = len(self.columns)
        self.columns += [name for name in row if name not in self.columns]
        new_file = not self.rows
        self.rows.append(row)
        if new_file or len(self.columns) > known:
            self._write_all()
        else:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerow(row)

    def _write_all(self) -> None:
        with (
            atomic(self.path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
