"""What an encoder is worth where labels are few: label fractions of the seen domains.

The protocol of unsupervised domain generalisation (Zhang et al., *Towards Unsupervised Domain
Generalization*, CVPR 2022, arXiv 2107.06219, section 5): the encoder was pre-trained without labels
on the seen domains; then a share of their labels is given. With less than 10% only a linear head is
trained, with 10% or more the whole encoder is, and either is read on domains never seen. The
learning rate and the epoch that is kept are chosen on validation images of the seen domains, as in
DomainBed's training-domain validation (Gulrajani & Lopez-Paz, 2021, arXiv 2007.01434).

An encoder with random or pretrained first weights and all labels is supervised learning (ERM); with
an invariance objective on the whole of its features, it is DANN, CORAL or MMD.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ddm.config import FinetuneConfig
from ddm.data import open_images
from ddm.data.base import ImageDataset
from ddm.data.loading import IndexedImages, batches, default_workers, keep_in_memory
from ddm.domains import UNKNOWN
from ddm.embed import embed, file_fingerprint
from ddm.errors import DdmError
from ddm.evaluate import describe, environment, untrained_domains
from ddm.export import load_encoder
from ddm.files import write_text
from ddm.objectives import INVARIANCE, DomainBatch, build
from ddm.probe import LinearProbe, Row, largest_class, summarize
from ddm.protocols import trained_domains
from ddm.run_folder import RunFolder
from ddm.views import ViewSettings, plain_view, random_view

#: Below this share of labels the encoder stays as it is.
HEAD_ONLY_BELOW = 0.1


def label_share(classes: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Positions of a share of labelled samples: every class in proportion, at least one of each.

    The same seed orders the samples in the same way for every share, so that a smaller share is
    contained in a larger one.

    Args:
        classes: class of each sample, shape (N,).
        fraction: the share, in (0, 1].
        seed: of the order.

    Returns:
        Sorted positions.
    """
    chosen = []
    for number in np.unique(classes):
        mine = np.flatnonzero(classes == number)
        order = np.random.default_rng([seed, int(number)]).permutation(len(mine))
        chosen.append(mine[order[: max(1, round(fraction * len(mine)))]])
    return np.sort(np.concatenate(chosen))


class Classifier(nn.Module):
    """An encoder and a linear head."""

    def __init__(self, encoder: nn.Module, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(feature_dim, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, C) and features (N, D)."""
        features = self.encoder(images)
        return self.head(features), features


@dataclass(frozen=True)
class Finetuner:
    """Fine-tunes one encoder on labelled images.

    Args:
        encoder: the first weights; copied for every run.
        feature_dim: width of its features.
        dataset: the images.
        label: which of the data set's labels.
        size: side of the views, in pixels.
        config: the settings.
    """

    encoder: nn.Module
    feature_dim: int
    dataset: ImageDataset
    label: str
    size: int
    config: FinetuneConfig

    @property
    def classes(self) -> NDArray[np.int64]:
        return self.dataset.labels[self.label].index

    def run(self, train: NDArray[np.int64], validation: NDArray[np.int64]) -> Classifier:
        """The classifier that is best on the validation images, over learning rates and epochs."""
        best: tuple[float, Classifier] | None = None
        for rate in self.config.learning_rates:
            accuracy, classifier = self._at(rate, train, validation)
            if best is None or accuracy > best[0]:
                best = accuracy, classifier
        assert best is not None
        return best[1]

    def _at(
        self, rate: float, train: NDArray[np.int64], validation: NDArray[np.int64]
    ) -> tuple[float, Classifier]:
        # The caller's random numbers go on undisturbed.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(self.config.seed)
            return self._train(rate, train, validation)

    def _train(
        self, rate: float, train: NDArray[np.int64], validation: NDArray[np.int64]
    ) -> tuple[float, Classifier]:
        config = self.config
        device = "cuda" if torch.cuda.is_available() else "cpu"
        names = self.dataset.labels[self.label].names
        model = Classifier(copy.deepcopy(self.encoder), self.feature_dim, len(names)).to(device)
        domain_of = self.dataset.domains.index[train]
        present = np.unique(domain_of[domain_of >= 0])
        # The last entry is that of unknown domains, whose index is -1.
        domain_number = np.full(self.dataset.domains.num_domains + 1, UNKNOWN)
        domain_number[present] = np.arange(len(present))
        objective = None
        if config.invariance != "none":
            kind = INVARIANCE[config.invariance]
            objective = build(kind, self.feature_dim, len(present)).to(device)
        modules = [model] if objective is None else [model, objective]
        optimizer = torch.optim.AdamW(
            [p for m in modules for p in m.parameters()], rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
        view = ViewSettings(self.size, crop_scale=(0.5, 1.0))
        images = IndexedImages(self.dataset, train)
        rng = np.random.default_rng(config.seed)
        generator = torch.Generator().manual_seed(config.seed)
        batch = min(config.batch_size, len(train))
        every = max(1, config.steps // 10)
        best: tuple[float, dict[str, Tensor]] = (-1.0, {})
        for step in tqdm(range(config.steps), desc=f"Fine-tuning at {rate:g}", leave=False):
            model.train()
            pixels, domains, index = images.__getitems__(
                rng.choice(len(train), batch, replace=False).tolist()
            )
            classes = torch.from_numpy(self.classes[index.numpy()]).to(device)
            logits, features = model(random_view(pixels.to(device), view, generator))
            loss = F.cross_entropy(logits, classes)
            if objective is not None:
                known = torch.from_numpy(domain_number[domains.numpy()]).to(device)
                domain_batch = DomainBatch.from_index(known, len(present))
                loss = loss + config.invariance_weight * objective(features, domain_batch)
            if not torch.isfinite(loss):
                raise DdmError(
                    f"the loss of fine-tuning is not finite at step {step}; images of the batch: "
                    f"{index[:8].tolist()}...; lower learning_rates ({rate:g})"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if (step + 1) % every == 0 or step + 1 == config.steps:
                accuracy = float(self.right(model, validation).mean()) if len(validation) else 0.0
                # Without validation images the last step's weights are kept.
                if accuracy > best[0] or not len(validation):
                    best = accuracy, copy.deepcopy(model.state_dict())
        model.load_state_dict(best[1])
        return best[0], model

    def right(self, model: Classifier, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these images are classified right."""
        device = next(model.parameters()).device
        model.eval()
        found = []
        loader = batches(
            IndexedImages(self.dataset, indices), None, 512, default_workers(self.dataset)
        )
        with torch.inference_mode():
            for pixels, _, _ in loader:
                found.append(model(plain_view(pixels.to(device), self.size))[0].argmax(1).cpu())
        predicted = torch.cat(found).numpy() if found else np.empty(0, np.int64)
        right: NDArray[np.bool_] = predicted == self.classes[indices]
        return right


def finetune(
    run_path: Path | str, config: FinetuneConfig, dataset: ImageDataset | None = None
) -> dict[str, Any]:
    """Judge a finished run by label fractions; writes ``finetune.json`` into its folder.

    Args:
        run_path: the run folder.
        config: the settings.
        dataset: the images; opened as the run's configuration says by default.

    Returns:
        What was written: rows as those of :mod:`ddm.protocols`, whose measure is ``"head"`` or
        ``"finetune"`` and whose ``trained_on`` is the share, ``"seen 10%"``.

    Raises:
        DdmError: not a finished run, images that have changed since, or no labels.
    """
    run, pretrained = RunFolder.open(run_path)
    encoder, spec, _ = load_encoder(run.encoder_file)
    if dataset is None:
        dataset = open_images(pretrained)
    dataset = run.with_saved_domains(dataset, pseudo_domains=True)
    if not dataset.labels:
        raise DdmError(f"{dataset.name} has no class labels, which label fractions need")
    label, labels = next(iter(dataset.labels.items()))
    unseen = untrained_domains(pretrained, dataset)
    seen = tuple(name for name in dataset.domains.names if name not in unseen)
    # Under train_split "all" a domain may have been trained on whose labels are all for testing.
    labelled = trained_domains(dataset, pretrained.held_out)

    def samples(domains: Sequence[str], split: str) -> NDArray[np.int64]:
        assert dataset is not None
        chosen = dataset.select(domains, (split,))
        return chosen[labels.index[chosen] >= 0]

    train, validation = samples(labelled, "train"), samples(labelled, "val")
    if len(np.unique(labels.index[train])) < 2:
        raise DdmError(f"{dataset.name} has fewer than two classes in its seen domains")
    features = embed(
        encoder, dataset, spec.image_size, run.features_file, file_fingerprint(run.encoder_file)
    )
    if max(config.fractions) >= HEAD_ONLY_BELOW:  # Each step and each look at the validation reads.
        dataset = keep_in_memory(IndexedImages(dataset, np.arange(len(dataset)))).dataset
    tuner = Finetuner(encoder, features.shape[1], dataset, label, spec.image_size, config)
    rows: list[Row] = []
    unskilled = largest_class(labels.index[train])
    for fraction in config.fractions:
        given = train[label_share(labels.index[train], fraction, config.seed)]
        if fraction < HEAD_ONLY_BELOW:
            probe = LinearProbe.fit(
                (np.asarray(features[given]), labels.index[given]),
                (np.asarray(features[validation]), labels.index[validation]),
            )
        else:
            model = tuner.run(given, validation)
        for side, domains in (("seen", seen), ("unseen", unseen)):
            parts, chance = {}, {}
            for domain in domains:
                test = samples((domain,), "test")
                if not len(test):
                    continue
                if fraction < HEAD_ONLY_BELOW:
                    right = probe.predict(np.asarray(features[test])) == labels.index[test]
                else:
                    right = tuner.right(model, test)
                parts[domain] = right, dataset.groups[test]
                chance[domain] = labels.index[test] == unskilled
            common: Row = {
                "measure": "head" if fraction < HEAD_ONLY_BELOW else "finetune",
                "label": label,
                "portion": "all",
                "trained_on": f"seen {100 * fraction:g}%",
                "side": side,
                "labels_given": len(given),
            }
            if parts:
                rows += summarize(common, parts, config.seed, unskilled=chance)
    results = {
        "run": str(run.path),
        "config": asdict(pretrained),
        "finetune": asdict(config),
        "data": describe(dataset),
        "unseen": list(unseen),
        "rows": rows,
        **environment(),
    }
    write_text(run.path / "finetune.json", json.dumps(results, indent=1))
    return results
