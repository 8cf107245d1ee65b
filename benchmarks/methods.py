"""Our six methods beside lightly's own recipes of the same ones, in one run.

    python benchmarks/methods.py [--seeds 3] [--epochs 10]

No module, and the same for both sides of a pair: the small encoder with the same first weights, the
same order of images, the same views, the same epochs and batch. What differs is what makes the
recipe: heads, loss, momentum, optimizer and schedule. lightly's are those of its published CIFAR-10
benchmark (docs/source/getting_started/benchmarks/cifar10_benchmark.py, version 1.6), made for
images of this size, split batch norm and shuffling of MoCo included. That the views are the same
means that lightly's recipes get those of our methods, whatever their own are: its DINO, for one,
gets four small crops, which its benchmark leaves out.

The measure is k-NN accuracy (20 neighbours, the 8 groups of emoji) of the test images of each
domain among the training images of the same domain, mean over domains. The encoder's first weights
are measured too: what they reach already, no training has to be thanked for.

One JSON file a finished run under `benchmarks/results/methods/`; finished runs are skipped.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from lightly.loss import BarlowTwinsLoss, DINOLoss, NegativeCosineSimilarity, NTXentLoss
from lightly.models.batchnorm import SplitBatchNorm
from lightly.models.modules import heads
from lightly.models.utils import (
    batch_shuffle,
    batch_unshuffle,
    deactivate_requires_grad,
    update_momentum,
)
from torch import Tensor, nn

from ddm.collapse import effective_rank
from ddm.data import load_images
from ddm.data.base import ImageDataset
from ddm.data.loading import EpochBatches, IndexedImages
from ddm.encoders import EncoderSpec, build_encoder
from ddm.evaluate import environment
from ddm.methods import METHODS
from ddm.optimizers import (
    clip_gradients,
    cosine_with_warmup,
    make_optimizer,
    schedule_weight_decay,
)
from ddm.probe import knn_predict
from ddm.views import plain_view, random_views

RESULTS = Path(__file__).parent / "results" / "methods"
#: Photo-like, flat, outlined; `openmoji` and the demonstration's unseen domain take no part.
DOMAINS = ("noto", "twemoji", "openmoji-line")
SIZE = 32
BATCH = 128


# --- lightly's recipes ----------------------------------------------------------------------------


class Recipe(nn.Module):
    """What lightly's recipes share: SGD over all parameters, cosine by the epoch, no warm-up."""

    learning_rate = 0.06 * BATCH / 128

    def __init__(self, encoder: nn.Module, dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.build(dim)

    def build(self, dim: int) -> None:
        raise NotImplementedError

    def forward(self, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Loss, and the features of the first view."""
        raise NotImplementedError

    def follow(self, *names: str) -> None:
        """Make a momentum copy of each."""
        self.followed = names
        for name in names:
            twin = copy.deepcopy(getattr(self, name))
            deactivate_requires_grad(twin)
            setattr(self, f"{name}_momentum", twin)

    def update(self) -> None:
        for name in self.followed:
            update_momentum(getattr(self, name), getattr(self, f"{name}_momentum"), 0.99)


class LightlySimCLR(Recipe):
    def build(self, dim: int) -> None:
        self.head = heads.SimCLRProjectionHead(dim, 512, 128)
        self.criterion = NTXentLoss()

    def forward(self, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        h0, h1 = self.encoder(views[0]), self.encoder(views[1])
        return self.criterion(self.head(h0), self.head(h1)), h0


class LightlyMoCo(Recipe):
    def build(self, dim: int) -> None:
        self.head = heads.MoCoProjectionHead(dim, 512, 128)
        # Split batch norm cannot take channels-last tensors.
        self.encoder.to(memory_format=torch.contiguous_format)
        split_batch_norm(self.encoder, 8)
        self.follow("encoder", "head")
        self.criterion = NTXentLoss(temperature=0.1, memory_bank_size=(4096, 128))

    def forward(self, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        self.update()
        views = [view.contiguous() for view in views]

        def one_way(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            h = self.encoder(x)
            with torch.no_grad():
                y, shuffle = batch_shuffle(y)
                key = batch_unshuffle(self.head_momentum(self.encoder_momentum(y)), shuffle)
            return self.criterion(self.head(h), key), h

        (first, h), (second, _) = one_way(*views), one_way(*views[::-1])
        return 0.5 * (first + second), h


def split_batch_norm(encoder: nn.Module, num_splits: int) -> None:
    """Give the encoder lightly's batch norm, which treats parts of a batch apart."""
    for name, child in encoder.named_children():
        if isinstance(child, nn.BatchNorm2d):
            split = SplitBatchNorm(child.num_features, num_splits)
            split.weight, split.bias = child.weight, child.bias
            setattr(encoder, name, split)
        else:
            split_batch_norm(child, num_splits)


class LightlyBYOL(Recipe):
    def build(self, dim: int) -> None:
        self.head = heads.BYOLProjectionHead(dim, 1024, 256)
        self.prediction_head = heads.BYOLPredictionHead(256, 1024, 256)
        self.follow("encoder", "head")
        self.criterion = NegativeCosineSimilarity()

    def forward(self, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        self.update()
        h = [self.encoder(x) for x in views]
        p = [self.prediction_head(self.head(each)) for each in h]
        with torch.no_grad():
            z = [self.head_momentum(self.encoder_momentum(x)) for x in views]
        return 0.5 * (self.criterion(p[0], z[1]) + self.criterion(p[1], z[0])), h[0]


class LightlyDINO(Recipe):
    def build(self, dim: int) -> None:
        self.head = self.make_head(dim)
        self.follow("encoder")
        self.head_momentum = self.make_head(dim)
        deactivate_requires_grad(self.head_momentum)
        self.followed = ("encoder", "head")
        self.criterion = DINOLoss(output_dim=2048)
        self.epoch = 0

    @staticmethod
    def make_head(dim: int) -> nn.Module:
        head = heads.DINOProjectionHead(dim, 2048, 256, 2048, batch_norm=True)
        two = [(dim, 2048, nn.BatchNorm1d(2048), nn.GELU()), (2048, 256, None, None)]
        head.layers = heads.ProjectionHead(two).layers
        return head

    def forward(self, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        self.update()
        with torch.no_grad():
            teacher = [self.head_momentum(self.encoder_momentum(x)) for x in views[:2]]
        h = [self.encoder(x) for x in views]
        loss = self.criterion(teacher, [self.head(each) for each in h], epoch=self.epoch)
        return loss, h[0]


class LightlySimSiam(Recipe):
    learning_rate = 0.06  # Not scaled, as the recipe has it.

    def build(self, dim: int) -> None:
        two = [(dim, 2048, nn.BatchNorm1d(2048), nn.ReLU(inplace=True))]
        self.head = heads.ProjectionHead([*two, (2048, 2048, nn.BatchNorm1d(2048), None)])
        self.prediction_head = heads.SimSiamPredictionHead(2048, 512, 2048)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        h = [self.encoder(x) for x in views]
        z = [self.head(each) for each in h]
        p = [self.prediction_head(each) for each in z]
        loss = self.criterion(z[0].detach(), p[1]) + self.criterion(z[1].detach(), p[0])
        return 0.5 * loss, h[0]


class LightlyBarlowTwins(Recipe):
    def build(self, dim: int) -> None:
        first = (dim, 2048, nn.BatchNorm1d(2048), nn.ReLU(inplace=True))
        self.head = heads.ProjectionHead([first, (2048, 2048, None, None)])
        self.criterion = BarlowTwinsLoss()

    def forward(self, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        h0, h1 = self.encoder(views[0]), self.encoder(views[1])
        return self.criterion(self.head(h0), self.head(h1)), h0


RECIPES: dict[str, type[Recipe]] = {
    "simclr": LightlySimCLR,
    "moco": LightlyMoCo,
    "byol": LightlyBYOL,
    "dino": LightlyDINO,
    "simsiam": LightlySimSiam,
    "barlow_twins": LightlyBarlowTwins,
}


# --- the run --------------------------------------------------------------------------------------


def knn(encoder: nn.Module, data: ImageDataset, split: str) -> dict[str, float]:
    """Accuracy of each domain's images among the training images of that domain."""
    training = encoder.training
    encoder.eval()
    classes = data.labels["group"].index
    found = {}
    for domain in DOMAINS:
        bank, query = data.select([domain], ["train"]), data.select([domain], [split])
        with torch.inference_mode():
            h, q = (
                np.concatenate(
                    [
                        encoder(plain_view(images, SIZE)).numpy()
                        for images in IndexedImages(data, index)
                        .__getitems__(np.arange(len(index)))[0]
                        .split(512)
                    ]
                )
                for index in (bank, query)
            )
        predicted = knn_predict((h, classes[bank]), q)
        found[domain] = float((predicted == classes[query]).mean())
    found["mean"] = float(np.mean([found[d] for d in DOMAINS]))
    encoder.train(training)
    return found


def run_once(side: str, name: str, seed: int, epochs: int, data: ImageDataset) -> dict:
    """Train once and follow k-NN on the validation images, and the effective rank."""
    images = IndexedImages(data, data.select(DOMAINS, ["train"]))
    sampler = EpochBatches(len(images), BATCH, seed, epoch=0)
    steps = epochs * len(sampler)
    torch.manual_seed(seed)
    encoder, dim = build_encoder(EncoderSpec("small", 3, SIZE))
    kind = METHODS[name]
    if side == "ddm":
        model = kind(encoder, dim)
        optimizer = make_optimizer([model], kind.optimizer, BATCH)
        factor = cosine_with_warmup(steps, steps // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    else:
        model = RECIPES[name](encoder, dim)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, model.learning_rate, 0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    view_settings = kind(nn.Identity(), dim).views(SIZE)
    curve, step, began = [], 0, time.perf_counter()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for positions in sampler:
            torch.manual_seed(1000 * seed + step)
            generator = torch.Generator().manual_seed(1000 * seed + step)
            batch = images.__getitems__(positions)[0]
            views = random_views(batch, view_settings, generator)
            optimizer.zero_grad()
            if side == "ddm":
                model.progress = step / steps
                output = model(views)
                loss, features = output.loss, output.features[0]
            else:
                model.epoch = epoch
                loss, features = model(views)
            loss.backward()
            if side == "ddm":
                model.before_step()
                clip_gradients(optimizer, kind.optimizer)
                schedule_weight_decay(optimizer, kind.optimizer, step / steps)
            optimizer.step()
            if side == "ddm":
                model.after_step()
                schedule.step()
            step += 1
        if side != "ddm":
            schedule.step()
        row = {"epoch": epoch + 1, "loss": loss.item()}
        row["effective_rank"] = effective_rank(features.detach())
        if epoch % 3 == 2 or epoch == epochs - 1:
            row["knn"] = knn(encoder, data, "val")["mean"]
        curve.append(row)
    result = {"side": side, "method": name, "seed": seed, "epochs": epochs, "batch": BATCH}
    result |= {"domains": DOMAINS, "seconds": time.perf_counter() - began, "curve": curve}
    return result | {"knn_val": knn(encoder, data, "val"), "knn_test": knn(encoder, data, "test")}


def untrained(seed: int, data: ImageDataset) -> dict:
    """The encoder that both sides of a pair begin with."""
    torch.manual_seed(seed)
    encoder, _ = build_encoder(EncoderSpec("small", 3, SIZE))
    found = {f"knn_{split}": knn(encoder, data, split) for split in ("val", "test")}
    return {"side": "untrained", "method": "", "seed": seed, **found}


def mean_and_deviation(percent: np.ndarray) -> str:
    deviation = np.std(percent, ddof=1) if len(percent) > 1 else float("nan")
    return f"{percent.mean():.1f} [{deviation:.1f}]"


def table(runs: list[dict]) -> str:
    """Means, and the standard error of the paired difference over seeds."""
    lines = [
        "k-NN accuracy within the domain, %, mean over domains and seeds; in brackets the standard",
        "deviation over seeds, and of the difference its standard error (paired by seed).",
        "",
        "| method | runs | ddm | lightly | difference | seconds, ddm / lightly |",
        "|---|---|---|---|---|---|",
    ]
    for name in METHODS:
        sides = {
            side: {r["seed"]: r for r in runs if (r["method"], r["side"]) == (name, side)}
            for side in ("ddm", "lightly")
        }
        seeds = sorted(set(sides["ddm"]) & set(sides["lightly"]))
        if not seeds:
            continue
        ours, theirs = (
            100 * np.array([sides[side][s]["knn_test"]["mean"] for s in seeds])
            for side in ("ddm", "lightly")
        )
        seconds = [np.median([sides[side][s]["seconds"] for s in seeds]) for side in sides]
        n = len(seeds)
        error = np.std(ours - theirs, ddof=1) / n**0.5 if n > 1 else float("nan")
        lines.append(
            f"| {name} | {n} | {mean_and_deviation(ours)} | {mean_and_deviation(theirs)} | "
            f"{(ours - theirs).mean():+.1f} [{error:.1f}] | {seconds[0]:.0f} / {seconds[1]:.0f} |"
        )
    first = 100 * np.array([r["knn_test"]["mean"] for r in runs if r["side"] == "untrained"])
    lines += ["", f"The encoder before any training: {mean_and_deviation(first)}."]
    return "\n".join(lines)


def plot(runs: list[dict], path: Path) -> None:
    """Effective rank and k-NN over training: does any run collapse?"""
    figure, axes = plt.subplots(2, len(METHODS), figsize=(15, 5), sharex=True, sharey="row")
    first = np.mean([r["knn_val"]["mean"] for r in runs if r["side"] == "untrained"])
    looks = {"ddm": ("#0072b2", "-"), "lightly": ("#e69f00", "--")}
    for column, name in enumerate(METHODS):
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel("epoch")
        axes[1, column].axhline(100 * first, color="0.4", linestyle=":", label="untrained")
        for run in (r for r in runs if r["method"] == name):
            color, style = looks[run["side"]]
            for axis, key, scale in ((0, "effective_rank", 1), (1, "knn", 100)):
                points = [(r["epoch"], scale * r[key]) for r in run["curve"] if key in r]
                label = run["side"] if run["seed"] == 0 else None
                axes[axis, column].plot(*zip(*points, strict=True), style, color=color, label=label)
    axes[0, 0].set_ylabel("effective rank\n(of at most 127)")
    axes[1, 0].set_ylabel("k-NN on validation images, %")
    axes[0, -1].legend(*axes[1, 0].get_legend_handles_labels())
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    data = load_images("emoji", SIZE, 3, False)
    for seed in range(options.seeds):
        path = options.results / f"untrained_{seed}.json"
        if not path.exists():
            path.write_text(json.dumps({**untrained(seed, data), **environment()}, indent=1))
        for name in options.methods:
            for side in ("ddm", "lightly"):
                path = options.results / f"{name}_{side}_{seed}.json"
                if path.exists():
                    held = json.loads(path.read_text())["epochs"]
                    if held != options.epochs:
                        parser.error(f"{path} is of {held} epochs; choose another --results")
                else:
                    result = run_once(side, name, seed, options.epochs, data)
                    path.write_text(json.dumps({**result, **environment()}, indent=1))
                    print(path.stem, result["knn_test"], flush=True)
    runs = [json.loads(path.read_text()) for path in sorted(options.results.glob("*.json"))]
    print(table(runs))
    (options.results / "table.md").write_text(table(runs) + "\n")
    plot(runs, options.results / "collapse.png")


if __name__ == "__main__":
    main()
