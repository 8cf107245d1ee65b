"""Pseudo-domains: robust clustering finds the domains that nobody labelled.

Features of style are brought into a space where what varies inside an image (content) is noise of
unit size. Foreign images, which are near no others, are left out; several density clusterings of
the rest vote. How many domains there are is the number that most of them find by themselves. The
paper's own procedure is not public; this one is ours.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse.linalg import ArpackError
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, cohen_kappa_score
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from ddm.config import require_not_negative
from ddm.discovery_space import CHUNK, Floats, Ints, embed
from ddm.domains import UNKNOWN, DomainTable
from ddm.errors import DdmError
from ddm.style import StyleFeatures

#: Numbers of domains that are tried where there is no upper end; larger ones too if clusterings
#: find so many.
NUM_DOMAINS = (2, 8)
#: Dimensions of the space that clusterings see: its first 8 or 12, or all 16.
DIMENSIONS = (8, 12, 16)
#: Neighbours over which clusterings measure how dense samples lie.
NEIGHBOURS = (5, 10, 20)
#: The share of the samples that a domain holds at least, and their number.
SMALLEST, LEAST_IMAGES = 0.015, 5
#: Neighbours whose clusters tell a sample's own, at most.
NEAREST = 15
#: Images are of several domains from this separation of their styles on (see :func:`_separation`).
#: Chosen between single domains of emoji and of digits, up to 38, and all of either together, 66
#: and more (benchmarks/discovery.py).
SEPARATED = 55.0
#: Parts of the images, each looked at in a direction that was found in the others, and how many
#: images lie on either side at least where there are two domains.
FOLDS, LEAST_ASIDE = 5, 10
#: How many deviations (from the median, on a log scale) from its domain make an image an outlier.
FAR = 4.0
#: Samples that clusterings are fitted to, however many there are.
FIT_SAMPLES = 10_000
#: Samples that one of the clusterings is fitted to.
ONE_FIT = 5_000
#: Whether a sample is near others is seen at its tenth neighbour, among at most so many samples.
NEIGHBOUR, NEIGHBOURS_AMONG = 10, 2_000
#: Strangers lie that many deviations apart from all others, and are at most this share.
APART, FEW = 3.0, 0.1
#: Domains that less than this share of the halves of images agree on follow content, not style.
HALVES_AGREE = 0.5


@dataclass(frozen=True)
class Candidate:
    """A number of domains that was tried.

    Args:
        num_domains: the number.
        support: share of the clusterings, of different parts of the data, that found so many.
        agreement: of the clusterings into so many, the mean adjusted Rand index of each pair.
    """

    num_domains: int
    support: float
    agreement: float


@dataclass(frozen=True)
class Discovery:
    """Domains that were found.

    Args:
        domains: of each sample, shape (N,), the largest domain first; -1 for outliers.
        confidence: share of the votes that put the sample there, those of its neighbours in each
            clustering; shape (N,), in [0, 1].
        num_domains: how many there are.
        candidates: the numbers that were tried, in rising order; empty where none was to choose.
            Where there was no upper end, of the numbers above 8 those that clusterings found.
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
    def follows_content(self) -> bool | None:
        """Whether the halves of an image disagree, which style would not; None: nobody can tell."""
        return None if self.halves is None else self.halves < HALVES_AGREE

    def table(self) -> DomainTable:
        """Sample -> domain, named ``domain-0``, ``domain-1`` ..."""
        return DomainTable(self.domains, pseudo_names(self.num_domains), self.confidence)


def pseudo_names(num_domains: int) -> tuple[str, ...]:
    """What discovered domains are called."""
    return tuple(f"domain-{i}" for i in range(num_domains))


def discover_domains(
    features: StyleFeatures | NDArray[Any],
    num_domains: int | tuple[int, int | None] | None = None,
    seed: int = 0,
    previous: Ints | None = None,
) -> Discovery:
    """Find domains without labels.

    Neither the order of the samples nor how often each is there matters, but to the names, which go
    by size: different ones are worked on in the order of a hash of their features. Time and memory
    grow linearly with their number.

    Args:
        features: of style (:func:`ddm.style.style_features`), or any array of shape (N, D), such as
            the domain-variant portion of an encoder's features. What is found in an array is
            whatever varies most in it, which may be classes: nothing guards against that.
        num_domains: how many; or (least, most) to choose from, where most may be None: as many as
            there seem to be. By default from 2 on, and where nothing speaks for several the answer
            is one domain.
        seed: of the clusterings, not negative.
        previous: domains so far, shape (N,), -1 for unknown: features that are no statistics of
            style are then looked at along the directions in which these domains differ.

    Raises:
        DdmError: fewer different samples than two a domain, features of another shape or kind, not
            finite, or that hardly vary, fewer domains with samples than asked for, a number or a
            seed out of range.

    Example:
        >>> found = discover_domains(style_features(dataset))
        >>> found.num_domains, found.domains[:3], found.confidence[:3]
    """
    whole = features.whole if isinstance(features, StyleFeatures) else features
    if not isinstance(whole, np.ndarray):
        raise DdmError(
            f"features are a {type(whole).__name__}: give a NumPy array of shape (N, D), of a "
            "tensor x.detach().cpu().numpy()"
        )
    check_settings(num_domains, seed)
    numbers, open_ended = _numbers(num_domains)
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
        return _discover(
            features, distinct, numbers, open_ended, num_domains is None, seed, previous
        )
    except (ArpackError, np.linalg.LinAlgError) as error:
        raise DdmError(
            f"the features of the images hardly differ, or differ by too much, to be clustered "
            f"({' '.join(str(error).split())})"
        ) from None


def _discover(
    features: StyleFeatures | NDArray[Any],
    distinct: Ints,
    numbers: list[int],
    open_ended: bool,
    maybe_one: bool,
    seed: int,
    previous: Ints | None,
) -> Discovery:
    fitted = distinct[:FIT_SAMPLES]
    space, halves = embed(features, fitted, max(DIMENSIONS), previous)
    _require_spread(space, fitted)
    # Foreign images would bend the space and take clusters of their own: a second time without.
    strange = _strangers(space, fitted)
    fitted = fitted[~strange[fitted]]
    space, halves = embed(features, fitted, max(DIMENSIONS), previous)
    _require_spread(space, fitted)
    x = space[fitted]
    ensemble = _Ensemble(x, seed)
    if open_ended:
        more = {m.num_clusters for m in ensemble.members if m.num_clusters > numbers[-1]}
        numbers = [*numbers, *sorted(k for k in more if 2 * k <= len(distinct))]
    answers = {k: ensemble.votes(k) for k in numbers}
    candidates = [Candidate(k, ensemble.support(k), answers[k][1]) for k in numbers]
    best = max(candidates, key=lambda c: (c.support, c.agreement))
    separation = None
    if isinstance(features, StyleFeatures):
        separation = _separation(features.subset(fitted), x[:, 0])
    # Where features are no statistics of style, the clusterings say whether there are several.
    one = ensemble.support(1) > best.support if separation is None else separation < SEPARATED
    chosen = 1 if one and maybe_one else best.num_domains
    tried = tuple(candidates) if len(candidates) > 1 else ()
    single = Discovery(
        np.where(strange, UNKNOWN, 0), (~strange).astype(np.float32), 1, tried, 1.0, None,
        separation, space,
    )  # fmt: skip
    if chosen == 1:
        return single
    spread = _Spread(x, answers[chosen][0])
    votes = spread(space)
    labels, confidence = votes.argmax(1), votes.max(1)
    # A small cluster among others can be outvoted by its neighbours.
    present = np.unique(labels[~strange])
    labels = np.searchsorted(present, labels).clip(max=len(present) - 1)
    if len(present) < numbers[0] and not maybe_one:
        raise DdmError(f"only {len(present)} of {chosen} domains have images; look for fewer")
    agreement = answers[chosen][1]
    chosen = len(present)
    if chosen == 1:
        return single
    outlier = strange | _outliers(space, labels, chosen, fitted)
    # By size, so that a name does not hang on which cluster was found first; a tie by the place in
    # the space.
    sizes = np.bincount(labels[~outlier], minlength=chosen)
    first = np.array([space[labels == k, 0].mean() for k in range(chosen)])
    rank = np.empty(chosen, np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(chosen)
    kappa = None if halves is None else _halves_kappa(spread, halves)
    labels = rank[labels]
    labels[outlier] = UNKNOWN
    confidence[outlier] = 0
    return Discovery(labels, confidence, chosen, tried, agreement, kappa, separation, space)


def _require_spread(space: NDArray[np.float32], fitted: Ints) -> None:
    if not np.isfinite(space).all() or not (space[fitted].std(0) > 1e-6).any():
        raise np.linalg.LinAlgError("no direction in which they differ")


def check_settings(num_domains: int | tuple[int, int | None] | None, seed: int) -> None:
    """Refuse what :func:`discover_domains` would, before any image is read.

    Raises:
        DdmError: a number of domains or a seed out of range.
    """
    _numbers(num_domains)
    require_not_negative("seed", seed)


def _numbers(num_domains: int | tuple[int, int | None] | None) -> tuple[list[int], bool]:
    """The numbers to try, and whether larger ones may be found."""
    if num_domains is None:
        num_domains = (NUM_DOMAINS[0], None)
    low, high = num_domains if isinstance(num_domains, tuple) else (num_domains, num_domains)
    if not all(isinstance(n, int | np.integer) for n in (low, low if high is None else high)):
        raise DdmError(f"num_domains={num_domains!r}: give a number from 2 on, or (least, most)")
    open_ended = high is None
    if high is None:
        high = max(low, NUM_DOMAINS[1])
    if not 2 <= low <= high:
        raise DdmError(f"num_domains={num_domains}: give a number from 2 on, or (least, most)")
    return list(range(int(low), int(high) + 1)), open_ended


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
        [features.whole, features.halves, features.colours]
        if isinstance(features, StyleFeatures)
        else [features]
    )
    keys = np.empty(len(parts[0]), np.uint64)
    for start in range(0, len(keys), CHUNK):
        chunk = [np.ascontiguousarray(part[start : start + CHUNK]) for part in parts]
        for i, rows in enumerate(zip(*chunk, strict=True)):
            digest = hashlib.blake2b(b"".join(row.tobytes() for row in rows), digest_size=8)
            keys[start + i] = int.from_bytes(digest.digest(), "big")
    return np.unique(keys, return_index=True)[1].astype(np.int64)


def _strangers(space: NDArray[np.float32], fitted: Ints) -> NDArray[np.bool_]:
    """Samples that are near none: foreign ones, each of a style of its own.

    How far a sample's tenth neighbour is, on a log scale, is a mixture of Gaussians over all
    samples (as many as the Bayesian information criterion wants): domains are denser and less
    dense. Where the sparsest mode lies apart from all others (Ashman et al., 1994) and holds few
    samples, it is no domain. A domain as small as that, and that much sparser than the others, is
    taken for strangers too. Neighbours are looked for among the first samples, which are as good
    as random ones.

    Args:
        space: all samples, shape (N, d).
        fitted: those that are fitted to.

    Returns:
        Array of shape (N,).
    """
    none = np.zeros(len(space), bool)
    reference = space[fitted[:NEIGHBOURS_AMONG]]
    if len(reference) < 10 * NEIGHBOUR:
        return none
    nearest = NearestNeighbors(n_neighbors=NEIGHBOUR).fit(reference)
    distance, near = np.empty(len(space)), np.empty(len(space))
    for start in range(0, len(space), CHUNK):
        rows = slice(start, start + CHUNK)
        found = nearest.kneighbors(space[rows])[0]
        distance[rows], near[rows] = found[:, -1], found[:, 3]
    # Copies of one image have no distance.
    distance = np.log(np.maximum(distance, 1e-3 * np.median(distance[fitted]) + 1e-12))[:, None]
    if np.ptp(distance) < 1e-6:
        return none
    models = [GaussianMixture(k, n_init=2, random_state=0) for k in range(1, 6)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # Of a mixture too many.
        model = min(
            (m.fit(distance[fitted]) for m in models), key=lambda m: m.bic(distance[fitted])
        )
    means = model.means_.ravel()
    if len(means) == 1:
        return none
    second, last = np.argsort(means)[-2:]
    deviation = np.sqrt(model.covariances_[[second, last]].mean())
    if means[last] - means[second] < APART * deviation or model.weights_[last] > FEW:
        return none
    # A wide mode could claim the densest samples too.
    strange = (model.predict(distance) == last) & (distance[:, 0] > means[second])
    # A handful that lie close together have far tenth neighbours too, but are of one style.
    alone: NDArray[np.bool_] = strange & (np.log(near + 1e-12) > means[second])
    return alone


class _Member:
    """One density clustering of a part of the samples, which puts every sample into a cluster.

    HDBSCAN (Campello, Moulavi & Sander, 2013): clusters are where samples lie denser than around
    them, of any shape, density and size from ``SMALLEST`` on; how many there are comes out, and
    samples between them are of none. Where another number is asked for, the nearest clusters are
    merged (Ward, 1963), or smaller ones sought.

    Args:
        x: all samples, shape (n, D).
        dims: how many of the leading dimensions are looked at.
        neighbours: over how many density is measured.
        seed: of the part that is fitted to.
    """

    def __init__(self, x: NDArray[np.float32], dims: int, neighbours: int, seed: int) -> None:
        size = min(ONE_FIT, -(-len(x) * 4 // 5))
        rng = np.random.default_rng([seed, dims, neighbours])
        self.samples = np.sort(rng.permutation(len(x))[:size])
        self.all = np.ascontiguousarray(x[:, :dims], np.float64)
        self.part = self.all[self.samples]
        self.neighbours = min(neighbours, max(1, size // 10))
        self.own = self._clusters(SMALLEST, "eom")
        self.num_clusters = int(self.own.max()) + 1

    def _clusters(self, smallest: float, selection: str) -> Ints:
        size = max(LEAST_IMAGES, round(smallest * len(self.part)))
        model = HDBSCAN(
            min_cluster_size=min(size, len(self.part)),
            min_samples=self.neighbours,
            cluster_selection_method=selection,
            copy=True,
        )
        found: Ints = model.fit_predict(self.part).astype(np.int64)
        return found

    @cached_property
    def smaller(self) -> Ints:
        """Clusters of a quarter of that size, as many as there are."""
        return self._clusters(SMALLEST / 4, "leaf")

    def clusters(self, num_clusters: int) -> Ints:
        """Clusters of all samples, in [0, num_clusters), shape (n,)."""
        labels = self.own
        if self.num_clusters < num_clusters:
            labels = self.smaller
        if labels.max() + 1 < num_clusters:
            # Nothing lies apart: what is asked for is a partition of one cluster.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # Fewer places than clusters.
                labels = KMeans(num_clusters, n_init=4, random_state=0).fit_predict(self.part)
        labels = _merge(self.part, labels, num_clusters)
        inside = np.flatnonzero(labels >= 0)
        nearest = NearestNeighbors(n_neighbors=_nearest(len(inside))).fit(self.part[inside])
        near = nearest.kneighbors(self.all, return_distance=False)
        votes = np.eye(num_clusters, dtype=np.float32)[labels[inside]][near].sum(1)
        answer: Ints = votes.argmax(1)
        answer[self.samples[inside]] = labels[inside]
        return answer


def _merge(x: Floats, labels: Ints, num_clusters: int) -> Ints:
    """Merge the two clusters whose union adds least to the variance within, until so many are left.

    Args:
        x: samples, shape (n, D).
        labels: their clusters, -1 for none.
        num_clusters: how many to leave.
    """
    labels = labels.copy()
    while (count := int(labels.max()) + 1) > num_clusters:
        sizes = np.bincount(labels[labels >= 0], minlength=count).astype(np.float64)
        means = np.stack([x[labels == k].mean(0) for k in range(count)])
        cost = euclidean_distances(means, squared=True) / (1 / sizes[:, None] + 1 / sizes)
        one, other = sorted(divmod(int((cost + np.diag([np.inf] * count)).argmin()), count))
        labels[labels == other] = one
        labels[labels > other] -= 1
    return labels


class _Ensemble:
    """Several clusterings of the same samples, which vote.

    Density clusterings in spaces of several dimensions, smoothed over fewer and more neighbours,
    each of another part of the samples: what they agree on hangs on none of these choices.
    """

    def __init__(self, x: NDArray[np.float32], seed: int) -> None:
        self.x = x
        self.members = [_Member(x, d, k, seed) for d, k in product(DIMENSIONS, NEIGHBOURS)]

    def votes(self, num_domains: int) -> tuple[NDArray[np.float32], float]:
        """Share of the votes that each domain gets, shape (n, K), and how well the clusterings
        agree: the mean adjusted Rand index of each two of them."""
        answers = [member.clusters(num_domains) for member in self.members]
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
        if len(np.unique(votes.argmax(1))) < num_domains:
            # Where they disagree on what to part, votes can leave a cluster to none.
            votes /= 2
            votes[np.arange(len(votes)), reference] += 0.5
        others = len(answers) * (len(answers) - 1)
        return votes, float((pairs.sum() - len(answers)) / others)

    def support(self, num_domains: int) -> float:
        """Share of the clusterings that found so many; of those that found none or one, for 1."""
        numbers = np.array([max(1, member.num_clusters) for member in self.members])
        return float((numbers == num_domains).mean())


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


def _separation(features: StyleFeatures, leading: NDArray[np.float32]) -> float:
    """How far apart two groups of images lie in the direction in which styles differ most.

    The distance of the modes of a mixture of two Gaussians, in their deviations (Ashman et al.,
    1994), times the deviation of the images, in that of the halves of one image. Of a single domain
    one of the two is small: it has no two modes, or they are no farther apart than content drives
    halves.

    Among few images some direction parts any into two groups. So each fifth of the images is looked
    at in the direction that the others give, and a handful is no group.

    Args:
        features: the images in random order, without foreign ones.
        leading: where they lie in the direction that all of them give, shape (n,).

    Returns:
        0 where one group would have less than ``LEAST_ASIDE`` images.
    """
    count = len(features)
    if count < 2 * LEAST_ASIDE:
        return 0.0
    fold = np.arange(count) % FOLDS
    first = np.empty((count, 1))
    for k in range(FOLDS):
        others = np.flatnonzero(fold != k)
        along = embed(features, others, 1, None)[0][:, 0]
        sign = np.sign(np.cov(along[others], leading[others])[0, 1])
        first[fold == k, 0] = sign * along[fold == k]
    modes = GaussianMixture(2, n_init=3, random_state=0).fit(first)
    if np.bincount(modes.predict(first), minlength=2).min() < LEAST_ASIDE:
        return 0.0
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
