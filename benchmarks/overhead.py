"""What the module costs: parameters, time of a step and peak memory, as ratios to the same without.

    python benchmarks/overhead.py [--device cuda] [--size 64] [--rounds 7] [--encoders resnet18 ...]

SimCLR on random images of six domains, batch 256, two views. Time, in two ways. Steps with and
without the module take turns in one process (their order swaps every round): the median over rounds
of paired ratios, of the clock's time and of the processor's. And, since the module is less than
such ratios are uncertain by on a machine that does other things too: the module alone, forward and
backward on the features of the step before, over a step without it. OMP_NUM_THREADS=1 keeps the
processor's time free of threads that wait. Memory: the most that tensors hold at a time, by
PyTorch's allocator.

Writes one JSON a device under `benchmarks/results/overhead/`, after each encoder.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from torch.profiler import ProfilerActivity, profile

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

    def step(self) -> tuple[float, float]:
        """One step; returns its seconds by the clock and of the processor."""
        watch = Stopwatch(self.device)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device == "cuda"):
            output = self.method(self.views)
            loss = output.loss
            if self.ddm is not None:
                loss = loss + self.ddm(output.features, self.domains).loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.features = output.features.detach()
        return watch.read()

    def module_alone(self) -> tuple[float, float]:
        """The module's forward and backward pass on the last step's features; its seconds."""
        features = self.features.clone().requires_grad_()
        watch = Stopwatch(self.device)
        self.ddm(features, self.domains).loss.backward()
        return watch.read()


class Stopwatch:
    """Seconds by the clock and of the processor, the device's work included."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.began = self._now()

    def _now(self) -> tuple[float, float]:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        now = self._now()
        return now[0] - self.began[0], now[1] - self.began[1]


def measure_memory(name: str, with_module: bool, size: int, device: str) -> int:
    """Most bytes that tensors held in two steps; called in a process of its own.

    Not the process's resident size, which differs by percents from run to run.
    """
    if device == "cuda":
        two_steps(name, with_module, size, device)
        return torch.cuda.max_memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        two_steps(name, with_module, size, device)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return max(e["args"]["Total Allocated"] for e in events if e.get("name") == "[memory]")


def two_steps(name: str, with_module: bool, size: int, device: str) -> None:
    training = Training(name, with_module, size, device)
    for _ in range(2):
        training.step()


def in_own_process(*arguments: object) -> int:
    command = [sys.executable, __file__, "--memory-of", *map(str, arguments)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(printed.split()[-1])


def measure(name: str, size: int, device: str, rounds: int) -> dict:
    sides = {side: Training(name, side == "with", size, device) for side in ("without", "with")}
    for training in sides.values():
        for _ in range(1 if device == "cpu" else 10):
            training.step()
    seconds: dict[str, list[float]] = {"without": [], "with": [], "module": []}
    processor: dict[str, list[float]] = {"without": [], "with": [], "module": []}

    def note(what: str, clock: float, busy: float) -> None:
        seconds[what].append(clock)
        processor[what].append(busy)

    for turn in range(rounds):
        for side in ("without", "with") if turn % 2 else ("with", "without"):
            note(side, *sides[side].step())
        for _ in range(5):
            note("module", *sides["with"].module_alone())
    memory = {side: in_own_process(name, int(side == "with"), size, device) for side in sides}
    return {
        "encoder": name,
        "size": size,
        "batch": BATCH,
        "domains": DOMAINS,
        "parameters_added": sides["with"].parameters - sides["without"].parameters,
        "encoder_parameters": sides["with"].encoder_parameters,
        "parameter_ratio": sides["with"].parameters / sides["without"].parameters,
        **time_ratios("time", seconds),
        "seconds": seconds,
        # On a GPU the processor only hands out work.
        **({} if device == "cuda" else time_ratios("processor_time", processor)),
        "processor_seconds": processor,
        "memory_ratio": memory["with"] / memory["without"],
        "memory_bytes": memory,
    }


def time_ratios(what: str, seconds: dict[str, list[float]]) -> dict:
    """Steps with over steps without, as they are and as the sum of their parts."""
    ratios = np.array(seconds["with"]) / np.array(seconds["without"])
    without, module = (float(np.median(seconds[key])) for key in ("without", "module"))
    return {
        f"{what}_ratio_median": float(np.median(ratios)),
        f"{what}_ratio_quartiles": [float(q) for q in np.percentile(ratios, [25, 75])],
        f"{what}_ratio_of_parts": 1 + module / without,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--encoders", nargs="+", default=ENCODERS, choices=ENCODERS, help="the others keep theirs"
    )
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        name, with_module, size, device = options.memory_of
        print(measure_memory(name, bool(int(with_module)), int(size), device))
        return
    path = RESULTS / f"{options.device}.json"
    rows = {r["encoder"]: r for r in json.loads(path.read_text())["rows"]} if path.exists() else {}
    for name in options.encoders:
        row = rows[name] = measure(name, options.size, options.device, options.rounds)
        times = "  ".join(
            f"{what} x{row[f'{what}_ratio_median']:.4f} "
            f"[{', '.join(f'{q:.4f}' for q in row[f'{what}_ratio_quartiles'])}] "
            f"of parts x{row[f'{what}_ratio_of_parts']:.4f}"
            for what in ("time", "processor_time")
            if f"{what}_ratio_median" in row
        )
        print(
            f"{name:24} parameters x{row['parameter_ratio']:.5f}  {times}  memory "
            f"x{row['memory_ratio']:.4f}",
            flush=True,
        )
        RESULTS.mkdir(parents=True, exist_ok=True)
        ordered = [rows[known] for known in ENCODERS if known in rows]
        path.write_text(json.dumps({"rows": ordered, **environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
