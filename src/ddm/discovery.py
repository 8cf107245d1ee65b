"""Pseudo-domains: robust clustering finds the domains that nobody labelled.

Features of style are brought into a space where what varies inside an image (content) is noise of
unit size; several clusterings of it vote. How many domains there are is the number on which
different clusterings agree best. The paper's own procedure is not public; this one is ours.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, cohen_kappa_score, silhouette_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from ddm.domains import UNKNOWN, DomainTable
from ddm.errors import DdmError
from ddm.style import StyleFeatures

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Numbers of domains that are tried where none is given.
NUM_DOMAINS = (2, 8)
#: Dimensions of the space; clusterings see its first 4, 8 or all 16.
DIMENSIONS = (4, 8, 16)
#: A number of domains is believed from this score on; below it all images are one domain. Single
#: domains of emoji and digits score up to 0.37, several of them together from 0.44 on
#: (benchmarks/discovery.py).
BELIEVED = 0.40
#: The largest number of domains whose score comes this close to the best one is chosen.
NEARLY = 0.85
#: How many deviations (from the median, on a log scale) from its domain make an image an outlier.
FAR = 4.0
#: Samples that clusterings are fitted to, however many there are.
FIT_SAMPLES = 20_000
#: Samples that one of the clusterings is fitted to.
ONE_FIT = 5_000
#: Samples that silhouettes, which grow with their square, are taken over.
SILHOUETTE_SAMPLES = 2_000
#: Whether a sample is alone is seen at its tenth neighbour, among at most so many samples.
NEIGHBOUR, NEIGHBOURS_AMONG = 10, 2_000
#: Rows at a time, where there may be millions.
CHUNK = 65_536
#: Domains that less than this share of the halves of images agree on follow content, not style.
HALVES_AGREE = 0.5


@dataclass(frozen=True)
class Candidate:
    """A number of domains that was tried.

    Args:
        num_domains: the number.
        agreement: of different clusterings of different parts of the data, the mean adjusted Rand
            index of each pair.
        silhouette: how well apart the clusters lie, in [-1, 1].
    """

    num_domains: int
    agreement: float
    silhouette: float

    @property
    def score(self) -> float:
        """Agreement times silhouette, zero where either is negative."""
        return max(0.0, self.agreement) * max(0.0, self.silhouette)


@dataclass(frozen=True)
class Discovery:
    """Domains that were found.

    Args:
        domains: of each sample, shape (N,), the largest domain first; -1 for outliers.
        confidence: share of the clusterings that put the sample there, shape (N,), in [0, 1].
        num_domains: how many there are.
        candidates: the numbers that were tried, in rising order; empty where none was to choose.
        agreement: of the clusterings, as in :class:`Candidate`; 1 for a single domain.
        halves: Cohen's kappa between the domains that the two halves of an image would get;
            None where features of halves were not given.
        space: the samples in the space that was clustered, shape (N, d).
    """

    domains: Ints
    confidence: NDArray[np.float32]
    num_domains: int
    candidates: tuple[Candidate, ...]
    agreement: float
    halves: float | None
    space: NDArray[np.float32]

    @property
    def follows_content(self) -> bool:
        """Whether the halves of an image disagree, which style would not."""
        return self.halves is not None and self.halves < HALVES_AGREE

    def table(self) -> DomainTable:
        """Sample -> domain, named ``domain-0``, ``domain-1`` ..."""
        return DomainTable(self.domains, pseudo_names(self.num_domains), self.confidence)


def pseudo_names(num_domains: int) -> tuple[str, ...]:
    """What discovered domains are called."""
    return tuple(f"domain-{i}" for i in range(num_domains))


def discover_domains(
    features: StyleFeatures | NDArray[Any],
    num_domains: int | tuple[int, int] | None = None,
    seed: int = 0,
    previous: Ints | None = None,
) -> Discovery:
    """Find domains without labels.

    The order of the samples does not matter: they are worked on in the order of a hash of their
    features. Time and memory grow linearly with their number.

    Args:
        features: of style (:func:`ddm.style.style_features`), or any array of shape (N, D), such as
            the domain-variant portion of an encoder's features.
        num_domains: how many; or (least, most) to choose from, 2 to 8 by default. Where it is to be
            chosen and nothing speaks for several, the answer is one domain.
        seed: of the clusterings.
        previous: domains so far, shape (N,), -1 for unknown: features that are no statistics of
            style are then looked at along the directions in which these domains differ.

    Raises:
        DdmError: fewer samples than domains, features that are not finite or do not vary.

    Example:
        >>> found = discover_domains(style_features(dataset))
        >>> found.num_domains, found.domains[:3], found.confidence[:3]
    """
    whole = features.whole if isinstance(features, StyleFeatures) else features
    numbers = _numbers(num_domains)
    _check(whole, max(numbers) if len(numbers) == 1 else 2)
    numbers = [k for k in numbers if k <= len(whole) // 2] or numbers[:1]
    order = _canonical_order(whole)
    fitted = order[:FIT_SAMPLES]
    space, halves = _embed(features, fitted, previous)
    # What lies far from everything would bend the space and take clusters of its own: a second
    # time without it.
    fitted = fitted[_not_alone(space[fitted])]
    space, halves = _embed(features, fitted, previous)
    x = space[fitted]
    start = None
    if previous is not None and halves is None:
        so_far = previous[fitted]
        start = [x[so_far == k].mean(0) for k in np.unique(so_far[so_far != UNKNOWN])]
    candidates: list[Candidate] = []
    ensembles: dict[int, _Ensemble] = {}
    for k in numbers:
        ensembles[k] = _Ensemble.fit(x, k, seed, start)
        candidates.append(ensembles[k].rate(x))
    chosen = _choose(candidates)
    if len(numbers) == 1:
        chosen = numbers[0]
    if chosen == 1:
        n = len(whole)
        ones = np.ones(n, np.float32)
        return Discovery(np.zeros(n, np.int64), ones, 1, tuple(candidates), 1.0, None, space)
    ensemble = ensembles[chosen]
    votes = ensemble.vote(space)
    labels, confidence = votes.argmax(1), votes.max(1).astype(np.float32)
    # By size, so that a name does not hang on which cluster was found first; a tie by the place in
    # the space.
    sizes = np.bincount(labels, minlength=chosen)
    first = np.array([space[labels == k, 0].mean() if sizes[k] else 0 for k in range(chosen)])
    rank = np.empty(chosen, np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(chosen)
    kappa = None if halves is None else _halves_kappa(ensemble, halves)
    labels = rank[labels]
    outlier = _outliers(space, labels, chosen, fitted)
    labels[outlier] = UNKNOWN
    confidence[outlier] = 0
    agreement = next(c.agreement for c in candidates if c.num_domains == chosen)
    tried = tuple(candidates) if len(numbers) > 1 else ()
    return Discovery(labels, confidence, chosen, tried, agreement, kappa, space)


def _numbers(num_domains: int | tuple[int, int] | None) -> list[int]:
    low, high = (
        NUM_DOMAINS
        if num_domains is None
        else (num_domains if isinstance(num_domains, tuple) else (int(num_domains),) * 2)
    )
    if not 2 <= low <= high:
        raise DdmError(f"num_domains={num_domains}: give a number from 2 on, or (least, most)")
    return list(range(low, high + 1))


def _check(x: NDArray[Any], num_domains: int) -> None:
    if x.ndim != 2:
        raise DdmError(f"features must have shape (N, D), not {x.shape}")
    if len(x) < 2 * num_domains:
        raise DdmError(
            f"{len(x)} image(s) are too few to find {num_domains} domains in: two a domain at "
            "least; add images, or look for fewer"
        )
    varies = False
    for start in range(0, len(x), CHUNK):
        part = np.asarray(x[start : start + CHUNK])
        bad = ~np.isfinite(part).all(1)
        if bad.any():
            raise DdmError(
                f"features of sample {start + int(bad.argmax())} are not finite, and of "
                f"{int(bad.sum())} in all near it; the encoder has diverged, or the file is damaged"
            )
        varies |= bool((part != x[0]).any())
    if not varies:
        raise DdmError(f"all {len(x)} images have the very same features: there is nothing to find")


def _canonical_order(x: NDArray[Any]) -> Ints:
    """An order that hangs on the features alone, and is as good as random."""
    keys = np.fromiter(
        (
            int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "big")
            for start in range(0, len(x), CHUNK)
            for row in np.ascontiguousarray(x[start : start + CHUNK])
        ),
        np.uint64,
        len(x),
    )
    return np.argsort(keys, kind="stable").astype(np.int64)


def _embed(
    features: StyleFeatures | NDArray[Any], fitted: Ints, previous: Ints | None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Samples, and their halves, in the space that is clustered: (N, d) and (N, 4, d).

    Features of style: the directions in which images differ most, compared with how much the halves
    of one image do (a generalised eigenvalue problem, as in linear discriminant analysis with each
    image for a class; Hatch et al., 2006, call it within-class covariance normalisation). Other
    features: those in which the previous domains differ most, compared with how much samples of one
    domain do; without previous domains, principal components of the standardised ones.
    """
    whole = features.whole if isinstance(features, StyleFeatures) else features
    x = np.asarray(whole[fitted], np.float64)
    mean = x.mean(0)
    total = np.cov(x.T).reshape(len(mean), len(mean))
    if isinstance(features, StyleFeatures):
        left, right, upper, lower = features.halves[fitted].transpose(1, 0, 2)
        differences = np.concatenate([left - right, upper - lower]).astype(np.float64)
        noise = differences.T @ differences / (2 * len(differences))
        # Statistics that hardly vary within images would else outweigh all others.
        noise += 0.1 * max(np.trace(noise), 1e-12) / len(noise) * np.eye(len(noise))
        _, vectors = eigh(total, noise)
        count = max(DIMENSIONS)
    elif previous is not None and len(np.unique(known := previous[fitted])) > 1:
        one_hot = known[:, None] == np.unique(known[known != UNKNOWN])
        rows = one_hot.any(1)
        means = (one_hot.T @ x) / one_hot.sum(0)[:, None]
        within = x[rows] - one_hot[rows] @ means
        noise = within.T @ within / rows.sum()
        noise += 0.01 * max(np.trace(noise), 1e-12) / len(noise) * np.eye(len(noise))
        _, vectors = eigh(total, noise)
        count = max(1, one_hot.shape[1] - 1)
    else:
        count = max(DIMENSIONS)
        scale = 1 / np.sqrt(np.maximum(np.diag(total), 1e-12))
        scale[np.diag(total) < 1e-12] = 0
        _, vectors = np.linalg.eigh(total * np.outer(scale, scale))
        vectors = scale[:, None] * vectors
    basis = vectors[:, ::-1][:, :count]
    # The sign of an eigenvector is arbitrary, but must not hang on the machine.
    basis = basis * np.sign(basis[np.abs(basis).argmax(0), np.arange(basis.shape[1])])
    space = np.empty((len(whole), basis.shape[1]), np.float32)
    for start in range(0, len(whole), CHUNK):
        rows = slice(start, start + CHUNK)
        space[rows] = (np.asarray(whole[rows], np.float64) - mean) @ basis
    if not isinstance(features, StyleFeatures):
        return space, None
    of_halves = features.halves[fitted].astype(np.float64)
    placed = (of_halves - of_halves.mean((0, 1))) @ basis
    return space, placed.astype(np.float32)


def _not_alone(x: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Samples that have others near them: their tenth neighbour is not much farther than usual.

    Neighbours are looked for among the first samples only, which are as good as random ones.
    """
    reference = x[:NEIGHBOURS_AMONG]
    if len(reference) <= 2 * NEIGHBOUR:
        return np.ones(len(x), bool)
    nearest = NearestNeighbors(n_neighbors=NEIGHBOUR).fit(reference)
    distance = np.log(nearest.kneighbors(x)[0][:, -1] + 1e-12)
    middle = np.median(distance)
    deviation = max(1.4826 * float(np.median(np.abs(distance - middle))), 0.1)
    near: NDArray[np.bool_] = distance <= middle + FAR * deviation
    return near


@dataclass(frozen=True)
class _Ensemble:
    """Several clusterings into the same number of clusters, which vote.

    k-means and Gaussian mixtures, in spaces of several dimensions, each fitted to another part of
    the samples: what they agree on hangs on none of these choices.
    """

    models: Sequence[Any]
    dimensions: Sequence[int]
    matches: Sequence[Ints]
    num_domains: int
    agreement: float

    @classmethod
    def fit(
        cls,
        x: NDArray[np.float32],
        num_domains: int,
        seed: int,
        start: Sequence[NDArray[np.float32]] | None = None,
    ) -> _Ensemble:
        """Fit the clusterings, from centres to start with if there is one for each domain."""
        models: list[Any] = []
        dimensions: list[int] = []
        size = min(ONE_FIT, max(2 * num_domains, len(x) * 7 // 10))
        rng = np.random.default_rng([seed, num_domains])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            for dims in DIMENSIONS:
                for repeat in range(2):
                    part = np.sort(rng.permutation(len(x))[:size])
                    chosen = np.ascontiguousarray(x[part, :dims], np.float64)
                    state = int(rng.integers(1 << 31))
                    means = None
                    kmeans = KMeans(num_domains, n_init=2, random_state=state)
                    if start is not None and len(start) == num_domains:
                        means = np.stack(start)[:, :dims].astype(np.float64)
                        kmeans.set_params(init=means, n_init=1)
                    kmeans.fit(chosen)
                    if means is None and repeat:
                        means = kmeans.cluster_centers_
                    mixture = GaussianMixture(
                        num_domains,
                        reg_covar=1e-3 * float(chosen.var(0).mean()) + 1e-9,
                        means_init=means,
                        init_params="k-means++",
                        random_state=state,
                    ).fit(chosen)
                    models += [kmeans, mixture]
                    dimensions += [dims, dims]
        answers = [_predict(m, x, d) for m, d in zip(models, dimensions, strict=True)]
        pairs = np.eye(len(models))
        for i in range(len(models)):
            for j in range(i):
                pairs[i, j] = pairs[j, i] = adjusted_rand_score(answers[i], answers[j])
        # The one that the others agree with most gives the clusters their numbers.
        reference = answers[int(pairs.sum(0).argmax())]
        matches = [match_domains(a, reference, num_domains) for a in answers]
        others = len(models) * (len(models) - 1)
        agreement = float((pairs.sum() - len(models)) / others)
        return cls(models, dimensions, matches, num_domains, agreement)

    def vote(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Share of the votes that each domain gets, shape (len(x), K).

        A mixture gives its posterior, k-means its whole vote.
        """
        votes = np.zeros((len(x), self.num_domains))
        for start in range(0, len(x), CHUNK):
            part = x[start : start + CHUNK]
            of_part = votes[start : start + CHUNK]
            for model, dims, match in zip(self.models, self.dimensions, self.matches, strict=True):
                seen = np.ascontiguousarray(part[:, :dims], np.float64)
                if isinstance(model, GaussianMixture):
                    of_part[:, match] += model.predict_proba(seen)
                else:
                    of_part[np.arange(len(part)), match[model.predict(seen)]] += 1
        return votes / len(self.models)

    def rate(self, x: NDArray[np.float32]) -> Candidate:
        x = x[:SILHOUETTE_SAMPLES]
        labels = self.vote(x).argmax(1)
        several = 1 < len(np.unique(labels)) < len(x)
        apart = float(silhouette_score(x[:, : DIMENSIONS[0]], labels)) if several else 0.0
        return Candidate(self.num_domains, self.agreement, apart)


def _predict(model: Any, x: NDArray[np.float32], dims: int) -> Ints:
    answer: Ints = model.predict(np.ascontiguousarray(x[:, :dims], np.float64))
    return answer


def _choose(candidates: Sequence[Candidate]) -> int:
    best = max(c.score for c in candidates)
    if best < BELIEVED:
        return 1
    return max(c.num_domains for c in candidates if c.score >= NEARLY * best)


def _halves_kappa(ensemble: _Ensemble, halves: NDArray[np.float32]) -> float:
    left, right, upper, lower = (ensemble.vote(halves[:, i]).argmax(1) for i in range(4))
    with np.errstate(invalid="ignore"):
        kappas = [cohen_kappa_score(left, right), cohen_kappa_score(upper, lower)]
    return float(np.nan_to_num(np.mean(kappas)))


def _outliers(
    space: NDArray[np.float32], labels: Ints, num_domains: int, fitted: Ints
) -> NDArray[np.bool_]:
    """Samples that lie much farther from their domain than its samples usually do."""
    outlier = np.zeros(len(space), bool)
    for k in range(num_domains):
        mine = np.flatnonzero(labels == k)
        known = fitted[labels[fitted] == k]
        if len(known) < 8:  # No telling what is usual.
            continue
        x = space[known].astype(np.float64)
        centre = np.median(x, 0)
        # Deviations that outliers do not widen; with a floor, for what hardly varies at all.
        spread = 1.4826 * np.median(np.abs(x - centre), 0)
        spread = np.maximum(spread, 1e-3 * space[fitted].std(0) + 1e-12)
        distance = np.log(np.sqrt((((space[mine] - centre) / spread) ** 2).mean(1)) + 1e-12)
        usual = distance if len(mine) == len(known) else distance[np.isin(mine, known)]
        middle = np.median(usual)
        deviation = max(1.4826 * float(np.median(np.abs(usual - middle))), 0.1)
        outlier[mine] = distance > middle + FAR * deviation
    return outlier


# --- during pre-training -------------------------------------------------------------------------


def match_domains(new: Ints, old: Ints, num_domains: int) -> Ints:
    """Which old domain each new one is: the assignment with the most samples in common.

    Hungarian algorithm (Kuhn, 1955).

    Args:
        new: domain of each sample, shape (N,); -1 takes no part.
        old: the same before.
        num_domains: K, of both.

    Returns:
        Array of shape (K,): ``match[new domain]`` is the old one.
    """
    both = (new != UNKNOWN) & (old != UNKNOWN)
    common = np.zeros((num_domains, num_domains))
    np.add.at(common, (new[both], old[both]), 1)
    rows, columns = linear_sum_assignment(-common)
    match = np.empty(num_domains, np.int64)
    match[rows] = columns
    return match


def damp_changes(old: DomainTable, found: Discovery, sure: float = 0.8) -> DomainTable:
    """The next domain table: a sample moves only to a domain that is sure of it.

    Args:
        old: the table so far.
        found: the same samples clustered anew, into as many domains.
        sure: confidence from which on a sample moves. One below it stays where it is; one that was
            unknown stays unknown.
    """
    match = match_domains(found.domains, old.index, old.num_domains)
    known = found.domains != UNKNOWN
    moved = known & (found.confidence >= sure)
    index = old.index.copy()
    index[moved] = match[found.domains[moved]]
    confidence = np.where(moved, found.confidence, old.confidence).astype(np.float32)
    return DomainTable(index, old.names, confidence)
