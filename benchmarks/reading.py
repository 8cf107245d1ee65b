"""How fast images are read: ours beside torchvision's ImageFolder and wilds' loader, in one run.

    python benchmarks/reading.py [--images 200] [--rounds 5]

Images are made up (smooth colour fields with some noise) at the sizes of PACS (227 pixels square)
and of DomainNet (a typical 600 x 450), as JPEG (quality 90) and PNG, and read to 256 pixels: the
shorter side scaled, centre cropped, one thread each. Rounds take turns; the figure is the median
over rounds of images a second, and of the paired ratio. wilds' loader is `get_input` of its
iwildcam with the same transforms; it takes part where the package is installed. Writes
`benchmarks/results/reading/cpu.json`.
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
TRANSFORM = Compose([Resize(SIZE), CenterCrop(SIZE), PILToTensor()])


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


def wilds_loader(root: Path, keys: list[str]) -> Callable[[int], object] | None:
    """The images as `wilds` opens them; None where it is not installed."""
    try:
        from wilds.datasets.iwildcam_dataset import IWildCamDataset
    except ImportError:
        return None
    data = IWildCamDataset.__new__(IWildCamDataset)
    # Its images lie in a folder `train`.
    (root / "train").symlink_to(root / "class")
    data._data_dir = root
    data._input_array = [key.removeprefix("class/") for key in keys]
    return lambda i: TRANSFORM(data.get_input(i).convert("RGB"))


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
                readers = {
                    "ours": ours,
                    "ImageFolder": ImageFolder(str(root), TRANSFORM).__getitem__,
                }
                if (theirs := wilds_loader(root, keys)) is not None:
                    readers["wilds"] = theirs
                for read in readers.values():
                    rate(read, len(keys))  # Into the page cache.
                rates = {name: [] for name in readers}
                for _ in range(options.rounds):
                    for name, read in readers.items():
                        rates[name].append(rate(read, len(keys)))
                row: dict[str, object] = {"kind": kind, "format": suffix, "pixels": size}
                for name, found in rates.items():
                    ratios = np.array(rates["ours"]) / np.array(found)
                    row[name] = {
                        "images_a_second": float(np.median(found)),
                        "ours_is_times_as_fast": float(np.median(ratios)),
                        "range": [float(ratios.min()), float(ratios.max())],
                    }
                rows.append(row)
                print(
                    kind,
                    suffix,
                    *(f"{n} {np.median(r):.0f}/s" for n, r in rates.items()),
                    flush=True,
                )
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"read_to": SIZE, "rows": rows, **environment()}, indent=1)
    (RESULTS / "cpu.json").write_text(text)


if __name__ == "__main__":
    main()
