"""DINO against equation 3 of its paper."""

import copy
import math

import pytest
import torch
from lightly.models.modules import DINOProjectionHead
from torch import nn

from ddm.methods import DINO
from ddm.methods.dino import DINOSettings


def make(head_start: int = 0, **changes) -> DINO:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 6))
    settings = DINOSettings(hidden_dim=8, bottleneck_dim=4, output_dim=9, **changes)
    return DINO(encoder, 6, head_start, settings).double()


def crops(n: int = 4, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = (4, 4, 2, 2, 2)
    return [torch.rand(n, 3, s, s, generator=generator, dtype=torch.float64) for s in sizes]


def test_loss_is_equation_3_with_centre_and_temperatures():
    method, views = make(teacher_temperature=0.07, warmup=0.5), crops()
    method.progress = 0.25
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(0.1)
        method.criterion.center.copy_(torch.linspace(-1, 1, 9))
        students = [method.head(method.encoder(v)) for v in views]
        teachers = [method.teacher_head.model(method.teacher_encoder.model(v)) for v in views[:2]]
    centre = torch.linspace(-1, 1, 9, dtype=torch.float64)
    total, count = 0.0, 0
    for t, teacher in enumerate(teachers):
        for s, student in enumerate(students):
            if s == t:
                continue
            for i in range(4):
                p = torch.softmax((teacher[i] - centre) / 0.055, 0)
                q = torch.log_softmax(student[i] / 0.1, 0)
                total -= float(p @ q)
                count += 1
    output = method(views)
    assert output.loss.item() == pytest.approx(total / count, rel=1e-10)
    assert output.features.shape == (2, 4, 6)
    moved = 0.9 * centre + 0.1 * torch.cat(teachers).mean(0)
    torch.testing.assert_close(method.criterion.center.flatten(), moved)
    output.loss.backward()
    assert all(p.grad is None for p in method.teacher_encoder.parameters())


def test_teacher_starts_as_the_student_and_follows_along_a_cosine():
    method = make(momentum=0.9)
    for twin, online in (
        (method.teacher_encoder, method.encoder),
        (method.teacher_head, method.head),
    ):
        for a, b in zip(twin.parameters(), online.parameters(), strict=True):
            assert torch.equal(a, b)
    before = [p.clone() for p in method.teacher_encoder.parameters()]
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(1.0)
    method.progress = 0.3
    method.after_step()
    step = (1 - 0.9) * (math.cos(math.pi * 0.3) + 1) / 2
    for old, new in zip(before, method.teacher_encoder.parameters(), strict=True):
        torch.testing.assert_close(new, old + step)


def test_the_last_layer_is_frozen_at_first():
    method = make(frozen=0.1)
    for progress, frozen in ((0.05, True), (0.2, False)):
        method.zero_grad()
        method.progress = progress
        method(crops()).loss.backward()
        method.before_step()
        assert (method.head.last_layer.weight_v.grad is None) == frozen
        assert method.encoder[2].weight.grad is not None


@pytest.mark.parametrize(("size", "local"), [(224, 96), (32, 16), (64, 32), (16, 16)])
def test_views_are_two_large_and_some_small_crops(size, local):
    views = make().views(size)
    assert [v.size for v in views] == [size, size] + [local] * 4
    assert len(make(local_views=0).views(size)) == 2
    assert views[0].crop_scale == (0.4, 1.0) and views[2].crop_scale == (0.05, 0.4)


def test_the_head_sees_the_invariant_portion_alone():
    method = make(head_start=2)
    method(crops()).loss.backward()
    gradient = method.encoder[2].weight.grad
    assert (gradient[:2] == 0).all() and (gradient[2:] != 0).any()


@pytest.mark.filterwarnings("error")
def test_it_is_made_without_a_warning():
    make()


def test_lightlys_head_cannot_be_copied_where_ours_can():
    bare = DINOProjectionHead(6, 8, 4, 9)
    bare(torch.rand(2, 6))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(bare)
    method = make()
    method(crops())
    torch.testing.assert_close(
        dict(method.teacher_head.model.named_parameters()), dict(method.head.named_parameters())
    )
