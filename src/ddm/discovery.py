"""Pseudo-domains: robust clustering finds the domains that nobody labelled.

Features of style are brought into a space where what varies inside an image (content) is noise of
unit size; several clusterings of it vote. How many domains there are is the number on which the
clusterings agree best and whose clusters lie best apart. The paper's own procedure is not public;
this one is ours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, qr
from scipy.optimize import linear_sum_assignment
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from sklearn.metrics import adjusted_rand_score, cohen_kappa_score, silhouette_score
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors, kneighbors_graph

from ddm.domains import UNKNOWN, DomainTable
from ddm.errors import DdmError
from ddm.style import StyleFeatures

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Numbers of domains that are tried where none is given.
NUM_DOMAINS = (2, 8)
#: Dimensions of the space; clusterings see its first 8 or all 16.
DIMENSIONS = (8, 16)
#: Neighbours in the graphs that are cut.
GRAPH_NEIGHBOURS = (10, 20, 30)
#: What the faint edges that join every sample to all others weigh, as a share of all others.
FAINT = 0.001
#: Neighbours whose clusters tell a sample's own, at most.
NEAREST = 15
#: Images are of several domains from this separation of their styles on (see :func:`_separation`).
#: Chosen between single domains of emoji and of digits, up to 44, and all of either together, 83
#: and more (benchmarks/discovery.py).
SEPARATED = 50.0
#: Features that are no statistics of style have no such unit: from this score on.
BELIEVED = 0.40
#: How many deviations (from the median, on a log scale) from its domain make an image an outlier.
FAR = 4.0
#: Samples that clusterings are fitted to, however many there are.
FIT_SAMPLES = 10_000
#: Samples that one of the clusterings is fitted to.
ONE_FIT = 3_000
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
        confidence: share of the votes that put the sample there, those of its neighbours in each
            clustering; shape (N,), in [0, 1].
        num_domains: how many there are.
        candidates: the numbers that were tried, in rising order; empty where none was to choose.
        agreement: of the clusterings, as in :class:`Candidate`; 1 for a single domain.
        halves: Cohen's kappa between the domains that the two halves of an image would get;
            None where features of halves were not given, or all would get the same.
        separation: how far styles lie apart, for one domain against several; None for features
            that are no statistics of style.
        space: the samples in the space that was clustered, shape (N, d).
    """

    domains: Ints
    confidence: NDArray[np.float32]
    num_domains: int
    candidates: tuple[Candidate, ...]
    agreement: float
    halves: float | None
    separation: float | None
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

    Neither the order of the samples nor how often each is there matters: different ones are worked
    on in the order of a hash of their features. Time and memory grow linearly with their number.

    Args:
        features: of style (:func:`ddm.style.style_features`), or any array of shape (N, D), such as
            the domain-variant portion of an encoder's features.
        num_domains: how many; or (least, most) to choose from. By default 2 to 8, and where
            nothing speaks for several the answer is one domain.
        seed: of the clusterings.
        previous: domains so far, shape (N,), -1 for unknown: features that are no statistics of
            style are then looked at along the directions in which these domains differ.

    Raises:
        DdmError: fewer different samples than two a domain, features that are not finite or
            hardly vary, fewer domains with samples than asked for.

    Example:
        >>> found = discover_domains(style_features(dataset))
        >>> found.num_domains, found.domains[:3], found.confidence[:3]
    """
    whole = features.whole if isinstance(features, StyleFeatures) else features
    numbers = _numbers(num_domains)
    if previous is not None and previous.shape != (len(whole),):
        raise DdmError(f"previous has shape {previous.shape}, but there are {len(whole)} samples")
    _check(whole)
    distinct = _distinct(features)
    if len(distinct) < 2 * numbers[0]:
        raise DdmError(
            f"{len(distinct)} different image(s) are too few to find {numbers[0]} domains in: two "
            "a domain at least; add images, or look for fewer"
        )
    numbers = [k for k in numbers if 2 * k <= len(distinct)]
    try:
        return _discover(features, distinct, numbers, num_domains is None, seed, previous)
    except (ArpackError, np.linalg.LinAlgError) as error:
        raise DdmError(
            f"the features of the images hardly differ, or differ by too much, to be clustered "
            f"({' '.join(str(error).split())})"
        ) from None


def _discover(
    features: StyleFeatures | NDArray[Any],
    distinct: Ints,
    numbers: list[int],
    maybe_one: bool,
    seed: int,
    previous: Ints | None,
) -> Discovery:
    fitted = distinct[:FIT_SAMPLES]
    space, halves = _embed(features, fitted, previous)
    # What lies far from everything would bend the space and take clusters of its own: a second
    # time without it.
    fitted = fitted[_not_alone(space[fitted])]
    space, halves = _embed(features, fitted, previous)
    x = space[fitted]
    if not np.isfinite(space).all() or not (x.std(0) > 1e-6).any():
        raise np.linalg.LinAlgError("no direction in which they differ")
    # As many vectors whatever is asked for: a number found and the same one given agree.
    ensemble = _Ensemble(x, max(*numbers, NUM_DOMAINS[1]), seed)
    candidates = [ensemble.rate(k) for k in numbers]
    best = max(candidates, key=lambda c: c.score)
    separation = None if halves is None else _separation(x)
    several = best.score >= BELIEVED if separation is None else separation >= SEPARATED
    chosen = best.num_domains if several or not maybe_one else 1
    n = len(space)
    if chosen == 1:
        ones = np.ones(n, np.float32)
        zeros = np.zeros(n, np.int64)
        return Discovery(zeros, ones, 1, tuple(candidates), 1.0, None, separation, space)
    spread = _Spread(x, ensemble.votes(chosen)[0])
    votes = spread(space)
    labels, confidence = votes.argmax(1), votes.max(1)
    # The votes can leave a cluster of one of the clusterings to none.
    present, labels = np.unique(labels, return_inverse=True)
    if len(present) < chosen and len(numbers) == 1:
        raise DdmError(f"only {len(present)} of {chosen} domains have images; look for fewer")
    agreement = next(c.agreement for c in candidates if c.num_domains == chosen)
    chosen = len(present)
    # By size, so that a name does not hang on which cluster was found first; a tie by the place in
    # the space.
    sizes = np.bincount(labels, minlength=chosen)
    first = np.array([space[labels == k, 0].mean() for k in range(chosen)])
    rank = np.empty(chosen, np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(chosen)
    kappa = None if halves is None else _halves_kappa(spread, halves)
    labels = rank[labels]
    outlier = _outliers(space, labels, chosen, fitted)
    labels[outlier] = UNKNOWN
    confidence[outlier] = 0
    tried = tuple(candidates) if len(candidates) > 1 else ()
    return Discovery(labels, confidence, chosen, tried, agreement, kappa, separation, space)


def _numbers(num_domains: int | tuple[int, int] | None) -> list[int]:
    if num_domains is None:
        num_domains = NUM_DOMAINS
    low, high = num_domains if isinstance(num_domains, tuple) else (num_domains, num_domains)
    if not 2 <= low <= high:
        raise DdmError(f"num_domains={num_domains}: give a number from 2 on, or (least, most)")
    return list(range(int(low), int(high) + 1))


def _check(x: NDArray[Any]) -> None:
    if x.ndim != 2:
        raise DdmError(f"features must have shape (N, D), not {x.shape}")
    for start in range(0, len(x), CHUNK):
        bad = ~np.isfinite(np.asarray(x[start : start + CHUNK])).all(1)
        if bad.any():
            raise DdmError(
                f"features of sample {start + int(bad.argmax())} are not finite, and of "
                f"{int(bad.sum())} in all near it; the encoder has diverged, or the file is damaged"
            )


def _distinct(features: StyleFeatures | NDArray[Any]) -> Ints:
    """Samples that differ, one of each kind, in the order of a hash of their features.

    The order hangs on the features alone, and is as good as random. Copies add nothing to what can
    be found, and many of one image would be a cluster.
    """
    parts: list[NDArray[Any]] = (
        [features.whole, features.halves] if isinstance(features, StyleFeatures) else [features]
    )
    keys = np.empty(len(parts[0]), np.uint64)
    for start in range(0, len(keys), CHUNK):
        chunk = [np.ascontiguousarray(part[start : start + CHUNK]) for part in parts]
        for i, rows in enumerate(zip(*chunk, strict=True)):
            digest = hashlib.blake2b(b"".join(row.tobytes() for row in rows), digest_size=8)
            keys[start + i] = int.from_bytes(digest.digest(), "big")
    return np.unique(keys, return_index=True)[1].astype(np.int64)


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
class _Member:
    """One spectral clustering, into any number of clusters.

    Args:
        samples: which samples it was fitted to, shape (n,).
        vectors: leading eigenvectors of the normalised graph of neighbours, shape (n, V).
    """

    samples: Ints
    vectors: Floats

    @classmethod
    def fit(
        cls, x: NDArray[np.float32], dims: int, neighbours: int, count: int, seed: int
    ) -> _Member:
        """Fit to a part of the samples."""
        size = min(ONE_FIT, max(2 * count, len(x) * 4 // 5), len(x))
        rng = np.random.default_rng([seed, dims, neighbours])
        samples = np.sort(rng.permutation(len(x))[:size])
        part = np.ascontiguousarray(x[samples, :dims], np.float64)
        graph = kneighbors_graph(part, min(neighbours, size - 1), mode="connectivity")
        graph = (graph + graph.T) / 2
        # Faint edges between any two, the fainter the farther apart: else a handful of samples that
        # only know each other would be a cluster (Amini et al., 2013, arXiv 1207.2340), and which
        # parts of a graph in several parts belong together would be left to chance.
        faint = euclidean_distances(part, squared=True)
        faint = np.exp(-faint / faint.mean()).astype(np.float32)
        faint *= FAINT * graph.sum() / faint.sum()
        scale = 1 / np.sqrt(np.asarray(graph.sum(1)).ravel() + faint.sum(1))

        def times(v: Floats) -> Floats:
            scaled = scale * v.ravel()
            joined: Floats = scale * (graph @ scaled + faint @ scaled.astype(np.float32))
            return joined

        operator = LinearOperator((size, size), matvec=times, dtype=np.float64)
        count = min(count, size - 1)
        _, vectors = eigsh(operator, count, which="LA", v0=rng.random(size), tol=1e-6)
        return cls(samples, vectors[:, ::-1])

    def clusters(self, num_clusters: int, neighbours: Ints) -> Ints:
        """The cluster of every sample: that of most of its neighbours among the fitted ones.

        Samples that are the same are thus in the same cluster, whichever of them was fitted to.
        Column-pivoted QR of the eigenvectors (Damle, Minden & Ying, 2019, arXiv 1609.08251), which
        needs no starting point.

        Args:
            num_clusters: K.
            neighbours: nearest of the fitted samples for each sample, shape (N, NEAREST).
        """
        vectors = self.vectors[:, :num_clusters]
        _, _, pivots = qr(vectors.T, pivoting=True, mode="economic")
        left, _, right = np.linalg.svd(vectors[pivots[:num_clusters]].T)
        labels = np.abs(vectors @ (left @ right)).argmax(1)
        votes = np.eye(num_clusters, dtype=np.float32)[labels][neighbours].sum(1)
        answer: Ints = votes.argmax(1)
        return answer


class _Ensemble:
    """Several clusterings of the same samples, which vote.

    Spectral clusterings in spaces of several dimensions, of graphs with fewer and more neighbours,
    each fitted to another part of the samples: what they agree on hangs on none of these choices.
    Clusters may be of any shape and size.
    """

    def __init__(self, x: NDArray[np.float32], count: int, seed: int) -> None:
        self.x = x
        self.members: list[tuple[_Member, Ints]] = []
        for dims, neighbours in product(DIMENSIONS, GRAPH_NEIGHBOURS):
            member = _Member.fit(x, dims, neighbours, count, seed)
            among = NearestNeighbors(n_neighbors=_nearest(len(member.samples)))
            among.fit(np.ascontiguousarray(x[member.samples, :dims]))
            near = among.kneighbors(np.ascontiguousarray(x[:, :dims]), return_distance=False)
            self.members.append((member, near))

    def votes(self, num_domains: int) -> tuple[NDArray[np.float32], float]:
        """Share of the votes that each domain gets, shape (N, K), and how well the clusterings
        agree: the mean adjusted Rand index of each two of them."""
        answers = [member.clusters(num_domains, near) for member, near in self.members]
        pairs = np.eye(len(answers))
        for i in range(len(answers)):
            for j in range(i):
                pairs[i, j] = pairs[j, i] = adjusted_rand_score(answers[i], answers[j])
        # The one that the others agree with most gives the clusters their numbers.
        reference = answers[int(pairs.sum(0).argmax())]
        votes = np.zeros((len(self.x), num_domains), np.float32)
        for answer in answers:
            match = match_domains(answer, reference, num_domains)
            votes[np.arange(len(votes)), match[answer]] += 1 / len(answers)
        others = len(answers) * (len(answers) - 1)
        return votes, float((pairs.sum() - len(answers)) / others)

    def rate(self, num_domains: int) -> Candidate:
        """How good a number of domains is."""
        votes, agreement = self.votes(num_domains)
        x, labels = self.x[:SILHOUETTE_SAMPLES], votes[:SILHOUETTE_SAMPLES].argmax(1)
        several = 1 < len(np.unique(labels)) < len(x)
        apart = float(silhouette_score(x[:, : DIMENSIONS[0]], labels)) if several else 0.0
        return Candidate(num_domains, agreement, apart)


def _nearest(samples: int) -> int:
    """How many neighbours are asked: of few samples few, else they would be of all domains."""
    return min(NEAREST, max(1, samples // 10))


class _Spread:
    """Votes of samples that were clustered, carried to others: the mean of their neighbours'."""

    def __init__(self, x: NDArray[np.float32], votes: NDArray[np.float32]) -> None:
        self.votes = votes
        self.nearest = NearestNeighbors(n_neighbors=_nearest(len(x)), algorithm="brute").fit(x)

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Votes of samples of shape (M, d), shape (M, K)."""
        spread = np.empty((len(x), self.votes.shape[1]), np.float32)
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            near = self.nearest.kneighbors(x[rows], return_distance=False)
            spread[rows] = self.votes[near].mean(1)
        return spread


def _separation(x: NDArray[np.float32]) -> float:
    """How far apart two groups of images lie in the direction in which styles differ most.

    The distance of the modes of a mixture of two Gaussians, in their deviations (Ashman et al.,
    1994), times the deviation of the images, in that of the halves of one image. Of a single domain
    one of the two is small: it has no two modes, or they are no farther apart than content drives
    halves.
    """
    first = x[:, :1].astype(np.float64)
    modes = GaussianMixture(2, n_init=3, random_state=0).fit(first)
    deviation = np.sqrt(modes.covariances_.mean())
    return float(np.ptp(modes.means_) / deviation * first.std())


def _halves_kappa(spread: _Spread, halves: NDArray[np.float32]) -> float | None:
    left, right, upper, lower = (spread(halves[:, i]).argmax(1) for i in range(4))
    if any(len(np.unique([one, other])) < 2 for one, other in ((left, right), (upper, lower))):
        return None  # All in one domain: there is no agreement beyond chance to speak of.
    return float((cohen_kappa_score(left, right) + cohen_kappa_score(upper, lower)) / 2)


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
