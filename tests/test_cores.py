"""The cores that a process may keep busy."""

import os

import pytest
import torch

from ddm import cores as module
from ddm.cores import cores, share_cores
from ddm.data import load_images
from ddm.data.loading import default_workers
from synthetic import write_folder


@pytest.fixture
def of_eight(monkeypatch):
    """A process that may run on eight of a machine's cores, and shares them with nobody."""
    monkeypatch.setattr(module, "_sharers", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("processes", "each"), [(1, 8), (2, 4), (3, 2), (8, 1), (20, 1)])
def test_a_share(of_eight, processes, each):
    share_cores(processes)
    assert cores() == each


def test_threads_are_no_more_than_the_share_nor_than_allowed(of_eight):
    torch.set_num_threads(3)
    share_cores(4)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    share_cores(1)
    assert torch.get_num_threads() == 1


def test_without_affinity_all_cores_count(of_eight, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


@pytest.mark.parametrize(("processes", "workers"), [(1, 8), (4, 2), (8, 0)])
def test_no_worker_where_it_would_only_take_turns(of_eight, tmp_path, processes, workers):
    share_cores(processes)
    images = load_images(str(write_folder(tmp_path, each=2)), 16)
    assert default_workers(images) == workers
