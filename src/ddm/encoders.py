"""Encoders by name: all of timm's, and a small one for 32 to 64 pixels on a CPU."""

from __future__ import annotations

import difflib
import fnmatch
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ddm.errors import DdmError, first_line

#: Up to this side, in pixels, a ResNet's stem keeps the resolution.
SMALL_IMAGE = 64


@dataclass(frozen=True)
class EncoderSpec:
    """All that is needed to build an encoder again.

    Args:
        name: ``"small"``, or a model of timm.
        channels: channels of the images.
        image_size: side of the images, in pixels.
    """

    name: str = "small"
    channels: int = 3
    image_size: int = 32

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def build_encoder(spec: EncoderSpec) -> tuple[nn.Module, int]:
    """Make a fresh encoder whose forward gives pooled features, shape (N, feature_dim).

    ``"small"`` is timm's ResNet with one basic block a stage, of 32, 64, 128 and 192 channels: 0.9
    million parameters. For images of up to 64 pixels it and timm's plain ResNets get the stem
    that is usual for CIFAR, a 3 x 3 convolution (of stride 1 for named models) and no pooling.

    Args:
        spec: name, channels, image size.

    Returns:
        The encoder, in channels-last memory format, and its feature_dim.

    Raises:
        DdmError: timm knows no such name; the nearest names are offered.
    """
    import timm
    from timm.models.resnet import BasicBlock, ResNet

    if spec.name == "small":
        model: Any = ResNet(
            BasicBlock,  # type: ignore[arg-type]
            (1, 1, 1, 1),
            num_classes=0,
            in_chans=spec.channels,
            channels=(32, 64, 128, 192),
        )
    elif timm.is_model(spec.name):
        try:
            model = timm.create_model(
                spec.name, num_classes=0, in_chans=spec.channels, **size_arguments(spec)
            )
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise DdmError(
                f"encoder {spec.name!r} cannot be built for {spec.channels} channels and "
                f"{spec.image_size} pixels ({error}); choose another --encoder or --size"
            ) from None
    else:
        near = difflib.get_close_matches(spec.name, ["small", *timm.list_models()], n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; see timm.list_models()"
        raise DdmError(f"encoder {spec.name!r} is neither 'small' nor a model of timm{hint}")
    if isinstance(model, ResNet) and spec.image_size <= SMALL_IMAGE:
        use_small_stem(model, stride=2 if spec.name == "small" else 1)
    model = model.to(memory_format=torch.channels_last)
    return model, measure_features(model, spec)


def measure_features(model: nn.Module, spec: EncoderSpec) -> int:
    """Width of the pooled features, found by trying: timm's ``num_features`` is not always it.

    Raises:
        DdmError: the encoder does not take images of that size, or does not pool.
    """
    images = torch.zeros(1, spec.channels, spec.image_size, spec.image_size)
    training = model.training
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(images).shape)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise DdmError(
            f"encoder {spec.name!r} does not take images of {spec.image_size} pixels "
            f"({first_line(error)}); choose another --size or --encoder"
        ) from None
    finally:
        model.train(training)
    if len(shape) != 2:
        raise DdmError(f"encoder {spec.name!r} gives features of shape {shape}, not pooled (N, D)")
    return int(shape[1])


def size_arguments(spec: EncoderSpec) -> dict[str, Any]:
    """What timm has to be told of the images' size: nothing, for most models.

    Position embeddings are made for one size; vision transformers can interpolate them for others,
    which DINO's small crops need.
    """
    import timm

    if spec.name == "small" or not timm.get_pretrained_cfg_value(spec.name, "fixed_input_size"):
        return {}
    creator = timm.model_entrypoint(spec.name)
    dynamic = creator.__module__.endswith(("vision_transformer", ".deit", ".eva", ".beit"))
    return {"img_size": spec.image_size, **({"dynamic_img_size": True} if dynamic else {})}


def list_encoders(pattern: str = "*") -> list[str]:
    """Names of encoders that match a pattern such as ``"resnet*"``.

    Raises:
        DdmError: none does.
    """
    import timm

    small = ["small"] if fnmatch.fnmatch("small", pattern) else []
    names = small + list(timm.list_models(pattern))
    if not names:
        raise DdmError(f"no encoder matches {pattern!r}; `ddm encoders` lists all")
    return names


def use_small_stem(model: Any, stride: int) -> None:
    """Give a timm ResNet the stem for small images: a 3 x 3 convolution and no pooling."""
    old = model.conv1
    if not isinstance(old, nn.Conv2d):
        return
    model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
