"""Many images: how long DomainNet's 600,000 files take to list, what a million rows hold in memory.

    python benchmarks/scale.py [--files 600000] [--rows 10000 100000 1000000]

Files are hard links to a few tiny JPEG images, so that decoding costs next to nothing. Each figure
comes from a process of its own: the seconds to list a folder in DomainNet's layout, to open it for
the first time (every image is decoded once) and again (what was readable is remembered), and, for
a manifest of so many rows, the seconds to open it (again) and the memory of the process and its two
workers after 20 and after 200 batches of 256 images: their shares of pages, summed (PSS).
Writes `benchmarks/results/scale/cpu.json`; a part that is not run (`--files 0`, `--rows` without a
number) stays in it as it was.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ddm.data.benchmarks import Benchmark
from ddm.data.domainnet import DOMAINNET
from ddm.evaluate import environment

RESULTS = Path(__file__).parent / "results" / "scale"
SOURCES = 64  # File systems bound the links to one file.


def write_sources(folder: Path) -> list[Path]:
    folder.mkdir()
    paths = []
    for i in range(SOURCES):
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (3 * i, 255 - 3 * i, 90)).save(file, "JPEG")
        paths.append(folder / f"{i}.jpg")
        paths[-1].write_bytes(file.getvalue())
    return paths


def write_tree(root: Path, benchmark: Benchmark, sources: list[Path], files: int) -> None:
    folders = [root / d / c for d in benchmark.domains for c in benchmark.classes]
    for folder in folders:
        folder.mkdir(parents=True)
    for i in range(files):
        os.link(sources[i % SOURCES], folders[i % len(folders)] / f"picture_{i:07d}.jpg")


def write_manifest(root: Path, sources: list[Path], rows: int) -> Path:
    lines = ["path,domain,class"]
    for i in range(rows):
        if i % 1000 == 0:
            (root / f"{i // 1000:04d}").mkdir(parents=True)
        name = f"{i // 1000:04d}/picture_{i:07d}.jpg"
        os.link(sources[i % SOURCES], root / name)
        lines.append(f"{name},domain {i % 6},class {i % 345}")
    path = root / "list.csv"
    path.write_text("\n".join(lines))
    return path


def pss() -> float:
    """Memory of this process and its children in MB, pages that are shared counted once."""
    me = os.getpid()
    children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    total = 0
    for process in (str(me), *children):
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
        total += int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1])
    return total / 1024


def measure(what: str, path: str) -> dict[str, float]:
    """One figure, in this process."""
    from ddm.data import load_images
    from ddm.data.folder import find_images
    from ddm.data.loading import EpochBatches, IndexedImages, batches

    began = time.perf_counter()
    if what == "list":
        found = find_images(Path(path))
        return _timed(began, len(found))
    before = pss()
    dataset = load_images(path, 8)
    seconds = time.perf_counter() - began
    if what == "open":
        return _timed(began, len(dataset))
    opened = pss()
    images = IndexedImages(dataset, np.arange(len(dataset)))
    # Epochs of a small data set follow one another.
    sampler = EpochBatches(len(images), 256, seed=0, epoch=0)
    loader, seen, after = batches(images, sampler, 256, workers=2), 0, {}
    while seen < 200:
        for _ in loader:
            seen += 1
            if seen in (20, 200):
                after[seen] = pss()
            if seen == 200:
                break
    return {
        "images": len(dataset),
        "open_seconds": seconds,
        "bytes_per_row": (opened - before) * 2**20 / len(dataset),
        "opened_mb": opened,
        "after_20_batches_mb": after[20],
        "after_200_batches_mb": after[200],
    }


def _timed(began: float, images: int) -> dict[str, float]:
    # The CPU's share holds the imports too, a few seconds; a busy machine does not inflate it.
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "cpu_seconds": time.process_time(), "images": images}


def apart(what: str, path: Path) -> dict[str, float]:
    """The figure from a process of its own."""
    command = [sys.executable, __file__, "--measure", what, str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    print(what, path.name, result, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=600_000)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    path = RESULTS / "cpu.json"
    found: dict[str, object] = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["DDM_CACHE"] = f"{temporary}/cache"
        sources = write_sources(Path(temporary) / "sources")
        root = Path(temporary) / "domain_net"
        if options.files:
            write_tree(root, DOMAINNET, sources, options.files)
            found["domainnet"] = {
                "list": apart("list", root),
                "list_again": apart("list", root),
                "open_first": apart("open", root),
                "open_again": apart("open", root),
                "load_average": os.getloadavg(),
                **environment(),
            }
        manifests = []
        for rows in options.rows:
            manifest = write_manifest(Path(temporary) / f"rows-{rows}", sources, rows)
            first = apart("open", manifest)
            manifests.append({"open_first_seconds": first["seconds"], **apart("memory", manifest)})
        if manifests:
            load = {"load_average": os.getloadavg()}
            found["manifests"] = {"runs": manifests, **load, **environment()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
