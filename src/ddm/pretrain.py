"""Pre-training: any method, any encoder, with the module or without."""

from __future__ import annotations

import difflib
import logging
import sys
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ddm.adapt import Matched, adapt
from ddm.checkpoints import AtomicCheckpointIO, MetricsFile, load_checkpoint
from ddm.collapse import collapse_warning, effective_rank, relative_deviation
from ddm.config import PretrainConfig, differences
from ddm.data import open_images
from ddm.data.base import ImageDataset
from ddm.data.images import UnreadableImage
from ddm.data.loading import Batch, EpochBatches, IndexedImages, batches, default_workers
from ddm.distributed import gather_rows, synchronize_batch_norm
from ddm.domains import UNKNOWN, DomainTable
from ddm.encoders import EncoderSpec, build_encoder, measure_features
from ddm.errors import DdmError
from ddm.export import save_encoder
from ddm.methods import find_method
from ddm.module import DomainDisentanglement, check_variant_dim
from ddm.optimizers import (
    OptimizerSettings,
    clip_gradients,
    cosine_with_warmup,
    make_optimizer,
    schedule_weight_decay,
)
from ddm.processes import LastWord, is_first_process, stopping_together
from ddm.progress import ProgressBar, tell
from ddm.pseudo_domains import FeatureMemory, discover_for_training, rediscover
from ddm.run_folder import RunFolder
from ddm.views import random_views

LOG_EVERY = 10


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
                variant_dim = max(1, feature_dim // 8)
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
            synchronize_batch_norm(self.method, "cuda" if _on_gpu(config) else "cpu")
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
            with seeded(config.seed, 1):
                self.module = DomainDisentanglement(
                    feature_dim,
                    self.domains.num_domains,
                    variant_dim,
                    variant=_or_none(module.variant),
                    invariance=_or_none(module.invariance),
                    independence=_or_none(module.independence),
                    variant_weight=module.variant_weight,
                    invariance_weight=module.invariance_weight,
                    independence_weight=module.independence_weight,
                )
        self.memory: FeatureMemory | None = None
        if config.rediscover_every:
            self.memory = FeatureMemory(self.images.indices, len(dataset), variant_dim)
        self.last_features: Tensor | None = None
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
        )
        return batches(self.images, sampler, self.config.batch_size, workers)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        images, _, index = batch
        return images, self.domain_of[index], index

    def on_fit_start(self) -> None:
        if self.memory is not None:
            self.memory.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(self._step_seed())

    def _step_seed(self) -> int:
        key = [self.config.seed, self.global_step, self.global_rank]
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
        # Written here and now, before the epoch's checkpoint: what Lightning collects it writes
        # after that, and a kill in between would lose the row.
        for logger in self.loggers:
            row = {**figures, "epoch": self.current_epoch}
            logger.log_metrics(row, step=self.global_step - 1)
        # The first epochs start from a network that has learnt nothing yet.
        warning = collapse_warning(rank, deviation, features)
        if warning and self.current_epoch >= min(5, self.config.epochs // 4):
            tell(
                f"epoch {self.current_epoch}: {warning}: the encoder is collapsing. Lower "
                "--learning_rate, raise --batch_size, or lower the weights of the module"
            )
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


def method_settings(config: PretrainConfig) -> Any:
    """The method's settings, with what ``method_args`` changes.

    Raises:
        DdmError: the method has no such setting, or it is of another type; the nearest is offered.
    """
    kind = find_method(config.method).settings_type
    known = {f.name: f for f in fields(kind)}
    if not isinstance(config.method_args, dict):
        raise DdmError(f"method_args={config.method_args!r} must map names to numbers")
    for name, value in config.method_args.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(known)}"
            raise DdmError(f"--method_args: {config.method} has no setting {name!r}; {hint}")
        wanted = type(known[name].default)
        fits = isinstance(value, int) or (wanted is float and isinstance(value, float))
        if isinstance(value, bool) or not fits:
            raise DdmError(f"--method_args.{name}={value!r} must be of type {wanted.__name__}")
    try:
        return kind(**config.method_args)
    except ValueError as error:
        raise DdmError(f"--method_args: {error}") from None


def _or_none(objective: str) -> str | None:
    return None if objective == "none" else objective


class seeded:
    """Inside, torch's random numbers follow from a seed; outside they go on undisturbed."""

    def __init__(self, *seed: int) -> None:
        self.seed = int(np.random.SeedSequence(seed).generate_state(1)[0])

    def __enter__(self) -> None:
        self.fork = torch.random.fork_rng(devices=[])
        self.fork.__enter__()
        torch.manual_seed(self.seed)

    def __exit__(self, *exception: Any) -> None:
        self.fork.__exit__(*exception)


def optimizer_settings(config: PretrainConfig) -> OptimizerSettings:
    """The method's own optimizer, as far as the configuration does not say otherwise."""
    own = find_method(config.method).optimizer
    name = config.optimizer or own.name
    if name != own.name and config.learning_rate is None:
        raise DdmError(
            f"--optimizer {name} differs from {config.method}'s own ({own.name}); "
            "a learning rate does not carry over: give --learning_rate too"
        )
    if name != own.name and config.weight_decay is None and own.final_weight_decay is not None:
        raise DdmError(
            f"--optimizer {name} differs from {config.method}'s own ({own.name}); "
            "a schedule of the weight decay does not carry over: give --weight_decay too"
        )
    return replace(
        own,
        name=name,
        learning_rate=own.learning_rate if config.learning_rate is None else config.learning_rate,
        weight_decay=own.weight_decay if config.weight_decay is None else config.weight_decay,
        # What was asked for stays what it is.
        final_weight_decay=own.final_weight_decay if config.weight_decay is None else None,
        free_learning_rate=own.free_learning_rate if config.learning_rate is None else None,
    )


def training_domains(config: PretrainConfig, dataset: ImageDataset) -> list[str]:
    """Names of the domains that take part.

    Raises:
        DdmError: a held-out domain does not exist, or is named twice.
    """
    unknown = set(config.held_out) - set(dataset.domains.names)
    if unknown:
        raise DdmError(
            f"--held_out {', '.join(sorted(unknown))}: no such domain; "
            f"{dataset.name} has {', '.join(dataset.domains.names) or 'none'}"
        )
    if len(set(config.held_out)) < len(config.held_out):
        raise DdmError(f"--held_out {', '.join(config.held_out)}: a domain is named twice")
    return [name for name in dataset.domains.names if name not in config.held_out]


def taking_part(config: PretrainConfig, dataset: ImageDataset) -> DomainTable:
    """The given domains that take part, numbered anew from 0; the others are unknown.

    A held-out domain needs no place in a classifier.

    Raises:
        DdmError: a held-out domain does not exist, or is named twice.
    """
    names = training_domains(config, dataset)
    position = np.full(dataset.domains.num_domains + 1, UNKNOWN)
    for new, name in enumerate(names):
        position[dataset.domains.names.index(name)] = new
    # An unknown domain, -1, finds the last entry, which is -1 too.
    return DomainTable(position[dataset.domains.index], tuple(names))


def require_two_domains(name: str, domains: DomainTable, indices: NDArray[np.int64]) -> None:
    """Refuse what needs domains on images of one.

    Args:
        name: what the images are called.
        domains: of all images.
        indices: those that are trained on.

    Raises:
        DdmError: fewer than two known domains among these images.
    """
    present = np.unique(domains.index[indices])
    names = [domains.names[d] for d in present if d != UNKNOWN]
    if len(names) < 2:
        raise DdmError(
            f"{name} has {len(names)} domain to train on ({', '.join(names) or 'none'}), "
            "and the module and domain-aware negatives need two; add domains, hold out fewer, "
            "have them found (--domains discover), or train without them: --ddm.enabled false"
        )


def training_images(config: PretrainConfig, dataset: ImageDataset) -> NDArray[np.int64]:
    """Indices of the images that the run trains on.

    Raises:
        DdmError: they do not fill one batch.
    """
    out = [dataset.domains.names.index(name) for name in config.held_out]
    chosen = ~np.isin(dataset.domains.index, out)
    if config.train_split == "train":
        chosen &= dataset.splits == "train"
    indices = np.flatnonzero(chosen).astype(np.int64)
    needed = config.batch_size * config.devices
    if len(indices) < needed:
        raise DdmError(
            f"--batch_size {config.batch_size} on {config.devices} device(s) needs {needed} "
            f"images, but {dataset.name} has {len(indices)} to train on; choose a smaller batch"
            + (", or --train_split all" if config.train_split == "train" else "")
        )
    return indices


def pretrain(config: PretrainConfig, dataset: ImageDataset | None = None) -> RunFolder:
    """Train an encoder; everything ends up in the run folder ``config.output``.

    Args:
        config: the run's settings.
        dataset: the images; opened from ``config.images`` by default.

    Returns:
        The run folder, with ``encoder.safetensors`` in it.

    Raises:
        DdmError: unusable settings or images; before anything is written.
    """
    # What can be refused at once is, before a large folder is looked through.
    run = RunFolder(Path(config.output))
    first = is_first_process()
    if first:
        run.require_new()
    optimizer_settings(config)
    require_devices(config)
    # The run can then be resumed and evaluated from any working directory.
    if Path(config.images).exists():
        config = replace(config, images=str(Path(config.images).resolve()))
    if config.init is not None and Path(config.init).exists():
        config = replace(config, init=str(Path(config.init).resolve()))
    dataset = dataset or open_images(config)
    pseudo = pseudo_domains(config, dataset) if first else first_process_domains(config, run)
    try:
        training = Pretraining(config, dataset, pseudo_domains=pseudo)
    except DdmError:
        raise
    except ValueError as error:
        raise DdmError(str(error)) from None
    if first:
        RunFolder.create(config)
        run.save_domains(dataset)
        if pseudo is not None:
            run.save_pseudo_domains(dataset, pseudo)
            sizes = ", ".join(map(str, pseudo.counts().tolist()))
            how = "found" if config.domains == "discover" else "dealt at random"
            found = f"ddm: {pseudo.num_domains} domains were {how}, of {sizes} images"
            tqdm.write(found, file=sys.stderr)
        if training.matched is not None:
            run.save_matched(asdict(training.matched))
            if training.matched.missing:
                tell(f"--init: {training.matched}")
            else:
                tqdm.write(f"ddm: --init: {training.matched}", file=sys.stderr)
    if first and dataset.skipped:
        run.save_skipped(dataset)
        what = (
            "image could not be read and was"
            if len(dataset.skipped) == 1
            else "images could not be read and were"
        )
        tell(f"{len(dataset.skipped)} {what} skipped; {run.skipped_file} lists them")
    if first and dataset.enlarged:
        tell(
            f"{dataset.enlarged} of {len(dataset)} images have fewer pixels than the views "
            f"({config.size} a side) and are enlarged; a smaller --size avoids it"
        )
    return _fit(run, training, checkpoint=None)


def pseudo_domains(config: PretrainConfig, dataset: ImageDataset) -> DomainTable | None:
    """Discovered or shuffled domains, where the configuration asks for them.

    They are found in the images that the run trains on; in all, where no domain is known that one
    could evaluate on. Shuffled ones are the given domains of the images that the run trains on, in
    an order drawn by the seed. All other images are unknown.

    Raises:
        DdmError: there are none to be found.
    """
    if config.domains == "given":
        return None
    given = taking_part(config, dataset)
    images = training_images(config, dataset)
    if config.domains == "shuffled":
        dealt = np.random.default_rng(config.seed).permutation(given.index[images])
        nowhere = DomainTable(np.full(len(dataset), UNKNOWN), given.names)
        return nowhere.updated(images, DomainTable(dealt, given.names))
    if not dataset.domains.names:
        images = np.arange(len(dataset))
    return discover_for_training(dataset, images, config.num_domains, config.seed)


def first_process_domains(
    config: PretrainConfig, run: RunFolder, patience: float = 3600
) -> DomainTable | None:
    """The domains that the first process found, once it has written them; None for given ones.

    One process finds them for all: the others might find a few differently, or another number.

    Raises:
        DdmError: they did not come within ``patience`` seconds.
    """
    if config.domains == "given":
        return None
    end = time.monotonic() + patience
    while not run.pseudo_domains_file.exists() and time.monotonic() < end:
        time.sleep(0.2)
    return run.load_pseudo_domains()


def resume(path: Path | str, dataset: ImageDataset | None = None) -> RunFolder:
    """Continue an interrupted run to its end, as if it had never stopped.

    Args:
        path: the run folder.
        dataset: the images; opened as the run's configuration says by default.

    Raises:
        DdmError: not a run folder, a checkpoint of another configuration, or images that have
            changed since.
    """
    run, config = RunFolder.open(path)
    dataset = dataset or open_images(config)
    if not run.checkpoint_file.exists():
        # It was stopped before its first checkpoint: the same seed begins the same run.
        run.save_domains(dataset)
        if is_first_process() and not run.pseudo_domains_file.exists():
            found = pseudo_domains(config, dataset)
            if found is not None:
                run.save_pseudo_domains(dataset, found)
        pseudo = first_process_domains(config, run)
        return _fit(run, Pretraining(config, dataset, pseudo_domains=pseudo), checkpoint=None)
    for stale in run.checkpoint_file.parent.glob(".*.part"):
        stale.unlink()  # What a kill left of a checkpoint that was being written.
    checkpoint = load_checkpoint(run.checkpoint_file)
    theirs = PretrainConfig.from_dict(checkpoint.get("ddm_config"), str(run.checkpoint_file))
    changed = differences(theirs, config)
    if changed:
        raise DdmError(
            f"{run.checkpoint_file} is of another configuration than {run.config_file} "
            f"({'; '.join(changed)}); restore the file, or begin a new run"
        )
    pseudo = first_process_domains(config, run)
    dataset = run.with_saved_domains(dataset)
    training = Pretraining(config, dataset, begin=False, pseudo_domains=pseudo)
    return _fit(run, training, checkpoint)


def require_devices(config: PretrainConfig) -> None:
    """Refuse devices that this machine lacks.

    Raises:
        DdmError: no GPU, or fewer than asked for.
    """
    found = torch.cuda.device_count()
    if config.accelerator == "gpu" and found == 0:
        raise DdmError("--accelerator gpu: PyTorch finds no GPU; use --accelerator cpu")
    if _on_gpu(config) and config.devices > found:
        raise DdmError(f"--devices {config.devices}: this machine has {found} GPU(s)")


def _on_gpu(config: PretrainConfig) -> bool:
    return config.accelerator != "cpu" and torch.cuda.is_available()


def _fit(run: RunFolder, training: Pretraining, checkpoint: dict[str, Any] | None) -> RunFolder:
    with stopping_together(run) if training.config.devices > 1 else nullcontext():
        return _fit_one(run, training, checkpoint)


def _fit_one(run: RunFolder, training: Pretraining, checkpoint: dict[str, Any] | None) -> RunFolder:
    config = training.config
    if config.epochs == 0:
        if is_first_process():
            _save_encoder(run, training)
        return run
    saved_step = None if checkpoint is None else int(checkpoint["global_step"])
    metrics = MetricsFile(run.metrics_file, saved_step)
    steps_per_epoch = len(training.images) // (config.batch_size * config.devices)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    trainer = pl.Trainer(
        default_root_dir=run.path,
        max_epochs=config.epochs,
        accelerator="gpu" if _on_gpu(config) else "cpu",
        devices=config.devices,
        precision=_precision(config),
        logger=[metrics, _tensorboard(run, saved_step)],
        log_every_n_steps=min(LOG_EVERY, steps_per_epoch),
        callbacks=_callbacks(run, config),
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        # Images in memory need no workers.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*number of training batches.*")
        warnings.filterwarnings("ignore", ".*Checkpoint directory.*exists and is not empty.*")
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated.*")
        # Each rank's figures of collapse are those of its own share of the batch.
        warnings.filterwarnings("ignore", ".*sync_dist=True.*")
        # It is: the sampler starts where the checkpoint says.
        warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
        try:
            trainer.fit(
                training, ckpt_path=None if checkpoint is None else str(run.checkpoint_file)
            )
        except SystemExit:
            # What Lightning makes of Ctrl-C.
            if trainer.interrupted:
                raise KeyboardInterrupt from None
            raise
        except UnreadableImage as error:
            # From a worker it comes with that process's whole traceback; the last line says it.
            raise DdmError(
                f"{str(error).strip().splitlines()[-1]}; it was readable when the run began: "
                f"restore it and `ddm resume {run.path}`"
            ) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DdmError(
                f"a process that decodes images died ({str(error).splitlines()[0]}), most often "
                f"for want of memory; lower --workers and `ddm resume {run.path}`"
            ) from None
    if trainer.is_global_zero:
        _save_encoder(run, training)
    return run


def _save_encoder(run: RunFolder, training: Pretraining) -> None:
    config = training.config
    spec = EncoderSpec(config.encoder, config.channels, config.size)
    if config.domains == "discover":
        run.save_pseudo_domains(training.images.dataset, training.domains)
    save_encoder(run, training.method.encoder, spec, training.variant_dim)


def _precision(config: PretrainConfig) -> Any:
    if config.precision != "auto":
        return config.precision
    return "bf16-mixed" if _on_gpu(config) else "32-true"


def _tensorboard(run: RunFolder, saved_step: int | None) -> TensorBoardLogger:
    return TensorBoardLogger(run.path, name="", version="tensorboard", purge_step=saved_step)


class StepCheckpoint(ModelCheckpoint):
    """Saves in the middle of epochs; their last step is the end-of-epoch checkpoint's.

    A checkpoint between the last step and the end of its epoch would make Lightning take the next
    epoch for the one that was interrupted.
    """

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *args, **kwargs)


def _callbacks(run: RunFolder, config: PretrainConfig) -> list[pl.Callback]:
    place: dict[str, Any] = {
        "dirpath": run.checkpoint_file.parent,
        "filename": run.checkpoint_file.stem,
        "enable_version_counter": False,
    }
    callbacks: list[pl.Callback] = [
        ProgressBar(refresh_rate=5),
        ModelCheckpoint(**place, save_on_train_epoch_end=True),
    ]
    if config.devices > 1:
        callbacks.append(LastWord(run))
    if config.checkpoint_steps:
        callbacks.append(StepCheckpoint(**place, every_n_train_steps=config.checkpoint_steps))
    return callbacks
