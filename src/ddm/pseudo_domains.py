"""Discovered domains at work: found in images, written to a table, found anew in training."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor

from ddm.data import is_heap, open_heap
from ddm.data.base import ImageDataset
from ddm.data.manifest import MANIFESTS, read_table
from ddm.discovery import Discovery, check_settings, damp_changes, discover_domains
from ddm.distributed import world_size
from ddm.domains import UNKNOWN, DomainTable
from ddm.errors import DdmError
from ddm.files import atomic
from ddm.style import STYLE_SIZE, style_features


def discover(
    images: str,
    output: Path,
    num_domains: int | tuple[int, int | None] | None = None,
    seed: int = 0,
    channels: int = 3,
    strict: bool = False,
    overwrite: bool = False,
    page: Path | None = None,
) -> tuple[Discovery, ImageDataset]:
    """Find the domains of images and write them as a table that ``ddm pretrain`` reads.

    Sub-folders and a manifest's column ``domain`` are not looked at.

    Args:
        images: a folder of any depth, a manifest, or "emoji".
        output: the table, .parquet or .csv: ``path`` (from the table's folder), ``domain`` (empty
            for outliers), ``confidence``, ``split`` (so that it is the same through the table as
            without it); of a manifest class, group and instance too.
        num_domains: how many, or (least, most), most None for no end; found by itself by default.
        seed: of the clusterings, not negative.
        channels: of the images.
        strict: refuse unreadable images instead of skipping them.
        overwrite: replace a table that is there.
        page: an HTML page to look at, written before the table: a table that is there without its
            page would look as if it had been corrected.

    Returns:
        What was found, and the images.

    Raises:
        DdmError: unusable images, too few of them, a table of another kind or one that is there,
            or a page that cannot be written; the table then is there nonetheless.
    """
    if output.suffix.lower() not in MANIFESTS:
        raise DdmError(f"--output {output}: a table's name ends in {' or '.join(MANIFESTS)}")
    if output.exists() and Path(images).exists() and output.samefile(images):
        raise DdmError(f"--output {output} is the manifest itself; choose another name")
    if output.exists() and not overwrite:
        raise DdmError(
            f"{output} exists, and would lose what was corrected in it by hand: choose another "
            "--output, or give --overwrite"
        )
    check_settings(num_domains, seed)
    dataset = open_heap(images, STYLE_SIZE, channels, strict)
    found = discover_domains(style_features(dataset), num_domains, seed)
    if page is not None:
        from ddm.discovery_page import write_discovery_page

        # On the page the table is beside it.
        command = pretrain_command(images, output.name, found)
        paths = _table_paths(images, dataset, output)
        try:
            write_discovery_page(found, dataset, output, page, command, has_files(images), paths)
        except OSError as error:
            _write_table(images, dataset, found.table(), output)  # It was the work of minutes.
            raise DdmError(
                f"the page {page} cannot be written ({error.strerror}); the domains are in {output}"
            ) from None
    _write_table(images, dataset, found.table(), output)
    return found, dataset


def has_files(images: str) -> bool:
    """Whether these images are files, which a table can name: a manifest's or a folder's."""
    return Path(images).is_file() or is_heap(images)


def pretrain_command(images: str, table: str, found: Discovery) -> str | None:
    """How to train with the domains that were found; None for one, which cannot be trained with."""
    if found.num_domains < 2:
        return None
    return (
        f"ddm pretrain {table}"
        if has_files(images)
        else f"ddm pretrain {images} --domains discover"
    )


def _table_paths(images: str, dataset: ImageDataset, output: Path) -> list[str]:
    """What the table calls each image: its path from the table's folder."""
    if not has_files(images):
        return list(dataset.keys)
    path = Path(images)
    # The manifest's own folder, wherever a link to it leads: that is how it is read.
    root = (path if path.is_dir() else path.parent).resolve()
    folder = output.parent.resolve()
    return [Path(os.path.relpath(root / key, folder)).as_posix() for key in dataset.keys]


def _write_table(images: str, dataset: ImageDataset, table: DomainTable, output: Path) -> None:
    frame = pd.DataFrame({"path": _table_paths(images, dataset, output)})
    path = Path(images)
    if path.is_file():
        # What a manifest says besides stays with its rows, as it is written there.
        given = read_table(path)
        row_of = {PurePath(key).as_posix(): row for row, key in enumerate(given["path"])}
        rows = [row_of[key] for key in dataset.keys]
        for name in ("class", "group", "instance"):
            if name in given:
                frame[name] = [given[name][row] for row in rows]
    frame["split"] = dataset.splits
    frame.insert(1, "domain", np.asarray([*table.names, ""], object)[table.index])
    frame.insert(2, "confidence", table.confidence)
    with atomic(output) as temporary:
        if output.suffix.lower() == ".csv":
            # With a mark by which spreadsheets know UTF-8.
            frame.to_csv(temporary, index=False, encoding="utf-8-sig")
        else:
            frame.to_parquet(temporary, index=False)


def discover_for_training(
    dataset: ImageDataset, indices: NDArray[np.int64], num_domains: int | None, seed: int
) -> DomainTable:
    """Domains of the images that a run trains on; all others, held-out ones too, are unknown.

    Args:
        dataset: all images.
        indices: those that the run trains on, shape (M,).
        num_domains: how many; the best number from 2 on if None.
        seed: of the clusterings.

    Raises:
        DdmError: too few images, or what was found follows content.
    """
    # Who asks for domains to disentangle says that there are several.
    numbers = (2, None) if num_domains is None else num_domains
    found = discover_domains(style_features(dataset, indices), numbers, seed)
    if found.follows_content:
        raise DdmError(
            f"the domains found in {dataset.name} follow content, not style (the halves of an "
            f"image agree at kappa {found.halves:.2f}); look at them with `ddm discover`, correct "
            "the table and train with it"
        )
    nowhere = DomainTable(np.full(len(dataset), UNKNOWN), found.table().names)
    return nowhere.updated(indices, found.table())


class FeatureMemory:
    """The features of each training image, collected while an epoch goes by; costs no pass of its
    own.

    Under torch.distributed each rank collects what it trains on, and :meth:`joined` gives all.

    Args:
        indices: the training images, shape (M,).
        size: images in all.
        dim: width of the features.
    """

    def __init__(self, indices: NDArray[np.int64], size: int, dim: int) -> None:
        position = torch.full((size,), -1, dtype=torch.int64)
        position[torch.from_numpy(indices)] = torch.arange(len(indices))
        self.position = position
        self.features = torch.zeros(len(indices), dim)
        self.seen = torch.zeros(len(indices))

    def clear(self) -> None:
        """Forget, for the next epoch."""
        self.features.zero_()
        self.seen.zero_()

    def to(self, device: torch.device) -> None:
        """Move to where the features will be."""
        self.position = self.position.to(device)
        self.features = self.features.to(device)
        self.seen = self.seen.to(device)

    def add(self, index: Tensor, features: Tensor) -> None:
        """Remember features.

        Args:
            index: images of the batch, shape (N,).
            features: of each view, shape (V, N, dim); their mean is kept.
        """
        place = self.position[index.to(self.position.device)]
        self.features[place] = features.detach().float().mean(0)
        self.seen[place] = 1

    def joined(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Features of all ranks, shape (M, dim), and which images were seen, shape (M,)."""
        features, seen = self.features.clone(), self.seen.clone()
        if world_size() > 1:
            dist.all_reduce(features)
            dist.all_reduce(seen)
        return features.cpu().numpy(), seen.cpu().numpy() > 0

    def state(self) -> dict[str, Tensor]:
        """For the checkpoint: what all ranks have seen of this epoch. Every rank must call it."""
        features, seen = self.joined()
        return {"features": torch.from_numpy(features), "seen": torch.from_numpy(seen)}

    def load(self, state: dict[str, Tensor], rank: int) -> None:
        """Go on from a checkpoint; the first rank takes what all ranks had seen."""
        self.clear()
        if rank == 0:
            self.features.copy_(state["features"])
            self.seen.copy_(state["seen"])


def rediscover(
    table: DomainTable, memory: FeatureMemory, seed: int
) -> tuple[DomainTable, dict[str, float]]:
    """Cluster the remembered features anew; changes are damped.

    The first rank clusters, and all ranks get its table.

    Args:
        table: domains of the M training images so far.
        memory: their features.
        seed: of the clusterings.

    Returns:
        The next table, and figures for the log: share of the images that moved, and adjusted mutual
        information of what was found with the table so far.

    Raises:
        DdmError: features that do not vary or are not finite; on every rank.
    """
    features, seen = memory.joined()
    index, confidence = (
        torch.from_numpy(table.index.copy()),
        torch.from_numpy(table.confidence.copy()),
    )
    figures = torch.zeros(3)
    failure = "the first process could not cluster the features"
    if world_size() == 1 or dist.get_rank() == 0:
        try:
            so_far = table.index[seen]
            found = discover_domains(features[seen], table.num_domains, seed, so_far)
        except DdmError as error:
            failure = str(error)
            figures[2] = 1
        else:
            chosen = np.flatnonzero(seen)
            before = table.subset(chosen)
            after = damp_changes(before, found)
            index[chosen] = torch.from_numpy(after.index)
            confidence[chosen] = torch.from_numpy(after.confidence)
            figures[0] = float((after.index != before.index).mean())
            figures[1] = float(adjusted_mutual_info_score(before.index, found.domains))
    if world_size() > 1:
        # Where the features are: NCCL knows GPUs only.
        device = memory.features.device
        index, confidence, figures = (x.to(device) for x in (index, confidence, figures))
        for tensor in (index, confidence, figures):
            dist.broadcast(tensor, 0)
        index, confidence, figures = index.cpu(), confidence.cpu(), figures.cpu()
    if figures[2]:
        raise DdmError(failure)
    after = DomainTable(index.numpy(), table.names, confidence.numpy())
    moved, agreement, _ = figures.tolist()
    return after, {"domains_moved": moved, "domains_agreement": agreement}
