"""Which process is the first, whoever started them."""

import os
import subprocess
import sys

import pytest

STARTED_BY = {"RANK", "LOCAL_RANK", "NODE_RANK", "GLOBAL_RANK", "SLURM_PROCID", "SLURM_JOB_ID"}


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        # The second machine of torchrun, whose local ranks begin anew.
        ({"RANK": "4", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "1", "SLURM_JOB_ID": "7"}, False),
    ],
)
def test_the_first_process_is_lightnings(environment, first):
    inherited = {k: v for k, v in os.environ.items() if k not in STARTED_BY}
    code = "from ddm.processes import is_first_process as first; print(first())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**inherited, **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split()[-1] == str(first)
