"""Protocols: which images a probe is trained on, and which it is read on.

Seen and unseen domains
    Probes are trained on the training split of the domains that the encoder was pre-trained on,
    their penalty is chosen on the validation split of those, and they are read on the test split
    of every domain. An unseen domain thus plays no part in any choice. Beside it stands a probe
    that was trained on the unseen domain itself ("own"): what the features would allow if labels
    of it existed. Beside each accuracy stands the balanced one: where classes are unequal, a
    probe that answers with the largest class everywhere looks good on a domain that it cannot read.
    To choose between runs, such as of other learning rates, there is "linear_validation": the same
    probe on the images that its penalty was chosen on, so that no test image plays a part.

WILDS
    A data set of WILDS (arXiv 2012.07421) has splits of its own, which part seen from unseen
    domains: a probe is trained on ``train``, its penalty is chosen by the official score on ``val``
    (unseen domains that are not those of ``test``), as the paper does, and the official score is
    read on ``id_val``, ``val``, ``id_test`` and ``test``.

All figures are rows of one table, with the columns ``measure, label, portion, trained_on, domain,
side, value, low, high, n, groups, chance``; ``domain`` is a name, ``"mean"``, ``"pooled"``
or ``"worst"``, ``chance`` what no skill gets: for an accuracy, answering everywhere with the class
that is largest in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ddm.data.base import ImageDataset, Labels
from ddm.data.wilds.metrics import WILDS_METRICS, WildsScore, wilds_score
from ddm.errors import DdmError
from ddm.leakage import domain_leakage
from ddm.probe import (
    Floats,
    Ints,
    LinearProbe,
    RidgeProbe,
    Row,
    knn_predict,
    largest_class,
    summarize,
)

#: Figures that are also given as balanced accuracy, where every class counts alike: its measure.
BALANCED = {"linear": "linear_balanced", "knn": "knn_balanced"}
#: The linear probe on validation images of seen domains: to choose between runs by.
VALIDATION = "linear_validation"
#: What says which figure an answer counts for.
ANSWER_KEYS = ("measure", "label", "portion", "trained_on", "side")


@dataclass(frozen=True)
class Answers:
    """One probe or retrieval, read on the domains of one side.

    Args:
        common: what its rows share.
        parts: for each domain, which answers were right, shape (n,), and the samples that were
            asked about, shape (n,); retrieval asks about a sample once for each gallery.
        unskilled: for each domain, the class that is answered without any skill; empty where
            ``common`` says what chance is.
    """

    common: Row
    parts: Mapping[str, tuple[NDArray[np.bool_], NDArray[np.int64]]]
    unskilled: Mapping[str, int] = field(default_factory=dict)


def portions_of(features: Floats, variant_dim: int) -> dict[str, Floats]:
    """All features, shape (N, D), and the two portions that they are split into, by name."""
    return {
        "all": np.asarray(features),
        "invariant": np.ascontiguousarray(features[:, variant_dim:]),
        "variant": np.ascontiguousarray(features[:, :variant_dim]),
    }


def standardize_domains(features: Floats, dataset: ImageDataset) -> Floats | None:
    """All features, each domain brought to mean 0 and deviation 1 by its own training images.

    It takes out a shift between domains that moves or stretches the features as a whole. It needs
    no labels, but unlabelled images of the unseen domain (its training split, none of those that
    are tested): an adaptation, as adaptive batch normalisation is (Li et al., 2016, arXiv
    1603.04779), whose figures are not to be mixed with those of a domain that nothing is known of.
    Images of unknown domain get the statistics of all.

    Args:
        features: of all images, shape (N, D).
        dataset: the images.

    Returns:
        Array of shape (N, D); None where a domain has fewer than two training images.
    """
    training = dataset.splits == "train"
    index = dataset.domains.index
    if training.sum() < 2:
        return None
    of_all = np.maximum(features[training].std(0), 1e-6)
    standardized = np.empty_like(features)
    for domain in np.unique(index):
        members = index == domain
        of_it = features[members & training if domain >= 0 else training]
        if len(of_it) < 2:
            return None
        deviation = of_it.std(0)
        # A dimension that is dead in a domain would blow up what is left of it there.
        deviation = np.where(deviation > 1e-3 * of_all, deviation, of_all)
        standardized[members] = (features[members] - of_it.mean(0)) / deviation
    return standardized


def trained_domains(dataset: ImageDataset, held_out: Sequence[str] = ()) -> tuple[str, ...]:
    """The domains that have training images; some of WILDS' have none, though nobody held them out.

    Args:
        dataset: the images.
        held_out: domains that are not counted.
    """
    training = dataset.domains.index[dataset.splits == "train"]
    present = set(training.tolist())
    names = enumerate(dataset.domains.names)
    return tuple(name for i, name in names if i in present and name not in held_out)


@dataclass(frozen=True)
class SeenUnseen:
    """The protocol of seen and unseen domains.

    Args:
        dataset: the images.
        unseen: domains that the encoder was not trained on.
        seed: of the bootstrap.
    """

    dataset: ImageDataset
    unseen: tuple[str, ...]
    seed: int = 0

    @property
    def seen(self) -> tuple[str, ...]:
        return tuple(name for name in self.dataset.domains.names if name not in self.unseen)

    def side(self, domain: str) -> str:
        return "unseen" if domain in self.unseen else "seen"

    def evaluate(self, portions: Mapping[str, Floats]) -> list[Row]:
        """All figures of all portions.

        Args:
            portions: name of each portion and its features of all images, shape (N, D).
        """
        return self.figures(portions, self.answers(portions))

    def answers(self, portions: Mapping[str, Floats]) -> list[Answers]:
        """What each probe and each retrieval got right, sample by sample.

        Args:
            portions: name of each portion and its features of all images, shape (N, D).
        """
        found: list[Answers] = []
        for portion, features in portions.items():
            for label, labels in self.dataset.labels.items():
                found += self._probes(portion, features, label, labels)
            found += self._retrieval(portion, features)
        return [answers for answers in found if answers.parts]

    def figures(self, portions: Mapping[str, Floats], answers: Sequence[Answers]) -> list[Row]:
        """The rows of these answers, and those of leakage.

        Args:
            portions: name of each portion and its features of all images, shape (N, D).
            answers: what :meth:`answers` gave for them.
        """
        rows = [row for each in answers for row in self._rows(each)]
        for portion, features in portions.items():
            rows += domain_leakage(self.dataset, self.seen, portion, features, self.seed)
        return rows

    def table(self, answers: Sequence[Answers]) -> pd.DataFrame:
        """One line an answer, with the columns of ``ANSWER_KEYS``, domain, sample, group and right.

        Two runs over the same images can be compared with it sample by sample.
        """
        columns = [*ANSWER_KEYS, "domain", "sample", "group", "right"]
        lines = [
            pd.DataFrame(
                {
                    **{key: each.common[key] for key in ANSWER_KEYS},
                    "domain": domain,
                    "sample": sample,
                    "group": self.dataset.groups[sample],
                    "right": right,
                },
                columns=columns,
            )
            for each in answers
            for domain, (right, sample) in each.parts.items()
        ]
        whole = pd.concat(lines, ignore_index=True) if lines else pd.DataFrame(columns=columns)
        return whole.astype({key: "category" for key in (*ANSWER_KEYS, "domain")})

    def _probes(
        self, portion: str, features: Floats, label: str, labels: Labels
    ) -> Iterator[Answers]:
        def samples(domains: tuple[str, ...], split: str) -> NDArray[np.int64]:
            chosen = self.dataset.select(domains, (split,))
            return chosen[labels.index[chosen] >= 0]

        def pair(indices: NDArray[np.int64]) -> tuple[Floats, Ints]:
            return features[indices], labels.index[indices]

        train, validation = samples(self.seen, "train"), samples(self.seen, "val")
        if len(np.unique(labels.index[train])) < 2:
            return
        tests = {d: samples((d,), "test") for d in self.dataset.domains.names}
        probe = LinearProbe.fit(pair(train), pair(validation))
        readers: list[tuple[str, str, Callable[[str, Floats], Ints]]] = [
            ("linear", "seen", lambda _, x: probe.predict(x)),
            ("knn", "seen", lambda _, x: knn_predict(pair(train), x)),
        ]
        own: dict[str, LinearProbe] = {}
        of_seen = largest_class(labels.index[train])
        of_own: dict[str, int] = {}
        for domain in self.unseen:
            mine = samples((domain,), "train")
            if len(np.unique(labels.index[mine])) > 1:
                own[domain] = LinearProbe.fit(pair(mine), pair(samples((domain,), "val")))
                of_own[domain] = largest_class(labels.index[mine])
        if own:
            readers.append(("linear", "own", lambda domain, x: own[domain].predict(x)))
        common: Row = {"label": label, "portion": portion}
        for measure, trained_on, predict in readers:
            for side, domains in (("seen", self.seen), ("unseen", self.unseen)):
                parts = {
                    d: (predict(d, features[tests[d]]) == labels.index[tests[d]], tests[d])
                    for d in domains
                    if len(tests[d]) and (trained_on == "seen" or d in own)
                }
                yield Answers(
                    {**common, "measure": measure, "trained_on": trained_on, "side": side},
                    parts,
                    of_own if trained_on == "own" else dict.fromkeys(parts, of_seen),
                )
        val = {d: samples((d,), "val") for d in self.seen}
        yield Answers(
            {**common, "measure": VALIDATION, "trained_on": "seen", "side": "seen"},
            {
                d: (probe.predict(features[i]) == labels.index[i], i)
                for d, i in val.items()
                if len(i)
            },
            dict.fromkeys(val, of_seen),
        )

    def _retrieval(self, portion: str, features: Floats) -> Iterator[Answers]:
        """The same thing found in another domain: is the nearest image there the right one?

        Queries are the test images of a domain, the gallery those of a seen one; the figure of a
        domain is over all galleries but its own.
        """
        instances = self.dataset.instances
        if instances is None:
            return
        normalized = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        tests = {d: self.dataset.select((d,), ("test",)) for d in self.dataset.domains.names}
        tests = {d: t[instances[t] >= 0] for d, t in tests.items()}
        common: Row = {
            "label": "instance",
            "portion": portion,
            "measure": "retrieval",
            "trained_on": "none",
        }
        for side, domains in (("seen", self.seen), ("unseen", self.unseen)):
            parts: dict[str, tuple[NDArray[np.bool_], NDArray[np.int64]]] = {}
            chances = []
            for domain in domains:
                right, asked = [], []
                for other in self.seen:
                    gallery = tests[other]
                    query = tests[domain][np.isin(instances[tests[domain]], instances[gallery])]
                    if other == domain or not len(query):
                        continue
                    nearest = (normalized[query] @ normalized[gallery].T).argmax(1)
                    right.append(instances[gallery[nearest]] == instances[query])
                    asked.append(query)
                    # A thing may be there in several pictures.
                    shown, count = np.unique(instances[gallery], return_counts=True)
                    found = count[np.searchsorted(shown, instances[query])]
                    chances.append(found.mean() / len(gallery))
                if right:
                    parts[domain] = np.concatenate(right), np.concatenate(asked)
            chance = float(np.mean(chances)) if chances else 0.0
            yield Answers({**common, "chance": chance, "side": side}, parts)

    def _rows(self, answers: Answers) -> list[Row]:
        groups, common = self.dataset.groups, answers.common
        parts = {d: (right, groups[i]) for d, (right, i) in answers.parts.items()}
        if not answers.unskilled:
            return summarize(common, parts, self.seed)
        index = self.dataset.labels[common["label"]].index
        classes = {d: index[i] for d, (_, i) in answers.parts.items()}
        unskilled = {d: true == answers.unskilled[d] for d, true in classes.items()}
        rows = summarize(common, parts, self.seed, None, unskilled)
        if common["measure"] in BALANCED:
            common = {**common, "measure": BALANCED[common["measure"]]}
            rows += summarize(common, parts, self.seed, classes, unskilled)
        return rows


#: Of a bootstrap of WILDS' scores, some of which take a while.
_WILDS_RESAMPLES = 200


@dataclass(frozen=True)
class WildsSplits:
    """The protocol of WILDS: its splits and its scores, for probes on stored features.

    The probe is logistic regression, and ridge regression for poverty's wealth. Classes that the
    training split lacks cannot be predicted.

    Args:
        dataset: what `ddm.data.wilds.load_wilds` gives.
        seed: of the bootstrap.
    """

    dataset: ImageDataset
    seed: int = 0

    @staticmethod
    def fits(dataset: ImageDataset) -> bool:
        """Whether this protocol is for that data set: one of WILDS, with labels."""
        official = dataset.official_splits
        labelled = bool(dataset.labels) or "y" in dataset.metadata
        # Hugging Face data sets come with such splits too; they are no data set of WILDS.
        known = dataset.name.split("_")[0] in WILDS_METRICS and bool(dataset.metadata)
        return (
            known
            and official is not None
            and labelled
            and "train" in official
            and "test" in official
        )

    @property
    def name(self) -> str:
        """Of the data set, without its version."""
        return self.dataset.name.split("_")[0]

    def rows(self, portions: Mapping[str, Floats]) -> list[Row]:
        """The official score on each split, with an interval by bootstrap over groups.

        The rows' measure is ``"wilds"``, their ``side`` and ``domain`` the split, ``score`` names
        the official score.

        Args:
            portions: name of each portion and its features of all images, shape (N, D).

        Raises:
            DdmError: a training split without two classes, or a score that is not defined.
        """
        return [row for p, features in portions.items() for row in self._rows(p, features)]

    def _rows(self, portion: str, features: Floats) -> Iterator[Row]:
        targets, samples = self._targets()
        train, validation = samples("train"), samples("val")
        if len(np.unique(targets[train])) < 2:
            raise DdmError(f"{self.dataset.name}: its training split needs two classes to probe")
        classes = next(iter(self.dataset.labels.values())).names if self.dataset.labels else ()

        def score(predicted: NDArray[Any], indices: NDArray[np.int64]) -> WildsScore:
            columns = {k: v[indices] for k, v in self.dataset.metadata.items()}
            return wilds_score(self.name, predicted, targets[indices], columns)

        kind: type[LinearProbe] | type[RidgeProbe] = LinearProbe if classes else RidgeProbe
        probe = kind.fit(
            (features[train], targets[train]),
            (features[validation], targets[validation]),
            lambda predicted: score(predicted, validation).value,
        )
        unskilled = largest_class(targets[train]) if classes else None
        for split in ("id_val", "val", "id_test", "test"):
            chosen = samples(split)
            if not len(chosen):
                continue
            predicted = probe.predict(features[chosen])
            found = score(predicted, chosen)
            low, high = self._interval(predicted, chosen, score)
            yield {
                "measure": "wilds",
                "label": "class" if classes else "wealth",
                "portion": portion,
                "trained_on": "train",
                "domain": split,
                "side": split,
                "score": found.official,
                "value": found.value,
                "low": low,
                "high": high,
                "n": len(chosen),
                # A constant does not correlate with anything.
                "chance": 0.0
                if unskilled is None
                else score(np.full(len(chosen), unskilled), chosen).value,
                "further": dict(found.values),
            }

    def _targets(self) -> tuple[NDArray[Any], Callable[[str], NDArray[np.int64]]]:
        """What is to be predicted, and the images of a split of which it is known."""
        official = self.dataset.official_splits
        assert official is not None
        if self.dataset.labels:
            targets: NDArray[Any] = next(iter(self.dataset.labels.values())).index
            known = targets >= 0
        else:
            targets = self.dataset.metadata["y"].astype(np.float64)
            known = np.isfinite(targets)
        return targets, lambda split: np.flatnonzero((official == split) & known)

    def _interval(
        self,
        predicted: NDArray[Any],
        indices: NDArray[np.int64],
        score: Callable[[NDArray[Any], NDArray[np.int64]], WildsScore],
    ) -> tuple[float, float]:
        """95% by the percentile method; whole groups (slides, wells, places) are drawn."""
        _, group = np.unique(self.dataset.groups[indices], return_inverse=True)
        members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
        rng = np.random.default_rng(self.seed)
        found = []
        for _ in range(_WILDS_RESAMPLES):
            drawn = np.concatenate(
                [members[g] for g in rng.integers(len(members), size=len(members))]
            )
            try:
                found.append(score(predicted[drawn], indices[drawn]).value)
            except DdmError:  # A draw in which the score is not defined says nothing of it.
                continue
        if not found:
            return float("nan"), float("nan")
        low, high = np.percentile(found, [2.5, 97.5])
        return float(low), float(high)
