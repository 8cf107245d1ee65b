"""The store of features: when it is written anew, and how the encoder is left."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ddm.data.images import FileReader
from ddm.embed import embed
from ddm.errors import DdmError
from synthetic import make_dataset


class Mean(nn.Module):
    """Counts its batches."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return x.mean((2, 3))


@pytest.fixture
def files(tmp_path):
    """The data set as image files of their own."""
    dataset = make_dataset(each=1)
    paths = [f"{i}.png" for i in range(len(dataset))]
    for i, path in enumerate(paths):
        Image.fromarray(dataset.read(i)).save(tmp_path / path)
    return replace(dataset, keys=paths, read=FileReader(tmp_path, paths, dataset.size))


def test_a_changed_file_is_embedded_anew_and_an_unchanged_one_is_not(tmp_path, files):
    encoder, store = Mean(), tmp_path / "features.npy"
    first = np.array(embed(encoder, files, 32, store, "one"))
    embed(encoder, files, 32, store, "one")
    assert encoder.calls == 1
    path = files.read.path_of(2)
    Image.new("RGB", (32, 32), "white").save(path)
    second = np.array(embed(encoder, files, 32, store, "one"))
    assert encoder.calls == 2
    assert (first != second).any(1).nonzero()[0].tolist() == [2]
    # Of the same length, at another time.
    os.utime(path, ns=(1, 1))
    embed(encoder, files, 32, store, "one")
    assert encoder.calls == 3


def test_images_in_memory_are_taken_for_those_of_the_files(tmp_path, files):
    # As `ddm finetune` keeps them, after `ddm evaluate` has read the files.
    encoder, store = Mean(), tmp_path / "features.npy"
    embed(encoder, files, 32, store, "one")
    in_memory = replace(files, read=make_dataset(each=1).read)
    embed(encoder, in_memory, 32, store, "one")
    assert encoder.calls == 1
    # The other way round nobody can tell.
    embed(encoder, in_memory, 32, store, "two")
    embed(encoder, files, 32, store, "two")
    assert encoder.calls == 3


@pytest.mark.parametrize("fails", [False, True])
def test_the_encoder_is_left_as_it_was(tmp_path, monkeypatch, files, fails):
    encoder = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), Mean())
    encoder[0].eval()
    moves, to = [], nn.Module.to
    monkeypatch.setattr(
        nn.Module, "to", lambda self, device: moves.append(str(device)) or to(self, device)
    )
    modes = []
    encoder[2].register_forward_pre_hook(lambda *_: modes.append([m.training for m in encoder]))
    if fails:
        encoder.append(nn.Threshold(2, float("nan")))
        with pytest.raises(DdmError, match="not finite"):
            embed(encoder, files, 32, tmp_path / "features.npy", "one")
    else:
        embed(encoder, files, 32, tmp_path / "features.npy", "one")
    assert not any(modes[0])
    assert [m.training for m in encoder[:3]] == [False, True, True] and encoder.training
    # Where it came from, last.
    assert len(moves) == 2 and moves[-1] == "cpu"
    assert encoder[0].weight.device == torch.device("cpu")
