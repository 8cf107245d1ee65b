"""The module: its split, its checks, and what happens to a training loop that adds it."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ddm
from ddm import DomainDisentanglement, gradient_ratio
from ddm.objectives import (
    DomainBatch,
    InstanceInvariance,
    NeighbourInvariance,
    PrototypeInvariance,
    standardize,
)
from waits import Waits

VARIANTS = [None, "cross_entropy", "prototypes"]
INVARIANCES = [
    None,
    "adversarial",
    "confusion",
    "coral",
    "mmd",
    "prototypes",
    "instances",
    "neighbours",
]
INDEPENDENCES = [None, "cross_correlation", "hsic"]
WEIGHTS = {"variant_weight": 0.5, "invariance_weight": 2.0, "independence_weight": 3.0}
DOMAINS = torch.tensor([0, 1, 2, 0, -1, 2, 0, 1, 1, 2])


def module(**options: Any) -> DomainDisentanglement:
    torch.manual_seed(0)
    return DomainDisentanglement(16, 3, **options)


def random_features(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()


# --- the split -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("feature_dim", "expected"), [(512, 64), (16, 2), (9, 1), (8, 1), (2, 1)])
def test_variant_portion_is_one_eighth_by_default(feature_dim: int, expected: int) -> None:
    assert DomainDisentanglement(feature_dim, 2).variant_dim == expected


@pytest.mark.parametrize("shape", [(10, 16), (2, 10, 16), (3, 10, 16)])
def test_portions(shape: tuple[int, ...]) -> None:
    h = random_features(*shape)
    out = module(variant_dim=5, invariance="coral")(h, DOMAINS)
    assert out.variant.shape == (*shape[:-1], 5)
    assert out.invariant.shape == (*shape[:-1], 11)
    assert torch.equal(torch.cat([out.variant, out.invariant], -1), h)
    # They are for further losses: the graph goes through.
    (out.variant.sum() + out.invariant.sum()).backward()
    assert torch.equal(h.grad, torch.ones_like(h))


def test_each_term_reaches_its_own_portion() -> None:
    none: dict[str, Any] = {"variant": None, "invariance": None, "independence": None}
    for name, touched in (
        ("variant", slice(0, 5)),
        ("invariance", slice(5, 16)),
        ("independence", slice(0, 16)),
    ):
        default = {"variant": "cross_entropy", "invariance": "prototypes", "independence": "hsic"}
        h = random_features(10, 16)
        module(variant_dim=5, **{**none, name: default[name]})(h, DOMAINS).loss.backward()
        columns = h.grad.abs().sum(0) > 0
        assert columns[touched].all() and columns.sum() == len(columns[touched])


# --- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(10, 16), (2, 10, 16)])
def test_every_combination_of_objectives(shape: tuple[int, ...]) -> None:
    for names in itertools.product(VARIANTS, INVARIANCES, INDEPENDENCES):
        chosen = dict(zip(("variant", "invariance", "independence"), names, strict=True))
        if len(shape) == 2 and names[1] == "instances":  # It needs views, and says so.
            continue
        m = module(**chosen, **WEIGHTS)
        h = random_features(*shape)
        out = m(h, DOMAINS)
        assert set(out.terms) == {role for role, name in chosen.items() if name is not None}
        expected = sum(float(term) * WEIGHTS[f"{role}_weight"] for role, term in out.terms.items())
        assert out.loss.item() == pytest.approx(expected, rel=1e-5)
        assert math.isfinite(out.loss.item()) and out.loss.dtype == torch.float32
        assert not any(term.requires_grad for term in out.terms.values())
        # With no term at all the loss is a constant, to be added to another all the same.
        (out.loss + 0 * h.sum()).backward()
        assert torch.isfinite(h.grad).all()
        # The memory of neighbours is not full yet.
        assert (h.grad.abs().sum() > 0) == bool(set(names) - {None, "neighbours"})
        for parameter in m.parameters():
            assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0


def test_weight_scales_the_gradient_and_not_the_term() -> None:
    grads, terms = [], []
    for weight in (1.0, 4.0, 0.0):
        h = random_features(2, 10, 16)
        out = module(variant=None, independence=None, invariance_weight=weight)(h, DOMAINS)
        out.loss.backward()
        grads.append(h.grad)
        terms.append(out.terms["invariance"])
    torch.testing.assert_close(grads[1], 4 * grads[0])
    assert (grads[2] == 0).all()
    assert terms[0] == terms[1] == terms[2]


@pytest.mark.parametrize(
    "invariance", [i for i in INVARIANCES if i not in ("prototypes", "instances", "neighbours")]
)
def test_views_are_samples_to_terms_that_do_not_pair_them(invariance: str | None) -> None:
    for variant, independence in zip(VARIANTS, INDEPENDENCES, strict=True):
        chosen: Any = {"variant": variant, "invariance": invariance, "independence": independence}
        h = random_features(2, 10, 16)
        three = module(**chosen)(h, DOMAINS)
        two = module(**chosen)(h.flatten(0, 1), DOMAINS.repeat(2))
        torch.testing.assert_close(three.loss, two.loss)


def test_prototypes_are_swapped_between_views() -> None:
    h = random_features(2, 10, 16)
    m = module(variant=None, invariance="prototypes", invariance_weight=1.0, independence=None)
    assert isinstance(m.invariance, PrototypeInvariance)
    batch = DomainBatch.from_index(DOMAINS, 3, num_views=2)
    expected = m.invariance(standardize(h[:, :, 2:].flatten(0, 1), batch), batch)
    torch.testing.assert_close(m(h, DOMAINS).loss, expected)
    assert m(h.flatten(0, 1), DOMAINS.repeat(2)).loss != expected


@pytest.mark.parametrize("domains", [[1, 1, 1, 1], [-1, -1, -1, -1], [-1, 2, -1, -1]])
def test_fewer_than_two_domains_give_exactly_zero(domains: list[int]) -> None:
    for names in itertools.product(VARIANTS, INVARIANCES, INDEPENDENCES):
        m = module(**dict(zip(("variant", "invariance", "independence"), names, strict=True)))
        h = random_features(2, 4, 16)
        out = m(h, torch.tensor(domains))
        assert out.loss.item() == 0
        (out.loss + 0 * h.sum()).backward()
        assert (h.grad == 0).all()
        assert all((p.grad == 0).all() for p in m.parameters())


def test_batch_without_samples() -> None:
    # What is left of a last batch, filtered by someone's training loop.
    for names in itertools.product(VARIANTS, INVARIANCES, INDEPENDENCES):
        m = module(**dict(zip(("variant", "invariance", "independence"), names, strict=True)))
        out = m(random_features(2, 0, 16), torch.empty(0, dtype=torch.long))
        assert out.loss.item() == 0


# --- numbers of other widths ---------------------------------------------------------------------


@pytest.mark.parametrize("invariance", INVARIANCES)
@pytest.mark.parametrize("independence", ["cross_correlation", "hsic"])
def test_bfloat16_autocast(invariance: str | None, independence: str) -> None:
    torch.manual_seed(0)
    encoder = nn.Linear(8, 16)
    images = torch.randn(2, 10, 8)
    m = module(variant="prototypes", invariance=invariance, independence=independence)
    with torch.autocast("cpu", torch.bfloat16):
        h = encoder(images)
        out = m(h, DOMAINS)
    assert h.dtype == torch.bfloat16 and out.variant.dtype == torch.bfloat16
    # In bfloat16 the terms, differences of numbers of order one, would be noise.
    assert out.loss.dtype == torch.float32
    assert all(term.dtype == torch.float32 for term in out.terms.values())
    h.retain_grad()
    out.loss.backward()
    assert h.grad.dtype == torch.bfloat16
    assert torch.isfinite(h.grad).all() and h.grad.abs().sum() > 0
    assert encoder.weight.grad.dtype == torch.float32
    assert torch.isfinite(encoder.weight.grad).all() and encoder.weight.grad.abs().sum() > 0


def test_autocast_computes_what_float32_does() -> None:
    for invariance in INVARIANCES:
        m = module(invariance=invariance, independence="hsic")
        h = random_features(2, 10, 16)
        with torch.autocast("cpu", torch.bfloat16):
            out = m(h, DOMAINS)
        # Not even the matrix products of float32 features may be cut down.
        assert torch.equal(out.loss, m(h, DOMAINS).loss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_of_half_precision(dtype: torch.dtype) -> None:
    h = random_features(2, 10, 16, dtype=dtype).detach().requires_grad_()
    out = module()(h, DOMAINS)
    out.loss.backward()
    assert out.loss.dtype == torch.float32
    assert h.grad.dtype == dtype and torch.isfinite(h.grad).all()
    torch.testing.assert_close(out.loss, module()(h.detach().float(), DOMAINS).loss)


def test_float64_stays_float64() -> None:
    for names in itertools.product(VARIANTS, INVARIANCES, INDEPENDENCES):
        chosen = dict(zip(("variant", "invariance", "independence"), names, strict=True))
        h = random_features(2, 10, 16, dtype=torch.float64)
        out = module(**chosen).double()(h, DOMAINS)
        assert out.loss.dtype == torch.float64
        assert all(term.dtype == torch.float64 for term in out.terms.values())


WIDTHS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("own", WIDTHS)
@pytest.mark.parametrize("given", WIDTHS)
def test_module_and_features_of_any_types(own: torch.dtype, given: torch.dtype) -> None:
    # As under Lightning's bf16-true, which casts the module with all the rest.
    for names in itertools.product(VARIANTS, INVARIANCES, INDEPENDENCES):
        m = module(**dict(zip(("variant", "invariance", "independence"), names, strict=True)))
        m.to(own)
        h = random_features(2, 10, 16, dtype=given).detach().requires_grad_()
        out = m(h, DOMAINS)
        assert math.isfinite(out.loss.item())
        assert out.loss.dtype == (torch.float64 if given == torch.float64 else torch.float32)
        (out.loss + 0 * h.sum()).backward()
        assert h.grad.dtype == given and torch.isfinite(h.grad).all()
        for parameter in m.parameters():
            assert parameter.dtype == parameter.grad.dtype == own
            assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0
        assert all(b.dtype == own for b in m.buffers() if b.is_floating_point())


def test_memory_of_neighbours_in_half_precision() -> None:
    m = module(variant=None, invariance="neighbours", independence=None).bfloat16()
    memory = NeighbourInvariance(14, memory=18, mutual=9)
    m.invariance = memory.bfloat16()
    for _ in range(3):
        h = random_features(2, 10, 16, dtype=torch.bfloat16).detach().requires_grad_()
        out = m(h, DOMAINS)
    out.loss.backward()
    assert 0 < out.loss.item() < math.inf
    assert torch.isfinite(h.grad).all() and h.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_domains_of_any_integer_type(dtype: torch.dtype) -> None:
    h = random_features(2, 10, 16)
    assert torch.equal(module()(h, DOMAINS.to(dtype)).loss, module()(h, DOMAINS).loss)


# --- a citizen of training loops -----------------------------------------------------------------


def trained() -> DomainDisentanglement:
    """After two steps, so that the prototypes have moved."""
    m = module(variant="prototypes", invariance="adversarial")
    optimizer = torch.optim.SGD(m.parameters(), 0.1)
    for step in range(2):
        m(random_features(10, 16) + step, DOMAINS % 2).loss.backward()
        optimizer.step()
    return m.eval()


def test_state_dict_holds_all_that_was_learnt() -> None:
    m, fresh = trained(), module(variant="prototypes", invariance="adversarial").eval()
    h = random_features(10, 16)
    assert m(h, DOMAINS).loss != fresh(h, DOMAINS).loss
    fresh.load_state_dict(m.state_dict())
    assert torch.equal(m(h, DOMAINS).loss, fresh(h, DOMAINS).loss)
    assert fresh.variant.seen.tolist() == [True, True, False]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(duplicate: Any) -> None:
    m = trained()
    other = duplicate(m)
    h = random_features(10, 16)
    assert torch.equal(m(h, DOMAINS).loss, other(h, DOMAINS).loss)
    other.variant.prototypes.zero_()
    assert m.variant.prototypes.abs().sum() > 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("invariance", INVARIANCES)
def test_few_parameters_beside_a_resnet18(variant: str | None, invariance: str | None) -> None:
    m = DomainDisentanglement(512, 6, variant=variant, invariance=invariance)
    assert sum(p.numel() for p in m.parameters()) < 0.005 * 11.2e6


def test_compiled_without_a_break() -> None:
    h, compiled_h = random_features(2, 10, 16), random_features(2, 10, 16)
    m, twin = module(), module()
    try:
        compiled = torch.compile(twin, backend="eager", fullgraph=True)
    except RuntimeError as error:
        pytest.skip(str(error))
    expected, found = m(h, DOMAINS), compiled(compiled_h, DOMAINS)
    assert torch.equal(found.loss, expected.loss) and found.terms == expected.terms
    assert torch.equal(found.variant, expected.variant)
    expected.loss.backward()
    found.loss.backward()
    assert torch.equal(compiled_h.grad, h.grad)
    for mine, its in zip(m.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine.grad, its.grad)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("invariance", INVARIANCES)
@pytest.mark.parametrize("independence", ["cross_correlation", "hsic"])
def test_it_never_waits_for_the_device(
    variant: str | None, invariance: str | None, independence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The range of domains is looked at on the processor alone.
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    ddm = module(variant=variant, invariance=invariance, independence=independence)
    with Waits() as waits:
        ddm(random_features(2, 10, 16), DOMAINS).loss.backward()
    assert not waits.found


def test_no_grad() -> None:
    with torch.no_grad():
        out = module()(random_features(2, 10, 16), DOMAINS)
    assert not out.loss.requires_grad and out.loss > 0


def test_gradient_ratio_is_that_of_the_lengths_and_leaves_the_graph_alone() -> None:
    encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    encoder[2].bias.requires_grad_(False)
    h = encoder(torch.randn(5, 3))
    strong, weak = 30 * h.square().sum(), h[:, 0].sum()
    found = gradient_ratio(strong, weak, encoder.parameters())
    assert all(p.grad is None for p in encoder.parameters())
    lengths = []
    for loss in (strong, weak):
        encoder.zero_grad()
        loss.backward(retain_graph=True)
        grads = [p.grad.flatten() for p in encoder.parameters() if p.grad is not None]
        lengths.append(torch.cat(grads).norm().item())
    assert found == pytest.approx(lengths[0] / lengths[1], rel=1e-5)


def test_gradient_ratio_where_a_loss_does_not_pull() -> None:
    weight, elsewhere = (nn.Parameter(torch.ones(2)) for _ in range(2))
    loss, none, other = weight.sum(), 0 * weight.sum(), elsewhere.sum()
    assert gradient_ratio(none, loss, [weight]) == gradient_ratio(other, loss, [weight]) == 0
    assert gradient_ratio(loss, none, [weight]) == gradient_ratio(loss, other, [weight]) == math.inf
    assert gradient_ratio(none, none, [weight]) == 0
    for parameters in ([weight], []):
        with pytest.raises(ValueError, match="neither loss depends on the parameters"):
            gradient_ratio(other, torch.ones(()), parameters)


def test_gradient_ratio_comes_before_the_backward_pass() -> None:
    encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    loss = encoder(torch.randn(5, 3)).square().sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        gradient_ratio(loss, loss, encoder.parameters())


def test_it_is_what_the_package_exports() -> None:
    assert ddm.DomainDisentanglement is DomainDisentanglement
    assert type(module()(random_features(2, 10, 16), DOMAINS)) is ddm.Disentangled
    with pytest.raises(AttributeError, match="no attribute 'Domain'"):
        ddm.Domain  # noqa: B018


def test_objectives_of_ones_own() -> None:
    """One of the library's with another setting, and one from elsewhere."""

    class Spread(nn.Module):
        def forward(self, variant: Tensor, invariant: Tensor, batch: DomainBatch) -> Tensor:
            return (batch.weights @ variant.square()).sum() + 0 * invariant.sum()

    h = random_features(2, 10, 16)
    sharp = module(invariance=InstanceInvariance(temperature=0.1), independence=Spread())
    named = module()
    out, other = sharp(h, DOMAINS), named(h, DOMAINS)
    # Standardised: variance 1 in each of the two dimensions.
    assert float(out.terms["independence"]) == pytest.approx(2, abs=1e-3)
    assert not torch.isclose(out.terms["invariance"], other.terms["invariance"])
    named.invariance.temperature = 0.1
    assert torch.equal(named(h, DOMAINS).terms["invariance"], out.terms["invariance"])


@pytest.mark.parametrize(
    ("domains", "share"),
    [
        ([0, 1, 2, 0, -1, 2, 0, 1, 1, 2], 0.9),
        ([0, 0, 0, 1, 2, -1, -1, 2, 0, 2], 0.7),
        ([0, 1, 2], 0.0),
        ([1, 1, 1, -1], 0.0),
        ([], 0.0),
    ],
)
@pytest.mark.parametrize("views", [2, 3])
def test_share_of_samples_with_company(domains: list[int], share: float, views: int) -> None:
    h = random_features(views, len(domains), 16)
    out = module()(h, torch.tensor(domains, dtype=torch.long))
    assert float(out.share) == pytest.approx(share)


def test_features_on_another_device() -> None:
    with pytest.raises(ValueError, match=r"on meta, and the module's parameters on cpu; .*ddm\.to"):
        module()(torch.zeros(2, 10, 16, device="meta"), DOMAINS)


def test_repr_names_the_widths() -> None:
    assert "feature_dim=16, num_domains=3, variant_dim=2" in repr(module())


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant_dim", [16, 17, 0, -1])
def test_both_portions_need_room(variant_dim: int) -> None:
    with pytest.raises(
        ValueError, match=rf"variant_dim={variant_dim} .* between 1 and .* 15.*choose"
    ):
        module(variant_dim=variant_dim)


def test_features_of_one_dimension_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="wider encoder"):
        DomainDisentanglement(1, 2)


@pytest.mark.parametrize("num_domains", [1, 0, -3])
def test_two_domains_are_needed(num_domains: int) -> None:
    with pytest.raises(ValueError, match=rf"num_domains={num_domains}.*leave the module out"):
        DomainDisentanglement(16, num_domains)


@pytest.mark.parametrize("weight", [-1.0, -1e-9, float("nan"), float("inf")])
@pytest.mark.parametrize("role", ["variant", "invariance", "independence"])
def test_weights(role: str, weight: float) -> None:
    with pytest.raises(ValueError, match=rf"{role}_weight={weight} .*{role}=None"):
        module(**{f"{role}_weight": weight})


@pytest.mark.parametrize(
    ("role", "offered"),
    [
        ("variant", "cross_entropy, prototypes, None, or"),
        (
            "invariance",
            "adversarial, confusion, coral, mmd, prototypes, instances, neighbours, None, or",
        ),
        ("independence", "cross_correlation, hsic, None, or"),
    ],
)
def test_unknown_objective(role: str, offered: str) -> None:
    with pytest.raises(ValueError, match=f"{role}='corall' is unknown; choose one of {offered}"):
        module(**{role: "corall"})


@pytest.mark.parametrize("shape", [(10, 15), (16,), (10, 16, 1), (10, 16, 7, 7), (1, 2, 10, 16)])
def test_shape_of_features(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"features must have shape \(N, 16\).*pool feature maps"):
        module()(random_features(*shape), DOMAINS)


@pytest.mark.parametrize("shape", [(20, 16), (2, 5, 16), (10, 1, 16)])
def test_shape_of_domains(shape: tuple[int, ...]) -> None:
    # Above all the views along the batch, with the domains of one view.
    with pytest.raises(
        ValueError, match=rf"domains must have shape \({shape[-2]},\).*features\.unflatten\(0"
    ):
        module()(random_features(*shape), DOMAINS)
    with pytest.raises(ValueError, match="domains must have shape"):
        module()(random_features(10, 16), DOMAINS[:, None])


def test_views_along_the_batch_are_mended_as_the_error_says() -> None:
    h, num_views = random_features(20, 16), 2
    out = module()(h.unflatten(0, (num_views, -1)), DOMAINS)
    assert torch.equal(out.loss, module()(h.view(2, 10, 16), DOMAINS).loss)


@pytest.mark.parametrize("kind", [lambda t: t.tolist(), lambda t: t.detach().numpy()])
def test_what_is_no_tensor(kind: Any) -> None:
    h = random_features(2, 10, 16)
    name = type(kind(h)).__name__
    with pytest.raises(ValueError, match=rf"domains must be .* {name}; use torch\.as_tensor\(dom"):
        module()(h, kind(DOMAINS))
    with pytest.raises(ValueError, match=rf"features must be .* {name}; use torch\.as_tensor\(f"):
        module()(kind(h), DOMAINS)
    with pytest.raises(ValueError, match=rf"features must be .* {name}; use torch\.as_tensor\(f"):
        module().split(kind(h))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_type_of_features(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"features must be real .* not {dtype}"):
        module()(torch.ones(2, 10, 16, dtype=dtype), DOMAINS)


@pytest.mark.parametrize("shape", [(10, 15), (2, 10, 17), (14,), ()])
def test_only_whole_features_are_split(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"features must have shape \(\.\.\., 16\), not"):
        module().split(torch.ones(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
def test_type_of_domains(dtype: torch.dtype) -> None:
    with pytest.raises(
        ValueError, match=rf"domains must be integers, not {dtype}; use domains.long"
    ):
        module()(random_features(10, 16), (DOMAINS.clamp(0)).to(dtype))


@pytest.mark.parametrize(("wrong", "found"), [(3, "-1 to 3"), (-2, "-2 to 2")])
def test_range_of_domains(wrong: int, found: str) -> None:
    domains = DOMAINS.clone()
    domains[0] = wrong
    with pytest.raises(
        ValueError, match=rf"\[-1, num_domains=3\), found {found}.*raise num_domains"
    ):
        module()(random_features(10, 16), domains)


def test_a_list_of_views_is_to_be_stacked() -> None:
    views = [random_features(10, 16), random_features(10, 16)]
    with pytest.raises(ValueError, match=r"features must be a tensor, not list; use torch\.stack"):
        module()(views, DOMAINS)


def test_sizes_that_numpy_counted() -> None:
    assert DomainDisentanglement(np.int64(16), np.int32(3)).num_domains == 3


@pytest.mark.parametrize("sizes", [(16.0, 3), (16, 3.0), ("16", 3)])
def test_sizes_that_are_no_whole_numbers(sizes: tuple) -> None:
    with pytest.raises(ValueError, match="must be a whole number"):
        DomainDisentanglement(*sizes)
