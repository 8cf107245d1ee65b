"""The settings of a pre-training run, in one place; the command line is made from them.

Nothing heavy is imported here, so that ``ddm --help`` answers at once.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from ddm.errors import DdmError
from ddm.imported import is_import

Splits = Literal["drawn", "official", "A", "B", "C", "D", "E"]
Variant = Literal["cross_entropy", "prototypes", "none"]
Invariance = Literal[
    "adversarial", "confusion", "coral", "mmd", "prototypes", "instances", "neighbours", "none"
]
Independence = Literal["cross_correlation", "hsic", "none"]


@dataclass(frozen=True)
class ModuleConfig:
    """The Domain Disentanglement Module.

    An objective of your own is named by where it can be imported from, ``package.module:Name``; it
    is called with the width of its portion and the number of domains, for independence with
    nothing, and with its settings by name, and gives a module
    (:class:`ddm.module.DomainDisentanglement`).

    Args:
        enabled: false trains the plain self-supervised method.
        variant_dim: width of the domain-variant portion; one eighth of the features by default.
        variant: objective that makes the variant portion tell the domain.
        invariance: objective that takes the domain out of the invariant portion.
        independence: objective that keeps the two portions apart.
        variant_args: settings of the variant objective, such as temperature; `ddm objectives` lists
            them with their defaults.
        invariance_args: settings of the invariance objective.
        independence_args: settings of the independence objective.
        variant_weight: weight of the variant objective.
        invariance_weight: weight of the invariance objective.
        independence_weight: weight of the independence objective.
        ssl_sees: whether the self-supervised loss sees all features or the invariant portion only.
    """

    enabled: bool = True
    variant_dim: int | None = None
    variant: Variant | str = "cross_entropy"
    invariance: Invariance | str = "instances"
    independence: Independence | str = "cross_correlation"
    variant_args: dict[str, int | float] = field(default_factory=dict)
    invariance_args: dict[str, int | float] = field(default_factory=dict)
    independence_args: dict[str, int | float] = field(default_factory=dict)
    variant_weight: float = 1.0
    invariance_weight: float = 1.0
    independence_weight: float = 1.0
    ssl_sees: Literal["all", "invariant"] = "all"

    def __post_init__(self) -> None:
        roles = {"variant": Variant, "invariance": Invariance, "independence": Independence}
        for role, known in roles.items():
            name = getattr(self, role)
            if name not in get_args(known) and not is_import(name):
                raise DdmError(
                    f"ddm.{role}={name!r} is unknown; choose one of {', '.join(get_args(known))}, "
                    "or give package.module:Name of your own"
                )


@dataclass(frozen=True)
class PretrainConfig:
    """A pre-training run.

    Args:
        images: a folder (domain/class/* or domain/*, or PACS, DomainNet, OfficeHome, VLCS,
            TerraIncognita, WILDS as they lie on the disk), a manifest (.csv, .parquet), a Hugging
            Face data set (saved, or hf:owner/name), or "emoji".
        output: the run folder, made anew.
        held_out: domains that take no part, to be evaluated on as unseen ones.
        train_split: images to train on: the training split, or all of them.
        splits: of data that come with split files: drawn anew, or the official ones; of WILDS'
            poverty a fold, A to E, A by default.
        classes: those to read, in this order, of DomainNet's 345; all by default.
        partial: take what there is of PACS, DomainNet, OfficeHome, VLCS or TerraIncognita where
            images, classes or domains are missing.
        strict: refuse data with unreadable images instead of skipping them.
        domains: "given" by the data; or "discover" pseudo-domains in the training images, where a
            folder is taken as a heap, whose sub-folders say nothing; or "shuffled", the given ones
            dealt anew at random among the training images: a control, under which nothing that
            the module gains is owed to domains. For both, given ones are used to hold out and to
            evaluate only.
        num_domains: pseudo-domains to find; as many as there seem to be by default.
        rediscover_every: epochs after which pseudo-domains are found anew, in the domain-variant
            portion of the features; 0 keeps the first ones.
        size: side of the views, in pixels.
        channels: channels of the images.
        method: self-supervised method, of those that `ddm methods` lists, or package.module:Name of
            your own (a subclass of ddm.methods.Method).
        method_args: settings of the method, such as temperature or queue_size; `ddm methods` lists
            them with their defaults.
        shared_style: area of the amplitude spectrum, drawn up to this share, that all images of a
            view take from one of them (batch styles standardization); 0 for none.
        edges: probability that an image of a view is drawn as its edges, dark lines on white.
        encoder: "small" or the name of a timm model.
        init: first weights: a pretrained model of timm, a file (safetensors, or a checkpoint of
            timm, lightly, solo-learn, MoCo, DINO, ddm) or a run folder; random ones by default.
        ddm: the module.
        epochs: passes over the training images; 0 keeps the first weights, as a baseline.
        batch_size: images in a batch, on each device.
        images_per_domain: images of one domain that are drawn into a batch together; 1 draws each
            by itself. For data of many domains, of which a batch would hold an image each.
        optimizer: "lars", "sgd" or "adamw"; the method's own by default.
        learning_rate: at a batch of 256, scaled with it; the method's own by default.
        weight_decay: not for normalisation layers and biases; the method's own by default.
        warmup_epochs: epochs over which the learning rate rises, before its cosine; a tenth of
            all, at most 10, by default.
        seed: of everything random.
        workers: processes that decode images in each epoch; by default the images are read once
            and kept in memory, where that takes 2 GiB at most, else one process a core.
        accelerator: where to train.
        devices: how many of them.
        precision: "auto" is bfloat16 autocast on a GPU, float32 elsewhere.
        checkpoint_steps: save every so many steps too, for long epochs; 0 for the ends of epochs
            only.
    """

    images: str = "emoji"
    output: str = "runs/pretrain"
    held_out: list[str] = field(default_factory=list)
    train_split: Literal["train", "all"] = "train"
    splits: Splits = "drawn"
    classes: list[str] = field(default_factory=list)
    partial: bool = False
    strict: bool = False
    domains: Literal["given", "discover", "shuffled"] = "given"
    num_domains: int | None = None
    rediscover_every: int = 0
    size: int = 64
    channels: int = 3
    method: str = "simclr"
    method_args: dict[str, int | float] = field(default_factory=dict)
    shared_style: float = 0.0
    edges: float = 0.0
    encoder: str = "small"
    init: str | None = None
    ddm: ModuleConfig = field(default_factory=ModuleConfig)
    epochs: int = 100
    batch_size: int = 256
    images_per_domain: int = 1
    optimizer: Literal["lars", "sgd", "adamw"] | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    warmup_epochs: float | None = None
    seed: int = 0
    workers: int | None = None
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"] = "auto"
    checkpoint_steps: int = 0

    def __post_init__(self) -> None:
        least = {
            "epochs": 0,
            "batch_size": 2,
            "images_per_domain": 1,
            "size": 8,
            "channels": 1,
            "devices": 1,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise DdmError(f"{name}={getattr(self, name)} must be at least {low}")
        for name in ("shared_style", "edges"):
            if not 0 <= getattr(self, name) <= 1:
                raise DdmError(f"{name}={getattr(self, name)} must lie in [0, 1]")
        if self.warmup_epochs is not None and not 0 <= self.warmup_epochs < max(1, self.epochs):
            raise DdmError(
                f"warmup_epochs={self.warmup_epochs} must lie in [0, epochs={self.epochs}): "
                "the learning rate rises, and then it has to fall"
            )
        if self.domains != "discover" and (self.num_domains is not None or self.rediscover_every):
            raise DdmError(
                "num_domains and rediscover_every are for pseudo-domains; give --domains discover"
            )
        if self.rediscover_every and self.images_per_domain > 1:
            raise DdmError(
                f"images_per_domain={self.images_per_domain}: not with rediscover_every, under "
                "which domains, and so the order of the images, would change on the way"
            )
        if self.num_domains is not None and self.num_domains < 2:
            raise DdmError(f"num_domains={self.num_domains} must be at least 2")
        if self.domains != "given" and not self.ddm.enabled:
            raise DdmError(
                f"--domains {self.domains} is for the module, but --ddm.enabled is false; "
                "leave one out"
            )
        for name in (
            "checkpoint_steps", "seed", "rediscover_every", "workers", "learning_rate",
            "weight_decay",
        ):  # fmt: skip
            if getattr(self, name) is not None:
                require_not_negative(name, getattr(self, name))

    @property
    def warmup(self) -> float:
        """Epochs over which the learning rate rises."""
        return min(10, self.epochs / 10) if self.warmup_epochs is None else self.warmup_epochs

    def save(self, path: Path) -> None:
        """Write as YAML."""
        from ddm.files import write_text

        write_text(path, yaml.safe_dump(asdict(self), sort_keys=False))

    @classmethod
    def load(cls, path: Path) -> PretrainConfig:
        """Read from YAML.

        Raises:
            DdmError: no such file, or not a configuration of this version.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise DdmError(f"{path} does not exist: {path.parent} is not a run folder") from None
        except yaml.YAMLError as error:
            raise DdmError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
        return cls.from_dict(values, str(path))

    @classmethod
    def from_dict(cls, values: Any, where: str) -> PretrainConfig:
        """Build from plain values; ``where`` names their source in errors.

        Raises:
            DdmError: a setting that does not exist, or a value that it cannot have.
        """
        typed = _typed(cls, values, where)
        return cls(**{**typed, "ddm": ModuleConfig(**typed["ddm"])})


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning with a share of the labels.

    Args:
        fractions: shares of the seen domains' training labels, each a run of its own; the smaller
            ones are contained in the larger ones. Penalty, rate and step are chosen by all of the
            validation labels, whatever the share.
        steps: optimizer steps of each fine-tuning.
        batch_size: images in a batch.
        learning_rates: of AdamW; the one that is best on the validation images is kept.
        weight_decay: of AdamW.
        invariance: objective on the whole of the features, as they are and not standardised, as
            DomainBed has it: "adversarial" (DANN), "coral", "mmd", ..., or "none" (ERM).
        invariance_weight: its weight.
        seed: of the labels that are given, the batches and the views.
    """

    fractions: tuple[float, ...] = (0.01, 0.05, 0.1, 1.0)
    steps: int = 500
    batch_size: int = 64
    learning_rates: tuple[float, ...] = (1e-4, 1e-3)
    weight_decay: float = 0.01
    invariance: Invariance = "none"
    invariance_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.fractions or not all(0 < f <= 1 for f in self.fractions):
            raise DdmError(f"fractions={self.fractions} must lie in (0, 1]")
        if not self.learning_rates or not all(0 < r < float("inf") for r in self.learning_rates):
            raise DdmError(f"learning_rates={self.learning_rates} must be positive numbers")
        for name in ("weight_decay", "invariance_weight", "seed"):
            require_not_negative(name, getattr(self, name))
        if self.steps < 1 or self.batch_size < 2:
            raise DdmError(f"steps={self.steps} and batch_size={self.batch_size}: 1 and 2 at least")
        if self.invariance == "instances":
            raise DdmError(
                "invariance='instances' needs two views of a sample, and fine-tuning has one view "
                "only; choose adversarial, coral or mmd"
            )
        if self.invariance not in get_args(Invariance):
            raise DdmError(
                f"invariance={self.invariance!r} is unknown; choose one of "
                f"{', '.join(get_args(Invariance))}"
            )

    @classmethod
    def from_dict(cls, values: Any, where: str) -> FinetuneConfig:
        """Build from plain values; ``where`` names their source in errors.

        Raises:
            DdmError: a setting that does not exist, or a value that it cannot have.
        """
        return cls(**_typed(cls, values, where))


def require_not_negative(name: str, value: float) -> None:
    """Refuse negative, infinite and undefined numbers.

    Raises:
        DdmError: it is one; the setting is named.
    """
    if value < 0:
        raise DdmError(f"{name}={value} must not be negative")
    if not value < float("inf"):
        raise DdmError(f"{name}={value} must be a finite number")


def _typed(kind: Any, values: Any, where: str) -> dict[str, Any]:
    """All settings, with the types that they are declared with; what is not given is the default.

    Files are held to what the command line is held to, by the same library.
    """
    if not isinstance(values, dict):
        raise DdmError(f"{where} does not hold a configuration; restore it")
    module = values.get("ddm", {})
    parts: list[tuple[str, Any, type]] = [("", values, kind)]
    if kind is PretrainConfig:
        parts.append(("ddm.", module, ModuleConfig))
    for prefix, part, settings in parts:
        if not isinstance(part, dict):
            raise DdmError(f"{where}: {prefix.rstrip('.')} must hold settings by name, not {part}")
        known = {f.name: f for f in fields(settings)}
        unknown = {str(name) for name in part} - set(known)
        if unknown:
            raise DdmError(
                f"{where} has settings this version does not know: {', '.join(sorted(unknown))}"
            )
        for name, value in part.items():
            if value is None and known[name].default is not None:
                raise DdmError(f"{where}: {prefix}{name} has no value; give one or leave it out")
    from jsonargparse import ArgumentError

    try:
        typed: dict[str, Any] = _parser(kind).parse_object(values).as_dict()
    except ArgumentError as error:
        raise DdmError(f"{where}: {in_words(str(error))}") from None
    return typed


_KINDS = {
    **{"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"},
    **{"tuple": "a list", "list": "a list", "dict": "names with values"},
}


def in_words(message: str) -> str:
    """What jsonargparse says of a value that a setting cannot have, without Python's types."""
    message = " ".join(message.split())
    found = re.match(r'Parser key "([^"]+)": (.*(?:Got value|Given value)): (.*)$', message)
    if found is None:
        return message
    setting, complaint, value = found.groups()
    kinds = [k for k in re.findall(r"Expected a <class '(\w+)'>", complaint) if k != "NoneType"]
    if literal := re.search(r"Expected a typing\.Literal\[(.+?)\]", complaint):
        own = ", or package.module:Name" if "str" in kinds else ""
        return f"{setting}: {value} must be one of {literal[1].replace(chr(39), '')}{own}"
    if "float" in kinds:
        kinds = [kind for kind in kinds if kind != "int"]
    if not kinds:
        return message
    # Of a list, or of settings by name, the value is that of an entry.
    return f"{setting}: {value} must be {' or '.join(_KINDS.get(k, k) for k in kinds)}"


@cache
def _parser(kind: Any) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, as_group=False)
    return parser


def differences(one: PretrainConfig, other: PretrainConfig) -> list[str]:
    """What distinguishes two configurations, as ``name: this / that``.

    Where the run, its images and its first weights lie and on what it computes are not counted.
    (That the images are the same ones is checked by their names, which the run keeps. First weights
    are taken for the same ones where model, or file and folder, have the same name.)
    """
    free = {"output", "images", "workers", "accelerator", "checkpoint_steps"}

    def flat(config: PretrainConfig) -> dict[str, Any]:
        values = asdict(config)
        module = values.pop("ddm")
        if config.init is not None:
            path = Path(config.init)
            values["init"] = "/".join((path.resolve() if path.exists() else path).parts[-2:])
        return {**values, **{f"ddm.{k}": v for k, v in module.items()}}

    a, b = flat(one), flat(other)
    return [f"{k}: {a[k]} / {b[k]}" for k in a if k not in free and a[k] != b[k]]
