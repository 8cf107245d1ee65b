"""Features of an encoder, computed once, in a memory-mapped store."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from ddm.data.base import ImageDataset
from ddm.data.checked import file_states
from ddm.data.loading import IndexedImages, batches, default_workers
from ddm.errors import DdmError
from ddm.files import atomic, new_array, write_text
from ddm.views import plain_view


def embed(
    encoder: nn.Module,
    dataset: ImageDataset,
    size: int,
    store: Path,
    fingerprint: str,
    batch_size: int = 256,
) -> NDArray[np.float32]:
    """Pooled features of every image, read from the store if they are there already.

    Where the images are files of their own, one whose size or time of last change is another makes
    the store unfit. Of readers without a method ``path_of`` nobody can tell.

    Args:
        encoder: gives features of shape (N, D). It is left as it was: its device, and which parts
            of it are in training mode.
        dataset: the images.
        size: side of the view that the encoder takes, in pixels.
        store: a ``.npy`` file; a ``.json`` beside it says what it holds.
        fingerprint: names the encoder; with the images' keys, size and files it decides whether
            the store still fits.
        batch_size: images at a time.

    Returns:
        Memory-mapped array of shape (len(dataset), D), in the order of the data set.

    Raises:
        DdmError: features that are not finite or not pooled.
    """
    keys = hashlib.sha256("\n".join(dataset.keys).encode()).hexdigest()
    about = {"encoder": fingerprint, "keys": keys, "size": size}
    files = _state_of_files(dataset)
    if files is not None:
        about["files"] = files
    note = store.with_suffix(".json")
    said = _said(note)
    if store.exists() and all(said.get(what) == value for what, value in about.items()):
        return _open(store)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loader = batches(
        IndexedImages(dataset, np.arange(len(dataset))), None, batch_size, default_workers(dataset)
    )
    note.unlink(missing_ok=True)
    with atomic(store) as temporary, _evaluating(encoder, device), torch.inference_mode():
        array: Any = None
        for images, _, index in tqdm(loader, desc="Embedding", unit="batch", leave=False):
            features = encoder(plain_view(images.to(device), size)).float().cpu()
            if features.ndim != 2:
                raise DdmError(
                    f"the encoder gives features of shape {tuple(features.shape)}, not (N, D); "
                    "pool them"
                )
            if not torch.isfinite(features).all():
                raise DdmError(
                    f"features of {dataset.keys[int(index[0])]} or its neighbours are not finite; "
                    "the encoder has diverged: train it anew at a lower learning rate"
                )
            if array is None:
                shape = (len(dataset), features.shape[1])
                array = new_array(temporary, shape, np.float32)
            array[index.numpy()] = features.numpy()
        array.flush()
    write_text(note, json.dumps(about))
    return _open(store)


def _state_of_files(dataset: ImageDataset) -> str | None:
    """A digest of the images' files as they are now; None where they are no files of their own."""
    states = file_states(dataset.keys, dataset.read)
    return None if states is None else hashlib.sha256(states.tobytes()).hexdigest()


@contextmanager
def _evaluating(encoder: nn.Module, device: str) -> Iterator[None]:
    """The encoder on a device and in evaluation mode; afterwards as it was."""
    training = [(module, module.training) for module in encoder.modules()]
    tensors = itertools.chain(encoder.parameters(), encoder.buffers())
    home = next((tensor.device for tensor in tensors), torch.device(device))
    try:
        encoder.to(device).eval()
        yield
    finally:
        encoder.to(home)
        for module, mode in training:
            module.training = mode


def _said(note: Path) -> dict[str, Any]:
    """What a store holds; nothing where nobody can say, so that it is to be written anew."""
    try:
        said: dict[str, Any] = json.loads(note.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return said


def _open(store: Path) -> NDArray[np.float32]:
    features: NDArray[np.float32] = np.load(store, mmap_mode="r")
    return features


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
