"""The trained encoder as files that need nothing of this library."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file
from torch import nn

from ddm.encoders import EncoderSpec, build_encoder, size_arguments
from ddm.errors import DdmError
from ddm.files import atomic, write_text
from ddm.run_folder import RunFolder
from ddm.views import normalization

_LOAD_WITH_TIMM = '''"""How to load this encoder with timm alone (pip install timm safetensors)."""

from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, ResNet

{build}
model.load_state_dict(load_file(Path(__file__).parent / "encoder.safetensors"))
model.eval()

# Images in [0, 1], shape (N, {channels}, {size}, {size}), normalised by this mean and deviation.
# They were read upright (EXIF), transparency put on white, the central square scaled with
# antialiasing, 16 bits scaled to 8: `ddm embed RUN IMAGES` does all of that.
mean = torch.tensor({mean}).view(1, -1, 1, 1)
std = torch.tensor({std}).view(1, -1, 1, 1)
with torch.inference_mode():
    features = model((torch.rand(2, {channels}, {size}, {size}) - mean) / std)
variant, invariant = features[:, :{variant_dim}], features[:, {variant_dim}:]
print(features.shape, variant.shape, invariant.shape)

# Written by `ddm evaluate`: features for retrieval.
whitening = Path(__file__).parent / "whitening.safetensors"
if whitening.exists():
    fitted = load_file(whitening)
    whitened = (features - fitted["mean"]) @ fitted["matrix"]
    print(whitened.shape)
'''


def save_encoder(run: RunFolder, encoder: nn.Module, spec: EncoderSpec, variant_dim: int) -> None:
    """Write ``encoder.safetensors``, which describes itself, and ``load_encoder.py`` beside it.

    Args:
        run: the run folder.
        encoder: the trained encoder.
        spec: how it was built.
        variant_dim: width of the domain-variant portion.

    Raises:
        DdmError: the encoder cannot be written, such as to a full disk.
    """
    mean, std = normalization(spec.channels)
    about = {"spec": spec.to_dict(), "variant_dim": variant_dim, "mean": mean, "std": std}
    tensors = {name: t.detach().cpu().contiguous() for name, t in encoder.state_dict().items()}
    text = _LOAD_WITH_TIMM.format(
        build=_build_lines(spec, encoder),
        channels=spec.channels,
        size=spec.image_size,
        mean=mean,
        std=std,
        variant_dim=variant_dim,
    )
    try:
        write_text(run.path / "load_encoder.py", text)
        # Last: that it is there says that the run is finished.
        with atomic(run.encoder_file) as temporary:
            save_file(tensors, temporary, metadata={"ddm": json.dumps(about)})
    except (OSError, SafetensorError) as error:
        raise DdmError(
            f"cannot write to {run.path}: {error}; make room and `ddm resume {run.path}`"
        ) from None


def load_encoder(path: Path | str) -> tuple[nn.Module, EncoderSpec, int]:
    """Read an encoder that :func:`save_encoder` wrote.

    Args:
        path: the ``.safetensors`` file, or the run folder that holds it.

    Returns:
        The encoder in evaluation mode, its spec and variant_dim.

    Raises:
        DdmError: there is no such file, or it is damaged, or it was not written by this library.
    """
    path = Path(path)
    if path.is_dir():
        path = RunFolder(path).encoder_file
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        folder = RunFolder(path.parent)
        if path == folder.encoder_file and folder.config_file.exists():
            raise DdmError(
                f"{path} does not exist: the run has not finished; `ddm resume {folder.path}`"
            ) from None
        raise DdmError(
            f"{path} does not exist: give the folder that `ddm pretrain` wrote, its run finished, "
            "or its encoder.safetensors"
        ) from None
    except (SafetensorError, OSError) as error:
        raise DdmError(
            f"{path} is not a readable safetensors file ({error}); give the encoder.safetensors of "
            "a run, or train the run anew"
        ) from None
    if "ddm" not in metadata:
        raise DdmError(f"{path} was not written by ddm; load it with timm")
    try:
        about = json.loads(metadata["ddm"])
        spec, variant_dim = EncoderSpec(**about["spec"]), int(about["variant_dim"])
        encoder, _ = build_encoder(spec)
        load_model(encoder, path)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DdmError(f"{path} does not hold what it says ({error}); train the run anew") from None
    return encoder.eval(), spec, variant_dim


def _build_lines(spec: EncoderSpec, encoder: nn.Module) -> str:
    """Code that builds the encoder with timm, the small stem included."""
    if spec.name == "small":
        lines = [
            "model = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, "
            f"in_chans={spec.channels}, channels=(32, 64, 128, 192))"
        ]
    else:
        sized = "".join(f", {k}={v}" for k, v in size_arguments(spec).items())
        lines = [
            f'model = timm.create_model("{spec.name}", num_classes=0, '
            f"in_chans={spec.channels}{sized})"
        ]
    conv = getattr(encoder, "conv1", None)
    if isinstance(getattr(encoder, "maxpool", None), nn.Identity) and isinstance(conv, nn.Conv2d):
        lines += [
            f"model.conv1 = torch.nn.Conv2d({conv.in_channels}, {conv.out_channels}, 3, "
            f"stride={conv.stride[0]}, padding=1, bias=False)",
            "model.maxpool = torch.nn.Identity()",
        ]
    return "\n".join(lines)
