"""Runs on two processes: resumed as if never interrupted, and stopped together."""

import csv
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ddm.checkpoints import load_checkpoint
from ddm.discovery import pseudo_names
from ddm.domains import DomainTable
from ddm.methods import METHODS
from ddm.pseudo_domains import FeatureMemory, rediscover
from ddm.run_folder import RunFolder
from synthetic import write_folder

# A busy machine may take ten times as long as an idle one.
PATIENCE = 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left that ran `two_ranks.py`, started as Lightning and torchrun do."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__).parent
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, here / "two_ranks.py", folder],
            env={**os.environ, **common, "LOCAL_RANK": str(rank), "NODE_RANK": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, output[-4000:]
    finally:
        for process in processes:
            process.kill()
    return folder


def flat(value, name=""):
    """Every tensor and number of a checkpoint, by its path."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in flat(value[key], f"{name}.{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, x in enumerate(value) for k, v in flat(x, f"{name}.{i}").items()}
    return {name: value}


def test_domains_are_found_anew_in_what_both_ranks_saw(folder):
    first, second = (torch.load(folder / f"found-{r}.pt", weights_only=True) for r in range(2))
    assert len(first) == len(second) == 2  # Not after the last of three epochs.
    for epoch, (one, other) in enumerate(zip(first, second, strict=True)):
        for name in ("features", "seen", "before", "after"):
            assert torch.equal(one[name], other[name]), name
        # Each image was seen by one rank, and all of the epoch's by one of them.
        assert (one["own"] + other["own"]).max() == 1
        assert torch.equal(one["own"] + other["own"] > 0, one["seen"])
        assert one["own"].any() and other["own"].any()
        alone = FeatureMemory(np.arange(len(one["seen"])), len(one["seen"]), 24)
        index = one["seen"].nonzero().flatten()
        alone.add(index, one["features"][index][None])
        table = DomainTable(one["before"].numpy(), pseudo_names(3))
        after, _ = rediscover(table, alone, seed=epoch + 1)
        assert after.index.tolist() == one["after"].tolist()
    assert any(not torch.equal(one["before"], one["after"]) for one in first)


@pytest.mark.parametrize("method", [*METHODS, "found"])
def test_resume_on_two_ranks_equals_no_interruption(folder, method):
    whole, broken = RunFolder(folder / "whole" / method), RunFolder(folder / "broken" / method)
    states = []
    for run in (whole, broken):
        checkpoint = load_checkpoint(run.checkpoint_file)
        kept = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "ddm_domains")
        states.append(flat({k: checkpoint[k] for k in kept if k in checkpoint}))
    assert ("ddm_domains" in checkpoint) == (method == "found")
    assert states[0].keys() == states[1].keys() and len(states[0]) > 50
    for name, value in states[0].items():
        other = states[1][name]
        same = torch.equal(value, other) if torch.is_tensor(value) else value == other
        assert same, name
    rows = []
    for run in (whole, broken):
        with open(run.metrics_file, newline="") as file:
            rows.append([{**row, "images/s": ""} for row in csv.DictReader(file)])
    assert rows[0] == rows[1] and rows[0]


def test_where_one_rank_stops_the_other_stops_with_its_error(folder):
    first, second = ((folder / f"one-sided-{rank}.txt").read_text() for rank in range(2))
    assert second == "image 7 cannot be read any more"
    assert first == f"another process of this run stopped: {second}"


def test_a_loss_that_is_not_finite_on_one_rank_stops_both(folder):
    first, second = ((folder / f"nan-{rank}.txt").read_text() for rank in range(2))
    assert first == "the loss is not finite at step 2 on another rank"
    assert second.startswith("the loss is not finite at step 2: ssl; lower --learning_rate")


def test_batch_norm_is_over_all_ranks_and_the_decay_of_dino_rises(folder):
    assert (folder / "norms.txt").read_text() == "GlobalBatchNorm"
    decays = [float(x) for x in (folder / "decays.txt").read_text().split()]
    steps = len(decays)
    # Set before each step of the optimizer, so that a step sees the one before it.
    expected = [0.4 - 0.36 * (math.cos(math.pi * k / steps) + 1) / 2 for k in range(steps - 1)]
    assert decays == pytest.approx([0.04, *expected]) and steps > 4


def test_a_killed_rank_takes_the_other_with_it_and_says_how_to_go_on(tmp_path):
    """Through the command line, where Lightning starts the second process and watches it."""
    images = write_folder(tmp_path / "images", each=20)
    command = [sys.executable, "-m", "ddm", "pretrain", images, "-o", tmp_path / "run"]
    options = "--size 16 --epochs 500 --batch_size 8 --workers 0 --devices 2 --accelerator cpu"
    process = subprocess.Popen(
        [*command, *options.split()], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        end = time.monotonic() + PATIENCE / 2
        while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.2)
        others = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
        os.kill(int(others.stdout.split()[0]), signal.SIGKILL)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 2
    assert "another process of this run died, most often for want of memory; `ddm resume" in error
