"""What is trained: one method, one encoder, with the module or without; one Lightning module."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor
from torch.utils.data import DataLoader

from ddm.adapt import Matched, adapt
from ddm.collapse import collapse_warning, effective_rank, relative_deviation
from ddm.config import PretrainConfig
from ddm.data.base import ImageDataset
from ddm.data.loading import (
    KEPT,
    Batch,
    EpochBatches,
    IndexedImages,
    batches,
    default_workers,
    keep_in_memory,
)
from ddm.distributed import gather_rows, synchronize_batch_norm
from ddm.domains import UNKNOWN, DomainTable
from ddm.encoders import EncoderSpec, build_encoder, measure_features
from ddm.errors import DdmError
from ddm.messages import tell
from ddm.methods import find_method
from ddm.module import (
    DomainDisentanglement,
    check_variant_dim,
    default_variant_dim,
    gradient_ratio,
)
from ddm.optimizers import (
    clip_gradients,
    cosine_with_warmup,
    make_optimizer,
    schedule_weight_decay,
)
from ddm.processes import is_first_process
from ddm.pseudo_domains import FeatureMemory, rediscover
from ddm.settings import method_settings, objective, optimizer_settings
from ddm.training_images import require_two_domains, taking_part, training_images
from ddm.views import random_views

#: A module that pulls on the encoder less than this, beside the method, is said to hardly count.
WEAK = 0.01


class Pretraining(pl.LightningModule):
    """One method on one encoder, with the module or without.

    All randomness of a step is drawn from its seed and number, so that nothing random needs saving:
    a resumed run draws what the uninterrupted one would have drawn.

    Args:
        config: the run's settings.
        dataset: all images; the run trains on those of its domains and split.
        begin: false for a run whose weights will come from its checkpoint.
        pseudo_domains: domains of all images that take the place of the given ones.
    """

    def __init__(
        self,
        config: PretrainConfig,
        dataset: ImageDataset,
        begin: bool = True,
        pseudo_domains: DomainTable | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        given = taking_part(config, dataset)
        self.images = IndexedImages(dataset, training_images(config, dataset))
        self.use_domains(pseudo_domains or given)
        if config.ddm.enabled:
            require_two_domains(dataset.name, self.domains, self.images.indices)
        # A generator of its own, so that adding the module does not change the encoder's first
        # weights.
        with seeded(config.seed, 0):
            spec = EncoderSpec(config.encoder, config.channels, config.size)
            encoder, feature_dim = build_encoder(spec)
            self.matched: Matched | None = None
            if begin and config.init is not None:
                self.matched = adapt(encoder, config.init, spec)
            module = config.ddm
            variant_dim = module.variant_dim
            if variant_dim is None:
                variant_dim = default_variant_dim(feature_dim)
            # Without the module too: evaluation reads the same portions of both, as a control.
            check_variant_dim(variant_dim, feature_dim)
            method = find_method(config.method)
            sees_all = module.ssl_sees == "all" or not module.enabled
            self.method = method(
                encoder,
                feature_dim,
                0 if sees_all else variant_dim,
                method_settings(config),
            )
        self.method.check_batch(config.batch_size * config.devices)
        if config.devices > 1:
            synchronize_batch_norm(self.method, "cuda" if on_gpu(config) else "cpu")
        if self.method.needs_domains and not config.ddm.enabled:
            require_two_domains(dataset.name, self.domains, self.images.indices)
        self.view_settings = [
            replace(view, shared_style=config.shared_style, edges=config.edges)
            for view in self.method.views(config.size)
        ]
        for size in {view.size for view in self.view_settings}:
            measure_features(encoder, replace(spec, image_size=size))
        self.variant_dim = variant_dim
        self.module: DomainDisentanglement | None = None
        if module.enabled:
            num_domains = self.domains.num_domains
            with seeded(config.seed, 1):
                self.module = DomainDisentanglement(
                    feature_dim,
                    num_domains,
                    variant_dim,
                    variant=objective(module, "variant", variant_dim, num_domains),
                    invariance=objective(
                        module, "invariance", feature_dim - variant_dim, num_domains
                    ),
                    independence=objective(module, "independence"),
                    variant_weight=module.variant_weight,
                    invariance_weight=module.invariance_weight,
                    independence_weight=module.independence_weight,
                )
        self.memory: FeatureMemory | None = None
        if config.rediscover_every:
            self.memory = FeatureMemory(self.images.indices, len(dataset), variant_dim)
        # Of the last batch of an epoch.
        self.last_features: Tensor | None = None
        self.last_ratio: float | None = None
        self.told_weak = False
        self.clock = time.perf_counter()

    def use_domains(self, domains: DomainTable) -> None:
        """Train with these domains of all images from now on."""
        self.domains = domains
        # On the CPU, where the batches come from: the workers need not hear of a change.
        self.domain_of = torch.from_numpy(domains.index)

    @property
    def collects_features(self) -> bool:
        """Whether this is an epoch after which pseudo-domains are found anew."""
        every, epoch = self.config.rediscover_every, self.current_epoch + 1
        return every > 0 and epoch % every == 0 and epoch < self.config.epochs

    @property
    def total_steps(self) -> int:
        """Steps of the whole run. (Lightning's estimate would open the data too early.)"""
        batch = self.config.batch_size * self.trainer.world_size
        return self.config.epochs * (len(self.images) // batch)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The batches, from where the checkpoint left them on; the sampler is told each epoch."""
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.ready if loop.restarting else 0
        steps = self.total_steps // self.config.epochs
        workers = self.config.workers
        if workers is None:
            if self.config.epochs - self.current_epoch > 1:
                self.images = keep_in_memory(self.images, KEPT // self.config.devices)
            workers = default_workers(self.images.dataset)
        sampler = EpochBatches(
            len(self.images),
            self.config.batch_size,
            self.config.seed,
            epoch=self.current_epoch,
            # After the last batch of an epoch the next one begins.
            start=done if done < steps else 0,
            rank=self.global_rank,
            world_size=self.trainer.world_size,
            domains=self.domains.index[self.images.indices],
            together=self.config.images_per_domain,
        )
        return batches(self.images, sampler, self.config.batch_size, workers)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        images, _, index = batch
        return images, self.domain_of[index], index

    def on_fit_start(self) -> None:
        if self.memory is not None:
            self.memory.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Other numbers than those that place the crops: dropout would follow from these.
        torch.manual_seed(self._step_seed(1))

    def _step_seed(self, *purpose: int) -> int:
        key = [self.config.seed, self.global_step, self.global_rank, *purpose]
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, domains, index = batch
        generator = torch.Generator().manual_seed(self._step_seed())
        views = random_views(images, self.view_settings, generator)
        self.method.progress = self.global_step / self.total_steps
        output = self.method(views, domains)
        loss: Tensor = output.loss
        terms = {"ssl": output.loss.detach()}
        if self.module is not None:
            disentangled = self.module(output.features, domains)
            if (self.global_step + 1) % (self.total_steps // self.config.epochs) == 0:
                encoder = self.method.encoder
                self.last_ratio = gradient_ratio(disentangled.loss, loss, encoder.parameters())
            loss = loss + disentangled.loss
            terms |= disentangled.terms
        self._refuse_nan(terms, index)
        self.last_features = output.features.detach()[0]
        if self.memory is not None and self.collects_features:
            self.memory.add(index, output.features[..., : self.variant_dim])
        self.log("loss", loss.detach(), prog_bar=True)
        self.log_dict(terms, prog_bar=True)
        return loss

    def _refuse_nan(self, terms: dict[str, Tensor], index: Tensor) -> None:
        finite = torch.stack(list(terms.values())).isfinite()
        # Of all ranks: one that stops alone would leave the others waiting for it.
        if gather_rows(finite.all()[None].float()).all():
            return
        culprits = [name for name, good in zip(terms, finite, strict=True) if not good]
        if not culprits:
            raise DdmError(f"the loss is not finite at step {self.global_step} on another rank")
        raise DdmError(
            f"the loss is not finite at step {self.global_step}: {', '.join(culprits)}; "
            "lower --learning_rate, or raise --warmup_epochs; the last good checkpoint is kept; "
            f"images of the batch (rows of domains.parquet): {index.tolist()}"
        )

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.method.before_step()
        settings = optimizer_settings(self.config)
        clip_gradients(optimizer, settings)
        schedule_weight_decay(optimizer, settings, self.global_step / self.total_steps)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Not in on_train_batch_end, which comes after the callback that saves in mid-epoch.
        self.method.after_step()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        now = time.perf_counter()
        speed = len(batch[0]) * self.trainer.world_size / (now - self.clock)
        self.clock = now
        self.log("images/s", speed, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        if self.last_features is None:
            return
        features = self.last_features.float().cpu()
        rank, deviation = effective_rank(features), relative_deviation(features)
        # Each rank's own share of the batch; the first one's will do.
        figures = {"effective_rank": rank, "feature_deviation": deviation}
        ratio = self.last_ratio
        if ratio is not None and math.isfinite(ratio):
            figures["gradient_ratio"] = ratio
        # Written here and now, before the epoch's checkpoint: what Lightning collects it writes
        # after that, and a kill in between would lose the row.
        for logger in self.loggers:
            row = {**figures, "epoch": self.current_epoch}
            logger.log_metrics(row, step=self.global_step - 1)
        # The first epochs start from a network that has learnt nothing yet.
        warning = collapse_warning(rank, deviation, features)
        if warning and is_first_process() and self.current_epoch >= min(5, self.config.epochs // 4):
            tell(
                f"epoch {self.current_epoch}: {warning}: the encoder is collapsing. Lower "
                "--learning_rate, raise --batch_size, or lower the weights of the module"
            )
        weak = ratio is not None and ratio < WEAK and not self.told_weak
        if weak and is_first_process():
            tell(
                f"epoch {self.current_epoch}: the module pulls on the encoder {ratio:.1g} times as "
                f"strongly as {self.config.method} does: it hardly counts. Raise its weights, "
                "--ddm.invariance_weight first"
            )
        self.told_weak |= weak
        if self.memory is not None and self.collects_features:
            self._rediscover(self.memory)

    def _rediscover(self, memory: FeatureMemory) -> None:
        """Cluster the training images anew, by what the variant portion says of them."""
        images = self.images.indices
        seed = self.config.seed + self.current_epoch + 1
        try:
            table, figures = rediscover(self.domains.subset(images), memory, seed)
        except DdmError as error:
            if is_first_process():
                tell(f"epoch {self.current_epoch}: the domains stay as they are: {error}")
            return
        finally:
            memory.clear()
        self.use_domains(self.domains.updated(images, table))
        true = self.images.dataset.domains.index[images]
        if (known := (true != UNKNOWN) & (table.index != UNKNOWN)).any():
            found = adjusted_mutual_info_score(true[known], table.index[known])
            figures["domains_true_agreement"] = float(found)
        for logger in self.loggers:
            row = {**figures, "epoch": self.current_epoch}
            logger.log_metrics(row, step=self.global_step - 1)

    def configure_optimizers(self) -> Any:
        settings = optimizer_settings(self.config)
        modules = [self.method] if self.module is None else [self.method, self.module]
        batch = self.config.batch_size * self.trainer.world_size
        optimizer = make_optimizer(modules, settings, batch)
        warmup = int(self.config.warmup * self.total_steps / self.config.epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, cosine_with_warmup(self.total_steps, warmup)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ddm_config"] = asdict(self.config)
        if self.memory is not None:
            checkpoint["ddm_domains"] = {
                "index": torch.from_numpy(self.domains.index),
                "confidence": torch.from_numpy(self.domains.confidence),
                **self.memory.state(),
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.memory is not None:
            state = checkpoint["ddm_domains"]
            index, confidence = state["index"].numpy(), state["confidence"].numpy()
            self.use_domains(DomainTable(index, self.domains.names, confidence))
            self.memory.load(state, self.global_rank)


class seeded:
    """Inside, torch's random numbers on the CPU follow from a seed; outside they go on."""

    def __init__(self, *seed: int) -> None:
        self.seed = int(np.random.SeedSequence(seed).generate_state(1)[0])

    def __enter__(self) -> None:
        self.fork = torch.random.fork_rng(devices=[])
        self.fork.__enter__()
        # Not torch.manual_seed, which would seed GPUs too, whose generators are not put back.
        torch.default_generator.manual_seed(self.seed)

    def __exit__(self, *exception: Any) -> None:
        self.fork.__exit__(*exception)


def on_gpu(config: PretrainConfig) -> bool:
    """Whether the run trains on GPUs."""
    return config.accelerator != "cpu" and torch.cuda.is_available()
