"""Checkpoints survive a full disk; the log follows them."""

import csv
import errno

import pytest
import torch

from ddm import checkpoints
from ddm.checkpoints import AtomicCheckpointIO, MetricsFile, load_checkpoint
from ddm.errors import DdmError


def fill_disk(monkeypatch, error: Exception) -> None:
    """Writing begins, and then the disk is full."""

    def save(value, file):
        file.write(b"half a checkpoint")
        raise error

    monkeypatch.setattr(torch, "save", save)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        # What torch's zip writer makes of it.
        RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0"),
    ],
)
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch, error):
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"global_step": 3}, path)
    fill_disk(monkeypatch, error)
    monkeypatch.setattr(checkpoints, "_disk_is_full", lambda folder: True)
    with pytest.raises(DdmError, match="disk is full; the previous checkpoint is untouched"):
        AtomicCheckpointIO().save_checkpoint({"global_step": 4}, path)
    assert load_checkpoint(path) == {"global_step": 3}
    assert list(path.parent.iterdir()) == [path], "the half-written file is gone"


def test_the_first_checkpoint_on_a_full_disk(tmp_path, monkeypatch):
    fill_disk(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(DdmError, match="nothing was saved before"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "checkpoints" / "last.ckpt")


def test_damaged_and_missing_checkpoints_are_named(tmp_path):
    path = tmp_path / "last.ckpt"
    with pytest.raises(DdmError, match=r"last\.ckpt does not exist"):
        load_checkpoint(path)
    torch.save({"a": torch.ones(3)}, path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DdmError, match=r"last\.ckpt cannot be read as a checkpoint"):
        load_checkpoint(path)


class Code:
    """What a malicious checkpoint would run."""

    def __reduce__(self):
        return print, ("this must not run",)


def test_a_checkpoint_that_carries_code_is_refused(tmp_path, capsys):
    path = tmp_path / "last.ckpt"
    torch.save({"code": Code()}, path)
    with pytest.raises(DdmError, match="cannot be read"):
        load_checkpoint(path)
    assert "this must not run" not in capsys.readouterr().out


def rows(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_are_on_disk_at_once_and_columns_may_come_later(tmp_path):
    log = MetricsFile(tmp_path / "metrics.csv")
    log.log_metrics({"loss": 2.0}, 0)
    assert rows(log.path) == [{"step": "0", "loss": "2.0"}]
    log.log_metrics({"loss": 1.0}, 1)
    log.log_metrics({"rank": 7.0}, 1)
    assert rows(log.path)[1:] == [
        {"step": "1", "loss": "1.0", "rank": ""},
        {"step": "1", "loss": "", "rank": "7.0"},
    ]


def test_resumed_metrics_drop_what_the_checkpoint_has_not_seen(tmp_path):
    log = MetricsFile(tmp_path / "metrics.csv")
    for step in range(5):
        log.log_metrics({"loss": float(step)}, step)
    resumed = MetricsFile(tmp_path / "metrics.csv", resume_step=3)
    assert [r["step"] for r in rows(log.path)] == ["0", "1", "2"]
    resumed.log_metrics({"loss": 30.0}, 3)
    assert [r["loss"] for r in rows(log.path)] == ["0.0", "1.0", "2.0", "30.0"]


@pytest.mark.parametrize("content", [b"", b"\x80\x02"])
def test_a_checkpoint_of_nothing_is_named(tmp_path, content):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(DdmError, match=r"last\.ckpt cannot be read as a checkpoint \(EOFError\)"):
        load_checkpoint(path)


def test_a_line_that_was_cut_off_is_no_step(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n9,1.5\n19,1.25\n2")  # of 29
    log = MetricsFile(path, resume_step=25)
    log.log_metrics({"loss": 1.0}, step=29)
    assert [row["step"] for row in rows(path)] == ["9", "19", "29"]
