"""Some images of a data set, as if the others had never been there."""

from dataclasses import replace

import numpy as np
import pytest

from ddm.data.base import ImageDataset, Labels
from ddm.data.checked import file_states
from ddm.data.folder import load_folder
from ddm.domains import DomainTable
from synthetic import make_dataset, write_folder


def every(dataset: ImageDataset, i: int) -> tuple:
    """All that a data set says of an image."""
    names = [*dataset.domains.names, None]
    return (
        dataset.keys[i],
        names[dataset.domains.index[i]],
        dataset.domains.confidence[i],
        dataset.splits[i],
        dataset.groups[i],
        dataset.instances[i],
        dataset.official_splits[i],
        *([*v.names, None][v.index[i]] for v in dataset.labels.values()),
        *(v[i] for v in dataset.metadata.values()),
        dataset.read(i).tobytes(),
    )


@pytest.fixture
def dataset() -> ImageDataset:
    dataset = make_dataset(each=3)
    n = len(dataset)
    index = dataset.domains.index.copy()
    index[4] = -1
    return replace(
        dataset,
        domains=DomainTable(index, dataset.domains.names),
        official_splits=np.array([f"s{i % 5}" for i in range(n)]),
        metadata={"hour": np.arange(n)},
    )


def test_what_is_known_of_an_image_goes_with_it(dataset):
    chosen = np.random.default_rng(0).permutation(len(dataset))[:20]
    part = dataset.only(chosen)
    assert len(part) == 20
    assert [every(part, i) for i in range(20)] == [every(dataset, int(j)) for j in chosen]


def test_names_that_only_others_have_are_gone(dataset):
    labels = dataset.labels["class"]
    kept = np.flatnonzero((dataset.domains.index != 1) & (labels.index != 0))
    part = dataset.only(kept)
    assert part.domains.names == (dataset.domains.names[0], dataset.domains.names[2])
    assert part.labels["class"].names == labels.names[1:]
    assert [every(part, i) for i in range(len(kept))] == [every(dataset, int(j)) for j in kept]


def test_names_without_an_image_stay(dataset):
    """A benchmark's list of classes, of which some may have no image."""
    labels = dataset.labels["class"]
    more = replace(
        dataset,
        domains=DomainTable(dataset.domains.index, (*dataset.domains.names, "never")),
        labels={"class": Labels(labels.index + 1, ("never", *labels.names))},
    )
    part = more.only(np.arange(3))
    assert part.domains.names == (dataset.domains.names[dataset.domains.index[0]], "never")
    assert part.labels["class"].names[0] == "never"
    assert every(part, 2) == every(more, 2)


def test_its_reader_can_what_the_other_can(tmp_path, dataset):
    folder = load_folder(write_folder(tmp_path, each=2), 32)
    chosen = np.array([5, 0])
    part = folder.only(chosen)
    assert file_states(part.keys, part.read).tolist() == (
        file_states(folder.keys, folder.read)[chosen].tolist()
    )
    small = part.resized(16)
    assert small.read(0).shape == (16, 16, 3)
    assert (small.read(0) == folder.resized(16).read(5)).all()
    assert not hasattr(part.read, "batch")
    # Of images in memory nobody knows a file, nor how to read them at another size.
    part = dataset.only(chosen)
    assert file_states(part.keys, part.read) is None
    assert part.resized(16) is part
    assert (part.read.batch(np.array([1, 0])) == dataset.read.batch(np.array([0, 5]))).all()
