"""What the module costs: parameters, time of a step and peak memory, as ratios to the same without.

    python benchmarks/overhead.py [--device cuda] [--size 64] [--rounds 7]

SimCLR on random images of six domains, batch 256, two views. Time: steps with and without the
module take turns in one process (their order swaps every round), and the ratio is the median over
rounds of paired ratios. Memory: a process for each, its peak resident size on a CPU and the
allocator's peak on a GPU, less what the process holds before the model is made. Writes one JSON a
device under `benchmarks/results/overhead/`.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import timm
import torch

from ddm.evaluate import environment
from ddm.methods import SimCLR
from ddm.module import DomainDisentanglement
from ddm.optimizers import make_optimizer

RESULTS = Path(__file__).parent / "results" / "overhead"
ENCODERS = ("resnet18", "resnet50", "vit_small_patch16_224")
DOMAINS = 6
BATCH = 256


class Training:
    """An encoder under SimCLR, with the module or without."""

    def __init__(self, name: str, with_module: bool, size: int, device: str) -> None:
        torch.manual_seed(0)
        sized = {"img_size": size} if name.startswith("vit") else {}
        encoder = timm.create_model(name, num_classes=0, **sized)
        dim = encoder.num_features
        self.method = SimCLR(encoder, dim).to(device, memory_format=torch.channels_last)
        modules = [self.method]
        self.ddm = None
        if with_module:
            self.ddm = DomainDisentanglement(dim, DOMAINS).to(device)
            modules.append(self.ddm)
        self.device = device
        self.parameters = sum(p.numel() for m in modules for p in m.parameters())
        self.encoder_parameters = sum(p.numel() for p in encoder.parameters())
        self.optimizer = make_optimizer(modules, SimCLR.optimizer, BATCH)
        shape = (BATCH, 3, size, size)
        self.views = [
            torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
            for _ in range(2)
        ]
        self.domains = (torch.arange(BATCH) % DOMAINS).to(device)

    def step(self) -> float:
        """One step; returns its seconds."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device == "cuda"):
            output = self.method(self.views)
            loss = output.loss
            if self.ddm is not None:
                loss = loss + self.ddm(output.features, self.domains).loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began


def peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    # Not getrusage: a child begins there with its parent's peak.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def measure_memory(name: str, with_module: bool, size: int, device: str) -> int:
    """Bytes at the peak of two steps; called in a process of its own."""
    before = 0 if device == "cuda" else peak(device)
    training = Training(name, with_module, size, device)
    for _ in range(2):
        training.step()
    return peak(device) - before


def in_own_process(*arguments: object) -> int:
    command = [sys.executable, __file__, "--memory-of", *map(str, arguments)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(name: str, size: int, device: str, rounds: int) -> dict:
    sides = {side: Training(name, side == "with", size, device) for side in ("without", "with")}
    for training in sides.values():
        for _ in range(1 if device == "cpu" else 10):
            training.step()
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    for turn in range(rounds):
        for side in ("without", "with") if turn % 2 else ("with", "without"):
            seconds[side].append(sides[side].step())
    ratios = np.array(seconds["with"]) / np.array(seconds["without"])
    memory = {side: in_own_process(name, int(side == "with"), size, device) for side in sides}
    return {
        "encoder": name,
        "size": size,
        "batch": BATCH,
        "domains": DOMAINS,
        "parameters_added": sides["with"].parameters - sides["without"].parameters,
        "encoder_parameters": sides["with"].encoder_parameters,
        "parameter_ratio": sides["with"].parameters / sides["without"].parameters,
        "time_ratio_median": float(np.median(ratios)),
        "time_ratio_quartiles": [float(q) for q in np.percentile(ratios, [25, 75])],
        "seconds": seconds,
        "memory_ratio": memory["with"] / memory["without"],
        "memory_bytes": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        name, with_module, size, device = options.memory_of
        print(measure_memory(name, bool(int(with_module)), int(size), device))
        return
    rows = []
    for name in ENCODERS:
        rows.append(measure(name, options.size, options.device, options.rounds))
        row = rows[-1]
        low, high = row["time_ratio_quartiles"]
        print(
            f"{name:24} parameters x{row['parameter_ratio']:.5f}  time "
            f"x{row['time_ratio_median']:.3f} [{low:.3f}, {high:.3f}]  memory "
            f"x{row['memory_ratio']:.4f}",
            flush=True,
        )
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"rows": rows, **environment()}, indent=1)
    (RESULTS / f"{options.device}.json").write_text(text)


if __name__ == "__main__":
    main()
