"""PACS as its authors pre-read it: one HDF5 file for each domain and split.

``<domain>_{train,val,test}.hdf5`` hold ``images``, shape (N, 227, 227, 3), blue first, values 0 to
255, and ``labels``, shape (N,), counted from 1. The test file holds the rows of the other two
together. (Read off the authors' loader, Episodic-DG ``common/data_reader.py``.)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddm.data.benchmarks import Benchmark, Fault, Splits, Survey, wanted_classes
from ddm.data.images import UnreadableImage
from ddm.errors import DdmError

_SPLITS = ("train", "val", "test")


class Hdf5Rows:
    """Images in several HDF5 files, read row by row.

    Each process opens the files for itself, because a handle does not survive a fork.

    Args:
        paths: the files.
        lengths: rows of each.
    """

    def __init__(self, paths: Sequence[Path], lengths: Sequence[int]) -> None:
        self._paths = list(paths)
        self._ends = np.cumsum(lengths)
        self._open: dict[tuple[int, int], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def raw(self, i: int) -> NDArray[np.uint8]:
        """Image ``i`` as RGB, shape (side, side, 3); raises `UnreadableImage`."""
        file = int(np.searchsorted(self._ends, i, side="right"))
        row = i - (int(self._ends[file - 1]) if file else 0)
        path = self._paths[file]
        try:
            key = (os.getpid(), file)
            if key not in self._open:
                self._open[key] = import_module("h5py").File(path, "r")
            values = np.asarray(self._open[key]["images"][row])
        except OSError as error:
            reason = f"row {row}: {' '.join(str(error).split())}"
            raise UnreadableImage(os.fspath(path), reason) from error
        if values.dtype != np.uint8:
            if not (np.isfinite(values).all() and 0 <= values.min() <= values.max() <= 255):
                raise UnreadableImage(os.fspath(path), f"row {row}: values outside 0 to 255")
            values = np.rint(values).astype(np.uint8)
        return np.ascontiguousarray(values[:, :, ::-1])


def has_hdf5(folder: Path, benchmark: Benchmark) -> bool:
    """Whether a folder holds any of the files."""
    return any(_path(folder, d, s).is_file() for d in benchmark.domains for s in _SPLITS)


def survey_hdf5(folder: Path, benchmark: Benchmark, layout: str, splits: Splits) -> Survey:
    """What the files in a folder hold, and what is wrong with them.

    Raises:
        DdmError: no ``h5py``; a file that is damaged or of another shape.
    """
    try:
        import_module("h5py")
    except ImportError as error:
        raise DdmError(
            f"{folder} holds {benchmark.title} as HDF5 files: install h5py to read them "
            "(pip install 'ddm-ssl[hdf5]')"
        ) from error
    survey = Survey(benchmark, layout, folder, wanted_classes(benchmark, None))
    survey.splits = []
    paths, lengths = [], []
    for index, domain in enumerate(benchmark.domains):
        labels = {
            split: _labels(_path(folder, domain, split), benchmark)
            for split in _SPLITS
            if _path(folder, domain, split).is_file()
        }
        survey.faults += _faults(folder, benchmark, domain, labels)
        for split in ("train", "val"):
            if split not in labels:
                continue
            path, n = _path(folder, domain, split), len(labels[split])
            survey.keys += [f"{path.name}/{row}" for row in range(n)]
            survey.domains += [index] * n
            survey.labels += (labels[split] - 1).tolist()
            survey.splits += [split] * n
            paths.append(path)
            lengths.append(n)
    lacking = sorted(set(range(len(benchmark.classes))) - set(survey.labels))
    if lacking and survey.keys:
        names = tuple(benchmark.classes[i] for i in lacking)
        message = f"{folder} lacks images of {', '.join(names)}: get the files again"
        survey.faults.append(Fault("missing", message, names))
    survey.rows = Hdf5Rows(paths, lengths)
    if splits == "drawn":
        survey.splits = None
    return survey


def _faults(
    folder: Path, benchmark: Benchmark, domain: str, labels: dict[str, NDArray[np.int64]]
) -> list[Fault]:
    lacking = [_path(folder, domain, s).name for s in ("train", "val") if s not in labels]
    if lacking:
        message = f"{folder} lacks {' and '.join(lacking)}: complete the download"
        return [Fault("missing", message, tuple(lacking))]
    both, test = len(labels["train"]) + len(labels["val"]), labels.get("test")
    if test is not None and len(test) != both:
        path = _path(folder, domain, "test")
        message = (
            f"{path} holds {len(test):,} images, but train and val of {domain!r}, which it "
            f"repeats, {both:,}: get the three files again"
        )
        return [Fault("split", message)]
    return []


def _labels(path: Path, benchmark: Benchmark) -> NDArray[np.int64]:
    """The labels of a file, counted from 1, whose images have the expected shape."""
    again = "get the file again"
    try:
        with import_module("h5py").File(path, "r") as file:
            if "images" not in file or "labels" not in file:
                raise DdmError(f"{path} lacks 'images' or 'labels', it has {sorted(file)}: {again}")
            shape, labels = file["images"].shape, np.asarray(file["labels"]).reshape(-1)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise DdmError(f"{path} is no readable HDF5 file ({reason}): {again}") from error
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or shape[0] != len(labels):
        raise DdmError(
            f"{path} holds images of shape {shape} and {len(labels):,} labels, "
            f"not (N, side, side, 3) and N: {again}"
        )
    if not len(labels):
        raise DdmError(f"{path} holds no images: {again}")
    number = len(benchmark.classes)
    if not (labels == np.rint(labels)).all() or not 1 <= labels.min() <= labels.max() <= number:
        hint = "they count from 0, add 1 to each, or " if labels.min() == 0 else ""
        raise DdmError(
            f"{path} has labels from {labels.min()} to {labels.max()}, those of "
            f"{benchmark.title} count from 1 to {number}: {hint}{again}"
        )
    return labels.astype(np.int64)


def _path(folder: Path, domain: str, split: str) -> Path:
    return folder / f"{domain}_{split}.hdf5"
