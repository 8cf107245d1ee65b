"""Which images a run trains on, and the domains that take part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ddm.config import PretrainConfig
from ddm.data.base import ImageDataset
from ddm.domains import UNKNOWN, DomainTable
from ddm.errors import DdmError
from ddm.pseudo_domains import discover_for_training


def training_domains(config: PretrainConfig, dataset: ImageDataset) -> list[str]:
    """Names of the domains that take part.

    Raises:
        DdmError: a held-out domain does not exist, or is named twice.
    """
    unknown = set(config.held_out) - set(dataset.domains.names)
    if unknown:
        raise DdmError(
            f"--held_out {', '.join(sorted(unknown))}: no such domain; "
            f"{dataset.name} has {', '.join(dataset.domains.names) or 'none'}"
        )
    if len(set(config.held_out)) < len(config.held_out):
        raise DdmError(f"--held_out {', '.join(config.held_out)}: a domain is named twice")
    return [name for name in dataset.domains.names if name not in config.held_out]


def taking_part(config: PretrainConfig, dataset: ImageDataset) -> DomainTable:
    """The given domains that take part, numbered anew from 0; the others are unknown.

    A held-out domain needs no place in a classifier.

    Raises:
        DdmError: a held-out domain does not exist, or is named twice.
    """
    names = training_domains(config, dataset)
    position = np.full(dataset.domains.num_domains + 1, UNKNOWN)
    for new, name in enumerate(names):
        position[dataset.domains.names.index(name)] = new
    # An unknown domain, -1, finds the last entry, which is -1 too.
    return DomainTable(position[dataset.domains.index], tuple(names))


def require_two_domains(name: str, domains: DomainTable, indices: NDArray[np.int64]) -> None:
    """Refuse what needs domains on images of one.

    Args:
        name: what the images are called.
        domains: of all images.
        indices: those that are trained on.

    Raises:
        DdmError: fewer than two known domains among these images.
    """
    present = np.unique(domains.index[indices])
    names = [domains.names[d] for d in present if d != UNKNOWN]
    if len(names) < 2:
        raise DdmError(
            f"{name} has {len(names)} domain to train on ({', '.join(names) or 'none'}), "
            "and the module and domain-aware negatives need two; add domains, hold out fewer, "
            "have them found (--domains discover), or train without them: --ddm.enabled false"
        )


def training_images(config: PretrainConfig, dataset: ImageDataset) -> NDArray[np.int64]:
    """Indices of the images that the run trains on.

    Raises:
        DdmError: they do not fill one batch.
    """
    out = [dataset.domains.names.index(name) for name in config.held_out]
    chosen = ~np.isin(dataset.domains.index, out)
    if config.train_split == "train":
        chosen &= dataset.splits == "train"
    indices = np.flatnonzero(chosen).astype(np.int64)
    if config.held_out and not len(indices) and set(config.held_out) >= set(dataset.domains.names):
        raise DdmError(
            f"--held_out {' '.join(config.held_out)}: all domains of {dataset.name} are held out; "
            "leave some to train on"
        )
    needed = config.batch_size * config.devices
    if len(indices) < needed:
        raise DdmError(
            f"--batch_size {config.batch_size} on {config.devices} device(s) needs {needed} "
            f"images, but {dataset.name} has {len(indices)} to train on; choose a smaller batch"
            + (", or --train_split all" if config.train_split == "train" else "")
        )
    return indices


def pseudo_domains(config: PretrainConfig, dataset: ImageDataset) -> DomainTable | None:
    """Discovered or shuffled domains, where the configuration asks for them.

    They are found in the images that the run trains on; in all, where no domain is known that one
    could evaluate on. Shuffled ones are the given domains of the images that the run trains on, in
    an order drawn by the seed. All other images are unknown.

    Raises:
        DdmError: there are none to be found.
    """
    if config.domains == "given":
        return None
    given = taking_part(config, dataset)
    images = training_images(config, dataset)
    if config.domains == "shuffled":
        dealt = np.random.default_rng(config.seed).permutation(given.index[images])
        nowhere = DomainTable(np.full(len(dataset), UNKNOWN), given.names)
        return nowhere.updated(images, DomainTable(dealt, given.names))
    if not dataset.domains.names:
        images = np.arange(len(dataset))
    return discover_for_training(dataset, images, config.num_domains, config.seed)
