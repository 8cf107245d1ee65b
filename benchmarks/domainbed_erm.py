"""Supervised learning (ERM) by DomainBed and by `ddm finetune`, leave one domain out, on emoji.

    git clone https://github.com/facebookresearch/DomainBed
    python benchmarks/domainbed_erm.py DomainBed [--steps 400] [--seeds 3]

Emoji are written as folders `<domain>/<class>/*.png`. Both sides train the same small encoder from
scratch at 32 pixels on the same training images, choose among ten checkpoints by the same
validation images of the seen domains, and are read on the same test images of every domain. The
batch (32 images a training domain) and the learning rate (1e-3) are DomainBed's defaults, for
photographs and for small images. Each side keeps what is its own: DomainBed its class `ERM` with
Adam, its loaders, which draw equally from every domain, and its transforms; ours `ddm pretrain
--epochs 0` and `ddm finetune` with AdamW, a cosine and stronger views. `noto-mono` takes no part.
Finished runs are skipped.
"""

import argparse
import json
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from ddm.config import FinetuneConfig, ModuleConfig, PretrainConfig
from ddm.data import load_images
from ddm.data.base import ImageDataset
from ddm.encoders import EncoderSpec, build_encoder
from ddm.evaluate import environment
from ddm.finetune import finetune
from ddm.pretrain import pretrain
from ddm.views import IMAGENET_MEAN, IMAGENET_STD

RESULTS = Path(__file__).parent / "results" / "domainbed_erm"
RESERVED = "noto-mono"
LEFT_OUT = ("twemoji", "openmoji-line")
SIZE, PER_DOMAIN, RATE, CHECKPOINTS = 32, 32, 1e-3, 10


def export(root: Path) -> None:
    """Emoji as `<domain>/<class>/<code>.png`, without the reserved domain."""
    emoji = load_images("emoji", SIZE, 3)
    label = emoji.labels["group"]
    for i, key in enumerate(emoji.keys):
        domain, code = key.split("/")
        if domain != RESERVED:
            path = root / domain / label.names[label.index[i]] / f"{code}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(emoji.read(i))).save(path)


def ours(root: Path, left_out: str, seed: int, steps: int, batch: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        config = PretrainConfig(
            images=str(root),
            output=f"{scratch}/run",
            held_out=[left_out],
            size=SIZE,
            epochs=0,
            batch_size=batch,
            seed=seed,
            ddm=ModuleConfig(enabled=False),
        )
        settings = FinetuneConfig(
            fractions=(1.0,),
            steps=steps,
            batch_size=batch,
            learning_rates=(RATE,),
            weight_decay=0.0,
            seed=seed,
        )
        rows = finetune(pretrain(config).path, settings)["rows"]
    return {r["side"]: r["value"] for r in rows if r["domain"] == "mean"}


def theirs(
    root: Path, data: ImageDataset, left_out: str, seed: int, steps: int
) -> dict[str, float]:
    from domainbed import algorithms, hparams_registry, networks
    from domainbed.lib.fast_data_loader import InfiniteDataLoader
    from domainbed.lib.misc import accuracy

    torch.manual_seed(seed)

    def featurizer(shape: tuple[int, ...], hparams: object) -> nn.Module:
        encoder, width = build_encoder(EncoderSpec("small", 3, SIZE))
        encoder.n_outputs = width
        return encoder

    networks.Featurizer = featurizer
    # DomainBed's transforms (datasets.py), at this size.
    end = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, scale=(0.7, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.3, 0.3, 0.3, 0.3),
            transforms.RandomGrayscale(),
            *end,
        ]
    )
    split_of = {str(root / key): split for key, split in zip(data.keys, data.splits, strict=True)}

    def part(domain: str, split: str, transform: object) -> Subset[object]:
        folder = ImageFolder(str(root / domain), transform)
        chosen = [i for i, (path, _) in enumerate(folder.samples) if split_of[path] == split]
        return Subset(folder, chosen)

    def right(domain: str, split: str) -> float:
        still = part(domain, split, transforms.Compose(end))
        loader = torch.utils.data.DataLoader(still, batch_size=256)
        return accuracy(algorithm, loader, None, "cpu")

    seen = [d for d in data.domains.names if d != left_out]
    hparams = hparams_registry.default_hparams("ERM", "RotatedMNIST")
    hparams |= {"batch_size": PER_DOMAIN, "lr": RATE}
    classes = len(data.labels["class"].names)
    algorithm = algorithms.ERM((3, SIZE, SIZE), classes, len(seen), hparams)
    loaders = [
        InfiniteDataLoader(part(d, "train", augment), None, PER_DOMAIN, num_workers=0) for d in seen
    ]
    minibatches = zip(*loaders, strict=True)
    best: tuple[float, dict[str, float]] = (-1.0, {})
    algorithm.train()
    for step in range(1, steps + 1):
        algorithm.update(next(minibatches))
        if step % (steps // CHECKPOINTS) == 0 or step == steps:
            validation = float(np.mean([right(d, "val") for d in seen]))
            if validation > best[0]:
                found = {
                    "seen": float(np.mean([right(d, "test") for d in seen])),
                    "unseen": right(left_out, "test"),
                }
                best = validation, found
    return best[1]


def table() -> str:
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*_*.json"))]
    lines = [
        f"Test accuracy in %, {runs[0]['steps']} steps, mean (standard deviation) over seeds; the",
        "difference is ours less DomainBed's, with its standard error over pairs of one seed.",
        "",
        "| left out | read on | seeds | DomainBed ERM | ddm finetune | difference |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for left_out in (*LEFT_OUT, "all"):
        chosen = [r for r in runs if left_out in (r["left_out"], "all")]
        for side in ("seen", "unseen"):
            a, b = (100 * np.array([r[who][side] for r in chosen]) for who in ("theirs", "ours"))
            gap = b - a
            lines.append(
                f"| {left_out} | {side} | {len(a)} | {a.mean():.1f} ({a.std(ddof=1):.1f}) | "
                f"{b.mean():.1f} ({b.std(ddof=1):.1f}) | {gap.mean():+.1f} "
                f"({gap.std(ddof=1) / len(gap) ** 0.5:.1f}) |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("domainbed", type=Path, help="a checkout of DomainBed")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    sys.path.insert(0, str(options.domainbed))
    # `import domainbed.algorithms` needs none of its data sets.
    sys.modules.setdefault("domainbed.datasets", types.ModuleType("domainbed.datasets"))
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary).resolve()
        export(root)
        data = load_images(str(root), SIZE, 3)
        batch = PER_DOMAIN * (len(data.domains.names) - 1)
        for seed in range(options.seeds):
            for left_out in LEFT_OUT:
                path = RESULTS / f"{left_out}_{seed}.json"
                if path.exists():
                    continue
                record = {
                    "left_out": left_out,
                    "seed": seed,
                    "steps": options.steps,
                    "theirs": theirs(root, data, left_out, seed, options.steps),
                    "ours": ours(root, left_out, seed, options.steps, batch),
                    **environment(),
                }
                path.write_text(json.dumps(record, indent=1))
                print(left_out, seed, record["theirs"], record["ours"], flush=True)
    (RESULTS / "table.md").write_text(table())
    print(table())


if __name__ == "__main__":
    main()
