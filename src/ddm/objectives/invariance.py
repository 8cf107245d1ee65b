"""What takes the domain out of the invariant portion."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddm.objectives.batch import (
    EPS,
    DomainBatch,
    balanced_cross_entropy,
    call_in_type,
    directions,
    mean_over_pairs,
    squared_distances,
    standardize_within,
)
from ddm.objectives.checks import require_positive, require_whole


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def reverse_gradient(x: Tensor) -> Tensor:
    """The identity, whose gradient has the opposite sign (Ganin et al., 2016, arXiv 1505.07818)."""
    reversed_: Tensor = _ReverseGradient.apply(x)
    return reversed_


def _discriminator(dim: int, num_domains: int, hidden_dim: int) -> nn.Sequential:
    require_whole(hidden_dim=hidden_dim)
    return nn.Sequential(
        nn.Linear(dim, hidden_dim), nn.ReLU(inplace=True), nn.Linear(hidden_dim, num_domains)
    )


class AdversarialInvariance(nn.Module):
    """A discriminator looks for the domain; the encoder gets its gradient reversed.

    DANN, Ganin et al., 2016 (arXiv 1505.07818), with balanced domains.

    Args:
        dim: width of the invariant portion.
        num_domains: number of domains.
        hidden_dim: width of the discriminator's hidden layer.

    Raises:
        ValueError: ``hidden_dim`` below 1.
    """

    def __init__(self, dim: int, num_domains: int, hidden_dim: int = 64) -> None:
        super().__init__()
        self.discriminator = _discriminator(dim, num_domains, hidden_dim)

    def forward(self, features: Tensor, batch: DomainBatch) -> Tensor:
        """The term, shape (), of standardised features, shape (M, dim)."""
        hidden = reverse_gradient(features)
        return balanced_cross_entropy(call_in_type(self.discriminator, hidden), batch)


class ConfusionInvariance(nn.Module):
    """The encoder makes a discriminator answer "any domain, equally likely".

    Domain confusion, Tzeng et al., 2015 (arXiv 1510.02192). The value is the discriminator's own
    cross-entropy, which reaches only the discriminator, plus the cross-entropy between its answer
    and the uniform distribution over the domains that training has met so far, which reaches only
    the encoder. A domain that never occurs, such as a held-out one, is no right answer: the
    discriminator learns to rule it out, and the encoder could never get it back in.

    Args:
        dim: width of the invariant portion.
        num_domains: number of domains.
        hidden_dim: width of the discriminator's hidden layer.

    Raises:
        ValueError: ``hidden_dim`` below 1.
    """

    seen: Tensor

    def __init__(self, dim: int, num_domains: int, hidden_dim: int = 64) -> None:
        super().__init__()
        self.discriminator = _discriminator(dim, num_domains, hidden_dim)
        self.register_buffer("seen", torch.zeros(num_domains, dtype=torch.bool))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Checkpoints of before there was `seen` say nothing of it: the next batches do.
        state_dict.setdefault(f"{prefix}seen", torch.zeros_like(self.seen))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, features: Tensor, batch: DomainBatch) -> Tensor:
        """The term, shape (), of standardised features, shape (M, dim)."""
        if self.training:
            # Of the global batch, so that all ranks agree.
            self.seen.logical_or_((batch.counts > 0) & batch.several.bool())
        found = balanced_cross_entropy(call_in_type(self.discriminator, features.detach()), batch)
        log_p = call_in_type(self.discriminator, features, frozen=True).log_softmax(1)
        # As shares of the mean over all K, which, once all are seen, it then is to the bit.
        seen = self.seen.to(log_p.dtype)
        share = seen * len(seen) / seen.sum().clamp_min(1)
        return found - (batch.weights * (share * log_p).mean(1)).sum()


class CORALInvariance(nn.Module):
    """Mean and covariance of the domains agree, over all pairs of domains.

    CORAL, Sun & Saenko, 2016 (arXiv 1607.01719), with the means as in DomainBed: for each pair,
    ``mean((mu_a - mu_b)^2) + mean((C_a - C_b)^2)`` on standardised features. Domains with a single
    sample in the batch have no covariance and are left out.

    The covariances themselves are never formed: ``<C_a, C_b>`` is a sum over squared inner
    products, which costs M x M x D instead of K x D x D.
    """

    def forward(self, features: Tensor, batch: DomainBatch) -> Tensor:
        """The term, shape (), of standardised features, shape (M, dim)."""
        dim = features.shape[1]
        # Rows of one sample are its views: how they differ is no covariance of the domain.
        pairs = batch.pairs(minimum=batch.num_views + 1)
        means = batch.averaging.T @ features
        centred = features - batch.one_hot @ means
        unbiased = batch.one_hot / (batch.counts - 1).clamp_min(1)
        covariance = unbiased.T @ (centred @ centred.T).square() @ unbiased / dim**2
        return mean_over_pairs(means @ means.T / dim, pairs) + mean_over_pairs(covariance, pairs)


class MMDInvariance(nn.Module):
    """Maximum mean discrepancy between the domains, over all pairs of domains.

    Gretton et al., 2012; biased estimate with the mean of Gaussian kernels
    ``exp(-||x - y||^2 / (s * m))``, where ``m`` is the mean squared distance between rows in the
    batch (no gradient) and ``s`` one of ``scales``, as in DAN (arXiv 1502.02791).

    Args:
        scales: the kernels' widths, relative to the mean squared distance.

    Raises:
        ValueError: no scale, or one that is not above 0.
    """

    def __init__(self, scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)) -> None:
        super().__init__()
        if not scales:
            raise ValueError("scales=() must hold one number at least")
        for scale in scales:
            require_positive(scales=scale)
        self.scales = scales

    def forward(self, features: Tensor, batch: DomainBatch) -> Tensor:
        """The term, shape (), of standardised features, shape (M, dim)."""
        distances = squared_distances(features)
        mean = (batch.weights @ distances @ batch.weights).detach() + EPS
        kernel = torch.stack([(-distances / (s * mean)).exp() for s in self.scales]).mean(0)
        return mean_over_pairs(batch.averaging.T @ kernel @ batch.averaging, batch.pairs(minimum=1))


class PrototypeInvariance(nn.Module):
    """Swapped prediction of prototypes that every domain must use equally.

    SwAV, Caron et al., 2020 (arXiv 2006.09882), but the Sinkhorn targets are balanced inside each
    domain instead of over the batch: each prototype takes the same share of every domain, so that
    it cannot stand for a domain. It fits domains that share their classes in similar proportions,
    and forces a false match on domains whose classes are disjoint.

    The target of a row comes from the other views of its sample; with a single view, from the row
    itself.

    Args:
        dim: width of the invariant portion.
        num_domains: number of domains.
        num_prototypes: number of prototypes; fewer than the rows of a domain in a batch.
        temperature: of the prediction's softmax.
        epsilon: the Sinkhorn regularisation; smaller gives harder targets.
        iterations: of the Sinkhorn-Knopp algorithm.

    Raises:
        ValueError: a setting that is not above 0, a number that is not whole.
    """

    def __init__(
        self,
        dim: int,
        num_domains: int,
        num_prototypes: int = 64,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
    ) -> None:
        super().__init__()
        require_positive(temperature=temperature, epsilon=epsilon)
        require_whole(num_prototypes=num_prototypes, iterations=iterations)
        self.temperature = temperature
        self.epsilon = epsilon
        self.iterations = iterations
        self.prototypes = nn.Parameter(torch.randn(num_prototypes, dim) / math.sqrt(dim))

    @torch.no_grad()
    def targets(self, scores: Tensor, one_hot: Tensor) -> Tensor:
        """Sinkhorn-Knopp inside each domain.

        Args:
            scores: cosine of each row with each prototype, shape (N, C).
            one_hot: domains of the rows, shape (N, K).

        Returns:
            Tensor of shape (N, C); rows sum to 1. Rows of unknown domain are zero.
        """
        known = one_hot.sum(1, keepdim=True)
        # Cosines are at most 1: the shift cancels in the first step and keeps exp from overflowing.
        q = known * ((scores - 1) / self.epsilon).exp()
        tiny = torch.finfo(q.dtype).tiny
        for _ in range(self.iterations):
            q = q / (one_hot @ (one_hot.T @ q)).clamp_min(tiny)
            q = q / q.sum(1, keepdim=True).clamp_min(tiny)
        return q

    def forward(self, features: Tensor, batch: DomainBatch) -> Tensor:
        """The term, shape (), of standardised features, shape (M, dim)."""
        hidden = directions(features)
        scores = hidden @ F.normalize(self.prototypes.to(hidden.dtype), dim=1).T
        log_p = (scores / self.temperature).log_softmax(1)
        views, rows = batch.num_views, len(scores) // batch.num_views
        targets = torch.stack(
            [
                self.targets(part, one_hot)
                for part, one_hot in zip(scores.split(rows), batch.one_hot.split(rows), strict=True)
            ]
        )
        if views > 1:
            targets = (targets.sum(0, keepdim=True) - targets) / (views - 1)
        return -(batch.weights[:, None] * targets.flatten(0, 1) * log_p).sum()


class InstanceInvariance(nn.Module):
    """Each sample is told apart from the other samples of its own domain, and from no others.

    Instance discrimination within domains: what is the same all over a domain tells none of its
    samples apart, so the portion has nothing to gain from it. The idea is that of domain-aware
    negatives (DARLING, Zhang et al., 2022, arXiv 2107.06219; BrAD, Harary et al., 2022, arXiv
    2112.02300); here it is a term of its own beside any self-supervised loss, on the features
    themselves and without a projection head. Rows are standardised by the mean and deviation of
    their own domain in the batch. The loss of a row z, with the rows P of its sample's other views:

        -mean over p in P of log(exp(z p / t) / sum_k exp(z k / t)),

    where k runs over all other rows of its domain: NT-Xent (Chen et al., 2020, arXiv 2002.05709)
    for two views, as in supervised contrastive learning (Khosla et al., 2020, arXiv 2004.11362,
    equation 2) for more. Domains are never compared, so that their classes may be shared or not.
    The term is the mean over samples of known domain, not over domains: else a few samples that
    discovery parts from the rest, told apart from few others, would have the say of hundreds.

    Each domain needs several samples a batch: with many domains few share one, there is little to
    tell apart, and the term fades. Sample by domain then, or merge domains. With two
    views, a domain with a single sample in the batch gives zero.

    Args:
        temperature: t, of the cosine softmax.

    Raises:
        ValueError: a temperature that is not above 0.
    """

    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__()
        require_positive(temperature=temperature)
        self.temperature = temperature

    def forward(self, features: Tensor, batch: DomainBatch) -> Tensor:
        """The term, shape (), of standardised features, shape (M, dim).

        Raises:
            ValueError: a single view of each sample, which leaves nothing to attract.
        """
        views = batch.num_views
        if views < 2:
            raise ValueError(
                "invariance='instances' needs two views of each sample at least: give the features "
                "as (V, N, D), such as torch.stack([h_1, h_2]); or choose invariance='coral'"
            )
        rows = directions(standardize_within(features, batch))
        sample = torch.arange(len(rows), device=rows.device)
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        other = batch.one_hot @ batch.one_hot.T < 0.5
        log_p = (rows @ rows.T / self.temperature).masked_fill(itself | other, -1e4).log_softmax(1)
        loss = rows.new_zeros(len(rows))
        for shift in range(1, views):
            partner = sample.roll(shift * (len(rows) // views))
            loss = loss - log_p.gather(1, partner[:, None])[:, 0] / (views - 1)
        # Samples weigh the same, not domains: of a small domain few are told apart, from few.
        known = batch.several * batch.one_hot.sum(1)
        return (known * loss).sum() / known.sum().clamp_min(1)


class NeighbourInvariance(nn.Module):
    """A row and its mutual nearest neighbour in another domain attract each other.

    Nearest-neighbour positives as in NNCLR (Dwibedi et al., 2021, arXiv 2104.14548), but from
    another domain, and mutual ones only. A memory holds the directions of past rows, each
    standardised by the mean and deviation of its own domain in its batch, so that a domain's own
    place and scale do not decide who is near. The neighbour of a sample is the entry of any other
    domain that is most similar to it; it counts if, seen from there, fewer than ``mutual`` entries
    of the sample's own domain are nearer. Each view of the sample is then to pick its neighbour
    among all entries of the neighbour's domain, by cosine softmax: within one domain, the domain
    helps in nothing.

    Nothing is forced: samples without a mutual neighbour, as on domains with disjoint classes,
    count as zero. So do all until the memory is full.

    Args:
        dim: width of the invariant portion.
        memory: how many past samples are held; fewer than the data set has, so that it is full
            within an epoch.
        mutual: how near the sample must be among its own domain, seen from its neighbour.
        temperature: of the cosine softmax.

    Raises:
        ValueError: a temperature that is not above 0, a number that is not whole.
    """

    entries: Tensor
    entry_domains: Tensor
    position: Tensor

    def __init__(
        self, dim: int, memory: int = 4096, mutual: int = 3, temperature: float = 0.1
    ) -> None:
        super().__init__()
        require_positive(temperature=temperature)
        require_whole(memory=memory, mutual=mutual)
        self.mutual = mutual
        self.temperature = temperature
        self.register_buffer("entries", torch.zeros(memory, dim))
        self.register_buffer("entry_domains", torch.full((memory,), -1))
        # How many rows were ever entered; the next one goes to its remainder.
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def remember(self, rows: Tensor, domains: Tensor) -> None:
        """Enter rows, shape (N, dim), in place of the oldest; unknown ones match nobody."""
        size = len(self.entries)
        rows, domains = rows[-size:], domains[-size:]
        place = (self.position + torch.arange(len(rows), device=rows.device)) % size
        self.entries[place] = rows.to(self.entries.dtype)
        self.entry_domains[place] = domains
        self.position += len(rows)

    @torch.no_grad()
    def neighbours(self, rows: Tensor, domains: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest entry of another domain, and whether it is mutual.

        Args:
            rows: directions, shape (N, dim).
            domains: of the rows, -1 for unknown, shape (N,).

        Returns:
            Index of the entry, shape (N,), and 1 or 0, shape (N,).
        """
        entries, theirs = self.entries.to(rows.dtype), self.entry_domains
        no_match = (domains[:, None] == theirs) | (domains[:, None] < 0) | (theirs < 0)
        similarity = (rows @ entries.T).masked_fill(no_match, -2.0)
        value, nearest = similarity.max(1)
        back = (entries[nearest] @ entries.T).masked_fill(domains[:, None] != theirs, -2.0)
        nearer = (back > value[:, None]).sum(1)
        full = self.position >= len(entries)
        return nearest, ((value > -2) & (nearer < self.mutual) & full).to(rows.dtype)

    def forward(self, features: Tensor, batch: DomainBatch) -> Tensor:
        """The term, shape (), of standardised features, shape (M, dim)."""
        views = directions(standardize_within(features, batch))
        of_sample = views.detach().view(batch.num_views, -1, views.shape[1])
        sample = F.normalize(of_sample.mean(0), dim=1, eps=1e-2)
        # A domain with a single sample in the batch is its own mean, and a batch of one domain was
        # not standardised: nothing is left to compare.
        tells = batch.several * (batch.counts > batch.num_views)
        one_hot = batch.one_hot[: len(sample)] * tells
        domains = torch.where(one_hot.sum(1) > 0, one_hot.argmax(1), -1)
        nearest, found = self.neighbours(sample, domains)
        # A copy: the memory changes before this call's backward.
        entries, theirs = self.entries.to(views.dtype, copy=True), self.entry_domains
        nearest, found = nearest.repeat(batch.num_views), found.repeat(batch.num_views)
        other = theirs[nearest][:, None] != theirs
        logits = (views @ entries.T / self.temperature).masked_fill(other, -1e4)
        if self.training:
            self.remember(sample, domains)
        return (batch.weights * found * F.cross_entropy(logits, nearest, reduction="none")).sum()
