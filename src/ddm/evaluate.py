"""Evaluation of a run: probes, retrieval and leakage on seen and unseen domains."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddm.config import PretrainConfig, require_not_negative
from ddm.data import open_images
from ddm.data.base import ImageDataset
from ddm.embed import embed, file_fingerprint
from ddm.export import load_encoder
from ddm.files import atomic, write_text
from ddm.messages import tell
from ddm.probe import Row
from ddm.protocols import (
    SeenUnseen,
    WildsSplits,
    portions_of,
    standardize_domains,
    trained_domains,
)
from ddm.run_folder import RunFolder
from ddm.whitening import Whitening

PACKAGES = ("ddm-ssl", "torch", "timm", "lightly", "pytorch-lightning", "scikit-learn", "numpy")


def evaluate(
    run_path: Path | str, dataset: ImageDataset | None = None, seed: int = 0
) -> dict[str, Any]:
    """Evaluate a finished run; write ``results.json`` and ``predictions.parquet`` into its folder.

    Args:
        run_path: the run folder.
        dataset: the images; opened as the run's configuration says by default.
        seed: of the bootstrap.

    Returns:
        What was written: the rows of :mod:`ddm.protocols` under ``"rows"``, and what they came
        from. The unseen domains are those that the run was not trained on: held out, or without
        training images.

    Raises:
        DdmError: not a finished run, or other images (by their names) than it was trained on; a
            negative seed.
    """
    require_not_negative("seed", seed)
    run, config = RunFolder.open(run_path)
    encoder, spec, variant_dim = load_encoder(run.encoder_file)
    if dataset is None:
        dataset = open_images(config)
    dataset = run.with_saved_domains(dataset, pseudo_domains=True)
    features = embed(
        encoder,
        dataset,
        spec.image_size,
        run.features_file,
        file_fingerprint(run.encoder_file),
    )
    unseen = untrained_domains(config, dataset)
    protocol = SeenUnseen(dataset, unseen, seed)
    portions = portions_of(features, variant_dim)
    # WILDS' splits say themselves what is seen, unless domains were held out by hand.
    wilds = WildsSplits.fits(dataset) and not config.held_out
    if not wilds:
        standardized = standardize_domains(features, dataset)
        if standardized is not None:
            portions["standardized"] = standardized
        else:
            tell("no figures of standardised features: a domain has fewer than 2 training images")
    # Images of unknown domain take part, as they do in training.
    training = np.setdiff1d(dataset.select(splits=("train",)), dataset.select(config.held_out))
    whitening = Whitening.fit(features, training)
    if whitening is not None:
        whitening.save(run.whitening_file)
        if whitening.doubt:
            tell(whitening.doubt)
        if not wilds:  # Linear probes alone are read there, and they scale features themselves.
            portions["whitened"] = whitening(features)
    if dataset.labels and not wilds and not dataset.domains.num_domains:
        tell(
            f"{dataset.name} has labels but no domains, so that no probe is trained: give each "
            "image a domain (in a manifest, a column domain; one name for all will do)"
        )
    answers = [] if wilds else protocol.answers(portions)
    rows = protocol.figures(portions, answers)
    if wilds:
        rows = WildsSplits(dataset, seed).rows(portions) + rows
    results = {
        "run": str(run.path),
        "config": asdict(config),
        "data": describe(dataset),
        "unseen": list(unseen),
        "feature_dim": int(features.shape[1]),
        "variant_dim": variant_dim,
        "seed": seed,
        "rows": rows,
        **environment(),
    }
    with atomic(run.predictions_file) as temporary:
        protocol.table(answers).to_parquet(temporary, index=False)
    write_text(run.results_file, json.dumps(results, indent=1))
    return results


def untrained_domains(config: PretrainConfig, dataset: ImageDataset) -> tuple[str, ...]:
    """The domains of which a run saw no image."""
    trained = trained_domains(dataset, config.held_out)
    if config.train_split == "all":
        trained = tuple(name for name in dataset.domains.names if name not in config.held_out)
    return tuple(name for name in dataset.domains.names if name not in trained)


def describe(dataset: ImageDataset) -> dict[str, Any]:
    """What a data set holds, for results and reports."""
    return {
        "name": dataset.name,
        "images": len(dataset),
        "domains": dict(zip(dataset.domains.names, dataset.domains.counts().tolist(), strict=True)),
        "splits": {s: int((dataset.splits == s).sum()) for s in ("train", "val", "test")},
        "labels": {name: list(labels.names) for name, labels in dataset.labels.items()},
        "shared_classes": {name: dataset.shared_classes(name) for name in dataset.labels},
        "groups": len(np.unique(dataset.groups)),
        "skipped": len(dataset.skipped),
        "split_hashes": split_hashes(dataset),
    }


def split_hashes(dataset: ImageDataset) -> dict[str, str]:
    """A hash of each split: the names of its images, with the domain of each.

    Two people who get the same hashes trained and tested on the same images.
    """
    names = [*dataset.domains.names, ""]
    hashes = {}
    for split in ("train", "val", "test"):
        lines = sorted(
            f"{names[dataset.domains.index[i]]}\t{dataset.keys[int(i)]}"
            for i in np.flatnonzero(dataset.splits == split)
        )
        hashes[split] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return hashes


@cache
def code_hash() -> str:
    """SHA-256 of this package's modules, the first 12 digits."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def environment() -> dict[str, Any]:
    """Versions and machine, to stand beside every number.

    ``"code"`` is a hash of this package's own source, which one version can have many of.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "versions": {**{name: version(name) for name in PACKAGES}, "code": code_hash()},
        "machine": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "device": device,
        },
    }


def summary_table(rows: Sequence[Row]) -> str:
    """The main figures as text: means over domains, by portion."""
    portions = list(dict.fromkeys(r["portion"] for r in rows))
    keys = ("measure", "label", "trained_on", "side")
    means = {
        (*(r[k] for k in keys), r["portion"]): r
        for r in rows
        if r["domain"] == "mean" or r["measure"] == "wilds"
    }
    lines = list(dict.fromkeys(key[:-1] for key in means))
    header = ["figure", "domains", *portions, "chance"]
    table = [header]
    for line in lines:
        measure, label, trained_on, side = line
        probe = measure.startswith(("linear", "knn"))
        trained = f", trained on {trained_on}" if probe else ""
        if measure == "wilds":
            trained = f", {next(r['score'] for r in rows if r['measure'] == measure)}"
        cells = []
        for portion in portions:
            r = means.get((*line, portion))
            cells.append("-" if r is None else _percent(r))
        chance = next(r["chance"] for key, r in means.items() if key[:-1] == line)
        name = re.sub("_(balanced|validation)$", r" (\1)", measure)
        table.append([f"{name} {label}{trained}", side, *cells, f"{100 * chance:.1f}"])
    widths = [max(len(r[i]) for r in table) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in table
    )


def _percent(r: Row) -> str:
    return f"{100 * r['value']:.1f} [{100 * r['low']:.1f}, {100 * r['high']:.1f}]"
