"""How fast images are read: ours beside torchvision's ImageFolder, one thread each, in one run.

    python benchmarks/reading.py [--images 200] [--rounds 5]

Images are made up (smooth colour fields with some noise) at the sizes of PACS (227 pixels square)
and of DomainNet (a typical 600 x 450), as JPEG (quality 90) and PNG, and read to 256 pixels: the
shorter side scaled, centre cropped. Rounds take turns; the figure is the median over rounds of
images a second, and of the paired ratio. Writes `benchmarks/results/reading/cpu.json`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from ddm.data.images import FileReader
from ddm.evaluate import environment

RESULTS = Path(__file__).parent / "results" / "reading"
KINDS = {"PACS": (227, 227), "DomainNet": (600, 450)}
SIZE = 256


def write_images(root: Path, size: tuple[int, int], suffix: str, count: int) -> list[str]:
    rng = np.random.default_rng(0)
    folder = root / "class"
    folder.mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        image = coarse.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.SHARPEN)
        noise = rng.normal(0, 3, (size[1], size[0], 3))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.{suffix}", quality=90)
    return sorted(f"class/{p.name}" for p in folder.iterdir())


def rate(read: Callable[[int], object], count: int) -> float:
    began = time.perf_counter()
    for i in range(count):
        read(i)
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for kind, size in KINDS.items():
            for suffix in ("jpg", "png"):
                root = Path(temporary) / f"{kind}-{suffix}"
                keys = write_images(root, size, suffix, options.images)
                ours = FileReader(root, keys, SIZE)
                transform = Compose([Resize(SIZE), CenterCrop(SIZE), PILToTensor()])
                theirs = ImageFolder(str(root), transform)
                for read in (ours, theirs.__getitem__):
                    rate(read, len(keys))  # Into the page cache.
                pairs = np.array(
                    [
                        [rate(ours, len(keys)), rate(theirs.__getitem__, len(keys))]
                        for _ in range(options.rounds)
                    ]
                )
                ratios = pairs[:, 0] / pairs[:, 1]
                row = {
                    "kind": kind,
                    "format": suffix,
                    "pixels": size,
                    "ours": float(np.median(pairs[:, 0])),
                    "image_folder": float(np.median(pairs[:, 1])),
                    "ratio_median": float(np.median(ratios)),
                    "ratio_range": [float(ratios.min()), float(ratios.max())],
                }
                rows.append(row)
                print(
                    f"{kind:10} {suffix}  ours {row['ours']:7.0f}/s  ImageFolder "
                    f"{row['image_folder']:7.0f}/s  x{row['ratio_median']:.2f}",
                    flush=True,
                )
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"read_to": SIZE, "rows": rows, **environment()}, indent=1)
    (RESULTS / "cpu.json").write_text(text)


if __name__ == "__main__":
    main()
