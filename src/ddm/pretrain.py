"""Pre-training runs: begun, resumed, and what they leave in their folder."""

from __future__ import annotations

import logging
import re
import sys
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from tqdm import tqdm

from ddm.checkpoints import AtomicCheckpointIO, MetricsFile, load_checkpoint
from ddm.config import PretrainConfig, differences
from ddm.data import open_images
from ddm.data.base import ImageDataset
from ddm.data.images import UnreadableImage
from ddm.domains import DomainTable
from ddm.encoders import EncoderSpec
from ddm.errors import DdmError, first_line
from ddm.export import save_encoder
from ddm.messages import tell
from ddm.processes import LastWord, is_first_process, stopping_together
from ddm.progress import ProgressBar
from ddm.run_folder import RunFolder
from ddm.settings import optimizer_settings
from ddm.training import Pretraining, on_gpu
from ddm.training_images import pseudo_domains, taking_part

LOG_EVERY = 10
#: Domains that are listed before the first epoch.
MANY_DOMAINS = 12
#: Of which domains one is told that they are small.
FEW_IMAGES = 10
#: Which share of images may be the only ones of their domain in a batch without a word.
MANY_ALONE = 0.1
#: Below so many steps the methods' own learning rates are said to be low. They were at 180 steps,
#: on emoji (benchmarks/results/study/rates); where that ends has not been measured.
FEW_STEPS = 500


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
    training = _training(config, dataset, pseudo)
    if first:
        RunFolder.create(config)
        run.save_domains(dataset)
        if pseudo is not None:
            run.save_pseudo_domains(dataset, pseudo)
            sizes = ", ".join(map(str, pseudo.counts().tolist()))
            how = "found" if config.domains == "discover" else "dealt at random"
            found = f"ddm: {pseudo.num_domains} domains were {how}, of {sizes} images"
            tqdm.write(found, file=sys.stderr)
        elif training.module is not None:
            domains = taking_part(config, dataset).subset(training.images.indices)
            _tell_domains(domains)
            _tell_company(config, domains)
        if training.matched is not None:
            run.save_matched(asdict(training.matched))
            if training.matched.missing:
                tell(f"--init: {training.matched}")
            else:
                tqdm.write(f"ddm: --init: {training.matched}", file=sys.stderr)
    if first and dataset.skipped:
        run.save_skipped(dataset)
        what = (
            "image was left out, unreadable or in no split file;"
            if len(dataset.skipped) == 1
            else "images were left out, unreadable or in no split file;"
        )
        tell(f"{len(dataset.skipped)} {what} {run.skipped_file} lists them")
    steps = config.epochs * (len(training.images) // (config.batch_size * config.devices))
    own = optimizer_settings(config).learning_rate
    if first and 0 < steps < FEW_STEPS and config.learning_rate is None and config.init is None:
        tell(
            f"{steps} steps in all, and {config.method}'s own learning rate ({own:g}) is made for "
            "far more: several times that may serve the seen domains better (--learning_rate)"
        )
    if first and dataset.enlarged:
        tell(
            f"{dataset.enlarged} of {len(dataset)} images have fewer pixels than the views "
            f"({config.size} a side) and are enlarged; a smaller --size avoids it"
        )
    return _fit(run, training, checkpoint=None)


def _tell_domains(domains: DomainTable) -> None:
    """What there is to train on, and names that look like one domain spelt in two ways."""
    counts = domains.counts()
    present = [(name, n) for name, n in zip(domains.names, counts, strict=True) if n]
    sizes = ", ".join(f"{name} {n:,}" for name, n in present[:MANY_DOMAINS])
    more = "" if len(present) <= MANY_DOMAINS else f" and {len(present) - MANY_DOMAINS} more"
    tqdm.write(f"ddm: images of {len(present)} domains: {sizes}{more}", file=sys.stderr)
    spelt: dict[str, list[str]] = {}
    for name, _ in present:
        # "Photo", "photo " and "PHOTO_" are hardly three sources.
        plain = re.sub(r"[\s_]+", " ", name.casefold()).strip()
        spelt.setdefault(plain, []).append(name)
    alike = [names for names in spelt.values() if len(names) > 1]
    if alike:
        names = " and ".join(map(repr, alike[0]))
        more = f", and {len(alike) - 1} more like these" if len(alike) > 1 else ""
        tell(f"domains {names} are {len(alike[0])}; if they are one, give them one name{more}")
    few = [name for name, n in present if n < FEW_IMAGES]
    if few and len(present) <= MANY_DOMAINS:
        tell(
            f"fewer than {FEW_IMAGES} images to train on in {', '.join(few)}: a slip of the pen, "
            "or a domain too small to learn anything of"
        )


def _tell_company(config: PretrainConfig, domains: DomainTable) -> None:
    """Of how many images the default term learns nothing, for there are too many domains."""
    if config.ddm.invariance != "instances" or config.images_per_domain > 1:
        return
    share = domains.counts() / max(1, len(domains))
    others = config.batch_size * config.devices - 1
    alone = float((share * (1 - share) ** others).sum())
    if alone > MANY_ALONE:
        tell(
            f"in batches of {config.batch_size * config.devices}, {alone:.0%} of the images are "
            "the only ones of their domain, of which --ddm.invariance instances learns nothing: "
            "give --images_per_domain 8, raise --batch_size, or merge domains"
        )


def _training(
    config: PretrainConfig, dataset: ImageDataset, pseudo: DomainTable | None, begin: bool = True
) -> Pretraining:
    try:
        return Pretraining(config, dataset, begin, pseudo)
    except DdmError:
        raise
    except ValueError as error:
        raise DdmError(str(error)) from None


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
        if run.domains_file.exists():
            dataset = run.with_saved_domains(dataset)
        else:
            run.save_domains(dataset)
        if is_first_process() and not run.pseudo_domains_file.exists():
            found = pseudo_domains(config, dataset)
            if found is not None:
                run.save_pseudo_domains(dataset, found)
        pseudo = first_process_domains(config, run)
        return _fit(run, _training(config, dataset, pseudo), checkpoint=None)
    for stale in run.checkpoint_file.parent.glob(".*.part"):
        stale.unlink(missing_ok=True)  # What a kill left of a checkpoint that was being written.
    checkpoint = load_checkpoint(run.checkpoint_file)
    theirs = PretrainConfig.from_dict(checkpoint.get("ddm_config"), str(run.checkpoint_file))
    changed = differences(theirs, config)
    if changed:
        raise DdmError(
            f"{run.checkpoint_file} is of another configuration than {run.config_file} "
            f"({'; '.join(changed)}); restore the file, or begin a new run"
        )
    pseudo = None if config.domains == "given" else run.load_pseudo_domains()
    dataset = run.with_saved_domains(dataset)
    return _fit(run, _training(config, dataset, pseudo, begin=False), checkpoint)


def finish(config: PretrainConfig) -> RunFolder:
    """Bring a run to its end: begin it, continue it, or leave it as it is when it is done.

    Raises:
        DdmError: its folder holds a run with other settings.
    """
    run = RunFolder(Path(config.output))
    if not run.config_file.exists():
        return pretrain(config)
    changed = differences(PretrainConfig.load(run.config_file), config)
    if changed:
        raise DdmError(
            f"{run.path} holds a run with other settings ({'; '.join(changed)}); "
            "choose another --output, or delete it"
        )
    return run if run.encoder_file.exists() else resume(run.path)


def require_devices(config: PretrainConfig) -> None:
    """Refuse devices that this machine lacks.

    Raises:
        DdmError: no GPU, fewer than asked for, or a precision that is for one.
    """
    found = torch.cuda.device_count()
    if config.accelerator == "gpu" and found == 0:
        raise DdmError("--accelerator gpu: PyTorch finds no GPU; use --accelerator cpu")
    if config.precision == "16-mixed" and not on_gpu(config):
        raise DdmError("--precision 16-mixed is for a GPU; use bf16-mixed, or 32-true")
    if on_gpu(config) and config.devices > found:
        raise DdmError(f"--devices {config.devices}: this machine has {found} GPU(s)")


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
        accelerator="gpu" if on_gpu(config) else "cpu",
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
                f"a process that decodes images died ({first_line(error)}), most often "
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
    return "bf16-mixed" if on_gpu(config) else "32-true"


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
