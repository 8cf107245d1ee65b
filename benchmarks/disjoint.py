"""Emoji whose domains share no classes, as images and manifests, for the benchmarks.

    python benchmarks/disjoint.py FOLDER

For each domain that may be left out a manifest FOLDER/<domain>.csv, in which the eight groups of
emoji are dealt among the other four domains, two to each: a domain keeps those of its training and
validation images that belong to its own groups. The test images stay as they are, and so does the
domain that is left out: every class is asked for on every domain. An encoder, and a probe on it,
can thus mistake the domain for the class.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ddm.data.base import ImageDataset
from ddm.data.emoji import load_emoji

SIZE = 32


def make_disjoint(folder: Path) -> list[Path]:
    """Write the images, unless they are there, and the manifests.

    Returns:
        The manifests: path, domain, class, split, group, instance.
    """
    dataset = load_emoji(SIZE)
    whole = _write_images(dataset, folder)
    manifests = []
    for left_out in dataset.domains.names:
        others = [name for name in dataset.domains.names if name != left_out]
        owner = deal(whole["class"][whole["domain"] == left_out].value_counts(), others)
        own = whole["domain"] == whole["class"].map(owner)
        kept = (whole["domain"] == left_out) | (whole["split"] == "test") | own
        manifests.append(folder / f"{left_out}.csv")
        whole[kept].to_csv(manifests[-1], index=False)
    return manifests


def deal(sizes: pd.Series, domains: list[str]) -> dict[str, str]:
    """Which domain each class goes to: the largest first, to and fro, for domains of like size."""
    order = sizes.sort_index().sort_values(ascending=False, kind="stable").index
    to_and_fro = [*domains, *reversed(domains)]
    return {name: to_and_fro[i % len(to_and_fro)] for i, name in enumerate(order)}


def _write_images(dataset: ImageDataset, folder: Path) -> pd.DataFrame:
    rows = []
    group = dataset.labels["group"]
    for i in range(len(dataset)):
        domain = dataset.domains.names[dataset.domains.index[i]]
        path = Path(domain) / f"{dataset.instances[i]}.png"
        if not (folder / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(dataset.read(i))).save(folder / path)
        name = group.names[group.index[i]]
        split, family = dataset.splits[i], dataset.groups[i]
        rows.append((path.as_posix(), domain, name, split, family, dataset.instances[i]))
    columns = ["path", "domain", "class", "split", "group", "instance"]
    return pd.DataFrame(rows, columns=columns)


if __name__ == "__main__":
    print(*make_disjoint(Path(sys.argv[1])), sep="\n")
