"""First weights from an encoder that exists: timm's, or a checkpoint of almost any library."""

from __future__ import annotations

import argparse
import difflib
import math
import pickle
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ddm.encoders import EncoderSpec, size_arguments
from ddm.errors import DdmError, first_line

#: Where checkpoints keep their tensors. DINO's teacher comes first: its authors evaluate that one.
_HOLDERS = (
    "state_dict", "teacher", "student", "model", "module", "model_state_dict", "net", "encoder",
    "backbone",
)  # fmt: skip
#: A momentum copy is taken only where there is nothing else, as in the methods' own evaluations.
_COPIES = ("momentum", "target", "encoder_k", "key_encoder", "ema", "student")


@dataclass(frozen=True)
class Matched:
    """What became of an encoder's tensors.

    Args:
        source: where the weights came from.
        prefix: what stood before the encoder's names there.
        loaded: names of the encoder's tensors that were found, in the right shape.
        missing: the others, with the reason; they keep their random first values.
        unused: names in the source that the encoder has no place for.
    """

    source: str
    prefix: str
    loaded: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        def some(names: list[str]) -> str:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            return ", ".join(names[:4]) + more

        total = len(self.loaded) + len(self.missing)
        under = f" (under {self.prefix!r})" if self.prefix else ""
        text = f"{len(self.loaded)} of the encoder's {total} tensors from {self.source}{under}"
        if self.missing:
            missing = [f"{name} ({reason})" for name, reason in self.missing]
            text += f"; random as before: {some(missing)}"
        if self.unused:
            text += f"; not used: {some(list(self.unused))}"
        return text


def adapt(encoder: nn.Module, source: str, spec: EncoderSpec) -> Matched:
    """Give an encoder the weights of one that exists.

    Args:
        encoder: to be changed in place.
        source: the name of a pretrained model of timm (``resnet18.a1_in1k``), which is downloaded
            where it is not in timm's cache; or a file (``.safetensors``, ``.pth``, ``.pt``,
            ``.ckpt``, ``.bin``) of timm, torchvision, lightly, solo-learn, MoCo, DINO or this
            library; or a run folder of this library. Prefixes such as ``module.encoder_q.`` are
            found out, and names by position (lightly's ``backbone.0.weight``) translated.
        spec: how the encoder was built.

    Returns:
        What matched and what did not.

    Raises:
        DdmError: no such name or file, a file that cannot be read safely, or one of another
            architecture: apart from the first layer and the positions, which depend on the size of
            the images, every tensor must be there, and no further layer of the same stages.
    """
    tensors = _tensors_of(source, spec)
    own = encoder.state_dict()
    prefix, renamed = _best_prefix(own, tensors, _positions(encoder, tensors))
    chosen: dict[str, Tensor] = {}
    missing: list[tuple[str, str]] = []
    for name, mine in own.items():
        theirs = renamed.get(name)
        if theirs is not None and name == "pos_embed" and theirs.shape != mine.shape:
            theirs = _resample_positions(theirs, mine)
        if theirs is None:
            missing.append((name, "not there"))
        elif theirs.shape != mine.shape:
            missing.append((name, f"shape {tuple(theirs.shape)}, not {tuple(mine.shape)}"))
        elif theirs.is_floating_point() != mine.is_floating_point() or theirs.is_complex():
            missing.append((name, f"{theirs.dtype}, not {mine.dtype}"))
        elif theirs.is_floating_point() and not torch.isfinite(theirs).all():
            raise DdmError(f"--init {source}: {prefix}{name} is not finite; choose another file")
        else:
            chosen[name] = theirs
    unused = tuple(sorted(set(renamed) - set(own)))
    matched = Matched(source, prefix, tuple(chosen), tuple(missing), unused)
    _require_same_architecture(matched, own, tensors, spec)
    encoder.load_state_dict(chosen, strict=False)
    return matched


def _require_same_architecture(
    matched: Matched, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], spec: EncoderSpec
) -> None:
    first = next((name for name, tensor in own.items() if tensor.ndim > 1), None)
    if first is None:
        raise DdmError("the encoder holds no weights to be filled: give the one that learns")
    stem = first.split(".")[0] + "."
    held = sum(tensor.numel() for name, tensor in own.items() if f"{name}.".startswith(stem))
    if held > 0.1 * sum(tensor.numel() for tensor in own.values()):
        # No stem, but a block that holds the body too: the first layer alone.
        stem = (first.rpartition(".")[0] or first) + "."
    exempt = (stem, "pos_embed.", "patch_embed.")
    absent = [
        name for name, _ in matched.missing if own[name].ndim and not f"{name}.".startswith(exempt)
    ]
    stages = {name.split(".")[0] for name in own}
    deeper = [name for name in matched.unused if name.split(".")[0] in stages]
    if not any(own[name].ndim > 1 for name in matched.loaded):
        problem = f"it has names such as {', '.join(list(tensors)[:3])}"
    elif absent:
        problem = f"it lacks {', '.join(absent[:3])}" + (" and more" if len(absent) > 3 else "")
    elif deeper:
        problem = f"it is deeper: {', '.join(deeper[:3])}" + (" and more" if deeper[3:] else "")
    else:
        return
    raise DdmError(
        f"--init {matched.source} does not fit encoder {spec.name!r}: {problem}. Choose the "
        "--encoder that these weights belong to"
    )


def _tensors_of(source: str, spec: EncoderSpec) -> dict[str, Tensor]:
    path = Path(source)
    try:
        if path.is_dir():
            path = path / "encoder.safetensors"
            if not path.exists():
                raise DdmError(
                    f"--init {source}: a folder without encoder.safetensors; give a finished run, "
                    "or a file"
                )
        exists = path.exists()
    except OSError as error:
        raise DdmError(f"--init {source[:80]}: {error.strerror}") from None
    return read_tensors(path) if exists else _from_timm(source, spec)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name, without running anything that the file may hold.

    Args:
        path: a ``.safetensors`` file, or a checkpoint that PyTorch wrote.

    Raises:
        DdmError: not a readable file of tensors, or one that only unpickling could read.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise DdmError(f"--init {path}: not a readable safetensors file ({error})") from None
    try:
        # The settings that DINO's authors and others keep beside the weights are harmless.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # PyTorch's own words would have the user run whatever the file holds.
        unsafe = isinstance(error, pickle.UnpicklingError)
        reason = (
            "it holds Python objects other than tensors, or is no checkpoint of PyTorch"
            if unsafe
            else first_line(error)
        )
        raise DdmError(
            f"--init {path}: cannot be read as tensors alone ({reason}). "
            "If you trust the file, load it where it was made and save its weights with "
            "safetensors.torch.save_file(state_dict, 'weights.safetensors')"
        ) from None
    found = _dig(content)
    if not found:
        keys = [str(key) for key in content] if isinstance(content, Mapping) else []
        what = f"its entries are {', '.join(keys[:8])}" if keys else f"a {type(content).__name__}"
        raise DdmError(
            f"--init {path}: holds no tensors under the usual names ({what}); save the encoder's "
            "alone, with safetensors.torch.save_file(encoder.state_dict(), 'weights.safetensors')"
        )
    return found


def _dig(content: Any, depth: int = 0) -> dict[str, Tensor]:
    """The state dict inside whatever a checkpoint is."""
    if not isinstance(content, Mapping) or depth > 4:
        return {}
    for holder in _HOLDERS:
        if isinstance(content.get(holder), Mapping) and (inner := _dig(content[holder], depth + 1)):
            return inner
    return {
        str(k): v for k, v in content.items() if isinstance(v, Tensor) and v.layout == torch.strided
    }


def _from_timm(name: str, spec: EncoderSpec) -> dict[str, Tensor]:
    import timm

    if not timm.is_model_pretrained(name):
        near = difflib.get_close_matches(name, timm.list_pretrained(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise DdmError(f"--init {name}: neither a file nor a pretrained model of timm{hint}")
    if name.split(".")[0] != spec.name.split(".")[0]:
        raise DdmError(
            f"--init {name}: these are weights of {name.split('.')[0]}, not of {spec.name}; "
            f"give --encoder {name.split('.')[0]}"
        )
    arguments = {**size_arguments(spec), "in_chans": spec.channels, "num_classes": 0}
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:
        raise DdmError(
            f"--init {name}: timm cannot load these weights ({first_line(error)}); check the "
            "connection, or give a file that was downloaded elsewhere"
        ) from None
    return dict(model.state_dict())


def _positions(encoder: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """``"4" -> "layer1"``: what a child is called in ``nn.Sequential(*encoder.children())``.

    Children without tensors (activations, pooling) are counted in some libraries' encoders and are
    not there in others', so the k-th number that occurs among the names is the k-th child that
    holds any.
    """
    holders = [name for name, child in encoder.named_children() if child.state_dict()]
    # The numbers follow one prefix; the longest run of them is the encoder's.
    numbers: dict[str, list[int]] = {}
    for key in tensors:
        parts = key.split(".")
        for cut, part in enumerate(parts[:-1]):
            if part.isdigit():
                found = numbers.setdefault(".".join(parts[:cut]), [])
                if int(part) not in found:
                    found.append(int(part))
                break
    fitting = [sorted(n) for n in numbers.values() if len(n) == len(holders)]
    return dict(zip(map(str, fitting[0]), holders, strict=True)) if fitting else {}


def _best_prefix(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], by_position: Mapping[str, str]
) -> tuple[str, dict[str, Tensor]]:
    """The prefix under which most of the encoder's numbers lie, and what lies there.

    Names are tried as they are, and with the first part read as a position.
    """
    counts: Counter[tuple[str, bool]] = Counter()
    for key, tensor in tensors.items():
        parts = key.split(".")
        for cut in range(len(parts)):
            prefix, rest = ".".join(parts[:cut]), parts[cut:]
            for positional in (False, True):
                name = _rename(rest, by_position) if positional else ".".join(rest)
                # Counters and other single numbers say nothing of where they belong.
                if tensor.ndim and name in own and own[name].shape == tensor.shape:
                    counts[prefix, positional] += tensor.numel()
    if not counts:
        return "", {}

    def rank(candidate: tuple[str, bool]) -> tuple[int, bool, int]:
        prefix, _ = candidate
        return counts[candidate], not any(word in prefix for word in _COPIES), -len(prefix)

    prefix, positional = max(counts, key=rank)
    start = f"{prefix}." if prefix else ""
    renamed = {}
    for key, tensor in tensors.items():
        if key.startswith(start):
            rest = key[len(start) :].split(".")
            renamed[_rename(rest, by_position) if positional else ".".join(rest)] = tensor
    return start, renamed


def _rename(parts: list[str], by_position: Mapping[str, str]) -> str:
    return ".".join([by_position.get(parts[0], parts[0]), *parts[1:]])


def _resample_positions(theirs: Tensor, mine: Tensor) -> Tensor:
    """A vision transformer's positions, interpolated for another image size.

    Left as they are where either is not the square grid that it is taken for.
    """
    from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]

    if theirs.ndim != 3 or mine.ndim != 3 or theirs.shape[2] != mine.shape[2]:
        return theirs
    sides = []
    for length in (theirs.shape[1], mine.shape[1]):
        # With a class token, with a distillation token too, with none.
        fitting = [p for p in (1, 0, 2) if length > p and math.isqrt(length - p) ** 2 == length - p]
        if not fitting:
            return theirs
        sides.append((fitting[0], math.isqrt(length - fitting[0])))
    (their_prefix, their_side), (prefix, side) = sides
    if their_prefix != prefix:
        return theirs
    resampled: Tensor = resample_abs_pos_embed(
        theirs, [side, side], [their_side, their_side], num_prefix_tokens=prefix
    )
    return resampled
