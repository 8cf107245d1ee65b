"""What holds for every method."""

import copy
import math

import pytest
import torch
from lightly.loss import NTXentLoss

from ddm.encoders import EncoderSpec, build_encoder
from ddm.methods import METHODS
from ddm.optimizers import make_optimizer, schedule_weight_decay
from ddm.views import random_views
from waits import Waits


@pytest.mark.parametrize("encoder", ["small", "resnet10t", "convnext_atto", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("name", METHODS)
def test_one_step_on_encoders_of_every_kind(name, encoder):
    torch.manual_seed(0)
    model, dim = build_encoder(EncoderSpec(encoder, 3, 64))
    method = METHODS[name](model, dim)
    generator = torch.Generator().manual_seed(0)
    views = random_views(torch.rand(4, 3, 64, 64), method.views(64), generator)
    optimizer = make_optimizer([method], method.optimizer, 256)
    before = {k: v.clone() for k, v in model.named_parameters()}
    output = method(views)
    assert output.features.shape[1:] == (4, dim) and math.isfinite(output.loss.item())
    output.loss.backward()
    method.before_step()
    optimizer.step()
    method.after_step()
    moved = [k for k, v in model.named_parameters() if not torch.equal(v, before[k])]
    # Residual branches begin at zero: in the first step nothing inside them moves.
    assert len(moved) > 0.5 * len(before)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_a_step_never_waits_for_the_device(name):
    model, dim = build_encoder(EncoderSpec("small", 3, 32))
    method = METHODS[name](model, dim)
    generator = torch.Generator().manual_seed(0)
    views = random_views(torch.rand(4, 3, 32, 32), method.views(32), generator)
    optimizer = make_optimizer([method], method.optimizer, 256)
    with Waits() as waits:
        method(views).loss.backward()
        method.before_step()
        if method.optimizer.name != "adamw":  # It counts its steps on the processor.
            optimizer.step()
        method.after_step()
    assert not waits.found


@pytest.mark.parametrize("name", METHODS)
def test_under_autocast_the_loss_is_that_of_float32(name):
    """Of what the heads give in bfloat16, as if no autocast were on."""
    torch.manual_seed(0)
    model, dim = build_encoder(EncoderSpec("small", 3, 32))
    method = METHODS[name](model, dim)
    again = copy.deepcopy(method) if name != "dino" else None
    if again is None:  # Weight norm cannot be deep-copied.
        again = METHODS[name](copy.deepcopy(model), dim)
        again.load_state_dict(method.state_dict())
    generator = torch.Generator().manual_seed(0)
    views = random_views(torch.rand(8, 3, 32, 32), method.views(32), generator)
    given = []
    heads = [n for n, _ in method.named_children() if n.endswith("head")]
    for head in heads:
        getattr(method, head).register_forward_hook(lambda *call: given.append(call[-1]))
        getattr(again, head).register_forward_hook(lambda *_: given.pop(0).float())
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(views).loss
    assert heads and all(output.dtype == torch.bfloat16 for output in given)
    assert loss.dtype == torch.float32
    expected = again(views).loss
    assert not given and loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_what_waits_is_found():
    """Else the test above, and that of the module, could not fail."""
    z = torch.randn(2, 4, 8, requires_grad=True)
    with Waits() as waits:
        NTXentLoss()(*z)
    assert set(waits.found) == {"index"}
    with Waits() as waits:
        z.sum().item()
    assert set(waits.found) == {"_local_scalar_dense"}


def test_the_decay_of_dino_rises_along_a_cosine():
    method = METHODS["dino"](torch.nn.Linear(4, 4), 4)
    optimizer = make_optimizer([method], method.optimizer, 256)
    for progress, decay in ((0.0, 0.04), (0.5, 0.22), (1.0, 0.4)):
        schedule_weight_decay(optimizer, method.optimizer, progress)
        assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(decay)
        assert optimizer.param_groups[1]["weight_decay"] == 0
    constant = METHODS["simclr"].optimizer
    schedule_weight_decay(optimizer, constant, 0.5)
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.4)
