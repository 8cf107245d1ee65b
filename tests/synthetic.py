"""Small images for tests: shapes (the classes) drawn in styles (the domains)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ddm.data.base import ImageDataset, Labels, split_by_group
from ddm.domains import DomainTable

SHAPES = ("circle", "cross", "square")
STYLES = {
    "filled": dict(paper="white", ink=(200, 60, 40), fill=True),
    "night": dict(paper="black", ink=(90, 160, 250), fill=True),
    "outline": dict(paper="white", ink=(0, 0, 0), fill=False),
}


def draw(shape: str, style: str, number: int, size: int = 32) -> Image.Image:
    """One picture; the same number gives the same thing in every style."""
    look = STYLES[style]
    rng = np.random.default_rng([SHAPES.index(shape), number])
    image = Image.new("RGB", (size, size), look["paper"])
    pen = ImageDraw.Draw(image)
    radius = size * rng.uniform(0.2, 0.35)
    x, y = rng.uniform(radius, size - radius, 2)
    box = [x - radius, y - radius, x + radius, y + radius]
    fill = look["ink"] if look["fill"] else None
    if shape == "circle":
        pen.ellipse(box, fill=fill, outline=look["ink"], width=2)
    elif shape == "square":
        pen.rectangle(box, fill=fill, outline=look["ink"], width=2)
    else:
        width = 5 if look["fill"] else 1
        pen.line([x - radius, y, x + radius, y], fill=look["ink"], width=width)
        pen.line([x, y - radius, x, y + radius], fill=look["ink"], width=width)
    return image


class MemoryReader:
    """Images in one array."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __call__(self, i: int) -> np.ndarray:
        return self.images[i]

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return self.images[indices]


def make_dataset(each: int = 12, size: int = 32) -> ImageDataset:
    """``each`` pictures of every shape, drawn in every style."""
    names = [(s, c, n) for s in STYLES for c in SHAPES for n in range(each)]
    things = [f"{c}-{n}" for _, c, n in names]
    order = {thing: i for i, thing in enumerate(sorted(set(things)))}
    instances = np.array([order[t] for t in things])
    return ImageDataset(
        name="shapes",
        keys=tuple(f"{s}/{c}/{n}.png" for s, c, n in names),
        read=MemoryReader(np.stack([np.asarray(draw(c, s, n, size)) for s, c, n in names])),
        size=size,
        channels=3,
        domains=DomainTable.from_names([s for s, _, _ in names]),
        splits=split_by_group(things, (0.6, 0.2, 0.2)),
        groups=instances,
        labels={"class": Labels.from_names([c for _, c, _ in names])},
        instances=instances,
    )


def write_folder(root: Path, each: int = 12, styles: tuple[str, ...] = tuple(STYLES)) -> Path:
    """The same pictures as ``root/<style>/<shape>/<number>.png``."""
    for style in styles:
        for shape in SHAPES:
            folder = root / style / shape
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(each):
                draw(shape, style, number).save(folder / f"{number}.png")
    return root
