"""The Domain Disentanglement Module: the split of the representation, and its losses."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ddm.distributed import gather_rows
from ddm.objectives import INDEPENDENCE, INVARIANCE, VARIANT, DomainBatch, build, standardize


@dataclass(frozen=True)
class Disentangled:
    """What the module returns.

    Args:
        loss: weighted sum of the terms, a scalar to add to the self-supervised loss.
        terms: each term before its weight, detached, for logs.
        variant: the domain-variant portion of the features given, shape (..., variant_dim).
        invariant: the domain-invariant portion, shape (..., feature_dim - variant_dim).
        share: of the samples, those that had company: of known domain, in a batch that holds
            another domain and another sample of their own; a scalar in [0, 1], for logs. Of the
            others ``"instances"`` learns nothing.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    variant: Tensor
    invariant: Tensor
    share: Tensor


class DomainDisentanglement(nn.Module):
    """Splits features into a domain-variant and a domain-invariant portion while they are learnt.

    ``h = [h_v | h_i]``: the first ``variant_dim`` dimensions of the encoder's pooled output are
    domain-variant, the rest domain-invariant. The loss, to be added to any self-supervised one, is

        variant_weight * L_variant(h_v, d) + invariance_weight * L_invariance(h_i, d)
            + independence_weight * L_independence(h_v, h_i)

    after Kalibhat et al., BMVC 2023 (arXiv 2309.03999). Only that paper's abstract is public: the
    objectives are this library's own, see :mod:`ddm.objectives`.

    The defaults are those of the study under ``benchmarks/study`` (``docs/results.md``): small
    encoders, on one data set.

    The module has parameters of its own (small classifiers, prototypes): give them to the
    optimizer, and move it to the features' device. Where torch.distributed runs, all terms are
    computed over the global batch: every rank must call it, with the same number of samples, and
    with the same parameters (wrap it in ``DistributedDataParallel`` together with the encoder, or
    make it under the same seed everywhere; its gradients are the same on all ranks).

    A domain of -1 is unknown: that sample takes no part. A batch that holds fewer than two known
    domains gives a loss of exactly 0. Under autocast the terms are computed in float32.

    Args:
        feature_dim: width D of the encoder's pooled output.
        num_domains: number of domains K, at least 2.
        variant_dim: width of the variant portion; one eighth of ``feature_dim`` by default.
        variant: ``"cross_entropy"``, ``"prototypes"``, None, or a module of your own (below).
        invariance: ``"adversarial"``, ``"confusion"``, ``"coral"``, ``"mmd"``, ``"prototypes"``,
            ``"instances"``, ``"neighbours"``, None, or a module of your own. ``"instances"``, the
            default, needs two views of each sample, and several samples of each domain a batch:
            with many domains it fades (``share`` of the output says how far), so sample by domain,
            or merge domains.
        independence: ``"cross_correlation"``, ``"hsic"``, None, or a module of your own.
        variant_weight: weight of the variant term.
        invariance_weight: weight of the invariance term.
        independence_weight: weight of the independence term.

    An objective may be any ``torch.nn.Module`` that gives a scalar, such as one of
    :mod:`ddm.objectives` with other settings: of ``(portion, batch)``, or of
    ``(variant, invariant, batch)`` for independence, where portions are standardised, shape
    (views x N, width), and ``batch`` is a :class:`ddm.objectives.DomainBatch`.

    Raises:
        ValueError: a width or number out of range, a weight that is negative or not finite, an
            unknown objective.

    Example:
        >>> ddm = DomainDisentanglement(feature_dim=512, num_domains=3)
        >>> h_1, h_2 = encoder(view_1), encoder(view_2)
        >>> loss = ssl_loss(h_1, h_2) + ddm(torch.stack([h_1, h_2]), domains).loss
        >>> sharper = DomainDisentanglement(512, 3, invariance=InstanceInvariance(temperature=0.1))
    """

    def __init__(
        self,
        feature_dim: int,
        num_domains: int,
        variant_dim: int | None = None,
        *,
        variant: str | nn.Module | None = "cross_entropy",
        invariance: str | nn.Module | None = "instances",
        independence: str | nn.Module | None = "cross_correlation",
        variant_weight: float = 1.0,
        invariance_weight: float = 1.0,
        independence_weight: float = 1.0,
    ) -> None:
        super().__init__()
        for name, number in (("feature_dim", feature_dim), ("num_domains", num_domains)):
            if not isinstance(number, numbers.Integral):
                raise ValueError(f"{name}={number!r} must be a whole number")
        if variant_dim is None:
            variant_dim = default_variant_dim(feature_dim)
        check_variant_dim(variant_dim, feature_dim)
        if num_domains < 2:
            raise ValueError(
                f"num_domains={num_domains}: disentanglement needs at least two domains; "
                "leave the module out for a single one"
            )
        weights = {
            "variant": variant_weight,
            "invariance": invariance_weight,
            "independence": independence_weight,
        }
        for name, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(
                    f"{name}_weight={weight} must be a finite number, not negative; "
                    f"{name}=None leaves the term out"
                )
        self.feature_dim = feature_dim
        self.num_domains = num_domains
        self.variant_dim = variant_dim
        self.weights = weights
        invariant_dim = feature_dim - variant_dim
        self.variant = _objective(VARIANT, "variant", variant, variant_dim, num_domains)
        self.invariance = _objective(
            INVARIANCE, "invariance", invariance, invariant_dim, num_domains
        )
        self.independence = _objective(INDEPENDENCE, "independence", independence)

    def split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The variant and the invariant portion.

        Args:
            features: shape (..., D).

        Returns:
            Views of shapes (..., variant_dim) and (..., D - variant_dim).

        Raises:
            ValueError: features that are no tensor or of another width than D.
        """
        _require_tensor("features", features)
        if features.ndim == 0 or features.shape[-1] != self.feature_dim:
            raise ValueError(
                f"features must have shape (..., {self.feature_dim}), not {tuple(features.shape)}; "
                "give the whole of the encoder's pooled output"
            )
        return features[..., : self.variant_dim], features[..., self.variant_dim :]

    def forward(self, features: Tensor, domains: Tensor) -> Disentangled:
        """Compute the loss.

        Args:
            features: the encoder's pooled output, shape (N, D); or (V, N, D) for V views of each
                sample, which ``invariance="instances"`` needs and ``"prototypes"`` makes use of.
            domains: domain of each sample, integers in [-1, K), shape (N,).

        Returns:
            The loss, its terms and the two portions.

        Raises:
            ValueError: shapes, types or devices that do not fit, a single view where the objective
                needs two, a domain out of range. (The range is looked at on the CPU only, and not
                under ``torch.compile``: on a GPU it would make every step wait, and it cannot be
                compiled. There a domain out of range is an unknown one: look at your table of
                domains once, before training.)
        """
        self._check(features, domains)
        variant, invariant = self.split(features)
        stacked = features if features.ndim == 3 else features[None]
        with torch.autocast(features.device.type, enabled=False):
            if stacked.dtype in (torch.float16, torch.bfloat16):
                stacked = stacked.float()
            h = gather_rows(stacked, dim=1)
            d = gather_rows(domains.to(h.device, non_blocking=True))
            batch = DomainBatch.from_index(d, self.num_domains, num_views=len(h), dtype=h.dtype)
            h_v, h_i = self.split(standardize(h.flatten(0, 1), batch))
            terms: dict[str, Tensor] = {}
            if self.variant is not None:
                terms["variant"] = self.variant(h_v, batch)
            if self.invariance is not None:
                terms["invariance"] = self.invariance(h_i, batch)
            if self.independence is not None:
                terms["independence"] = self.independence(h_v, h_i, batch)
            loss = h.new_zeros(())
            for name, term in terms.items():
                loss = loss + self.weights[name] * term
        return Disentangled(
            loss,
            {name: term.detach() for name, term in terms.items()},
            variant,
            invariant,
            batch.share(),
        )

    def _check(self, features: Tensor, domains: Tensor) -> None:
        _require_tensor("features", features)
        _require_tensor("domains", domains)
        if not features.is_floating_point():
            raise ValueError(
                f"features must be real floating-point numbers, not {features.dtype}; give the "
                "encoder's pooled output, or features.float()"
            )
        if features.ndim not in (2, 3) or features.shape[-1] != self.feature_dim:
            raise ValueError(
                f"features must have shape (N, {self.feature_dim}) or (V, N, {self.feature_dim}), "
                f"not {tuple(features.shape)}; pool feature maps first"
            )
        if domains.shape != features.shape[-2:-1]:
            raise ValueError(
                f"domains must have shape ({features.shape[-2]},), one a sample, "
                f"not {tuple(domains.shape)}; where views lie along the batch, give "
                "features.unflatten(0, (num_views, -1))"
            )
        if domains.is_floating_point() or domains.is_complex() or domains.dtype == torch.bool:
            raise ValueError(f"domains must be integers, not {domains.dtype}; use domains.long()")
        if torch.compiler.is_compiling():
            return
        own = next(itertools.chain(self.parameters(), self.buffers()), features)
        if own.device != features.device:
            raise ValueError(
                f"features are on {features.device}, and the module's parameters on {own.device}; "
                "move it before the optimizer is made: ddm.to(features.device)"
            )
        if domains.device.type == "cpu" and domains.numel():
            low, high = int(domains.min()), int(domains.max())
            if low < -1 or high >= self.num_domains:
                raise ValueError(
                    f"domains must lie in [-1, num_domains={self.num_domains}), "
                    f"found {low} to {high}; -1 is for unknown domains, raise num_domains for more"
                )

    def extra_repr(self) -> str:
        return (
            f"feature_dim={self.feature_dim}, num_domains={self.num_domains}, "
            f"variant_dim={self.variant_dim}"
        )


def gradient_ratio(loss: Tensor, other: Tensor, parameters: Iterable[Tensor]) -> float:
    """How strongly one loss pulls on parameters, beside another.

    The length of the gradient of ``loss`` over that of ``other``. Self-supervised losses differ in
    it by orders of magnitude, so the same weights of the module drown one method and do not reach
    the next: look at this ratio for a few batches, and set the weights by it (``docs/method.md``).
    It costs the backward pass of both, and keeps their graph. Where torch.distributed runs every
    rank must call it (the backward pass gathers), and each gets a number of its own: gradients are
    not averaged over ranks here.

    Args:
        loss: a scalar, such as the module's loss.
        other: a scalar, such as the self-supervised loss.
        parameters: the encoder's; those that want no gradient are left out.

    Returns:
        The ratio; 0 where ``loss`` does not pull at all, infinite where only ``other`` does not.

    Raises:
        ValueError: neither loss depends on the parameters.
        RuntimeError: ``backward()`` came first, without ``retain_graph=True``, and freed the graph.

    Example:
        >>> out = ddm(torch.stack([h_1, h_2]), domains)
        >>> gradient_ratio(out.loss, ssl_loss, encoder.parameters())
    """
    wanted = [p for p in parameters if p.requires_grad]

    def length(scalar: Tensor) -> float | None:
        if not wanted or not scalar.requires_grad:
            return None
        found = torch.autograd.grad(scalar, wanted, retain_graph=True, allow_unused=True)
        lengths = [g.float().norm() for g in found if g is not None]
        return float(torch.stack(lengths).norm()) if lengths else None

    above, below = length(loss), length(other)
    if above is None and below is None:
        raise ValueError(
            "neither loss depends on the parameters: give those of the encoder that both were "
            "computed with, before the backward pass"
        )
    if not above:
        return 0.0
    return above / below if below else float("inf")


def default_variant_dim(feature_dim: int) -> int:
    """Width of the variant portion where nobody chose one: an eighth."""
    return max(1, feature_dim // 8)


def check_variant_dim(variant_dim: int, feature_dim: int) -> None:
    """Refuse a split that leaves one of the portions empty.

    Raises:
        ValueError: ``variant_dim`` is not in ``[1, feature_dim)``.
    """
    if not 0 < variant_dim < feature_dim:
        raise ValueError(
            f"variant_dim={variant_dim} must lie between 1 and feature_dim - 1 = "
            f"{feature_dim - 1}: both portions need room; choose a smaller variant_dim or a wider "
            "encoder"
        )


def _require_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        views = isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value)
        remedy = f"torch.stack({name})" if views else f"torch.as_tensor({name})"
        raise ValueError(f"{name} must be a tensor, not {type(value).__name__}; use {remedy}")


def _objective(
    table: Mapping[str, type[nn.Module]],
    role: str,
    chosen: str | nn.Module | None,
    *shape: int,
) -> nn.Module | None:
    if chosen is None or isinstance(chosen, nn.Module):
        return chosen
    if chosen not in table:
        raise ValueError(
            f"{role}={chosen!r} is unknown; choose one of {', '.join(table)}, None, or give a "
            "torch.nn.Module"
        )
    return build(table[chosen], *shape)
