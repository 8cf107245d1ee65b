"""Benchmarks as they lie on a disk, at tiny size: real folder names, real file formats."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from ddm.data.benchmarks import Benchmark


def jpeg(number: int, side: int = 8) -> bytes:
    """A small JPEG file; another number gives other bytes and, mostly, another colour."""
    colour = tuple(number * step % 256 for step in (7, 31, 101))
    file = io.BytesIO()
    image = Image.new("RGB", (side, side), colour)
    image.save(file, "JPEG", quality=95, comment=str(number))
    return file.getvalue()


def write_images(root: Path, names: Iterable[str]) -> Path:
    """Write one image under each name, the k-th with number k."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    return root


def names_of(
    benchmark: Benchmark, per_class: int = 1, classes: Sequence[str] | None = None
) -> list[str]:
    """``<domain>/<class>/<file>`` for the whole benchmark, in sorted order."""
    return sorted(
        f"{domain}/{label}/{domain.split('_')[0]}_{number:03d}.jpg"
        for domain in benchmark.domains
        for label in classes or benchmark.classes
        for number in range(1, per_class + 1)
    )


def label_of(benchmark: Benchmark, name: str) -> int:
    return benchmark.classes.index(name.split("/")[1])


def write_split_file(
    path: Path, benchmark: Benchmark, names: Iterable[str], first_label: int
) -> None:
    """Write lines ``path label`` as the official files have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} {label_of(benchmark, name) + first_label}\n" for name in names]
    path.write_text("".join(lines), encoding="utf-8")


def table(dataset):
    """(key, class, domain, split) of each image."""
    labels = dataset.labels["class"]
    return [
        (key, labels.names[label], dataset.domains.names[domain], split)
        for key, label, domain, split in zip(
            dataset.keys, labels.index, dataset.domains.index, dataset.splits, strict=True
        )
    ]
