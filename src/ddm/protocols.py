"""Protocols: which images a probe is trained on, and which it is read on.

Seen and unseen domains
    Probes are trained on the training split of the domains that the encoder was pre-trained on,
    their penalty is chosen on the validation split of those, and they are read on the test split
    of every domain. An unseen domain thus plays no part in any choice. Beside it stands a probe
    that was trained on the unseen domain itself ("own"): what the features would allow if labels
    of it existed.

All figures are rows of one table, with the columns ``measure, label, portion, trained_on, domain,
side, value, low, high, n, chance``; ``domain`` is a name, ``"mean"`` or ``"worst"``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ddm.data.base import ImageDataset, Labels
from ddm.leakage import domain_leakage
from ddm.probe import Floats, Ints, LinearProbe, Row, knn_predict, summarize

#: What says which figure an answer counts for.
ANSWER_KEYS = ("measure", "label", "portion", "trained_on", "side")


@dataclass(frozen=True)
class Answers:
    """One probe or retrieval, read on the domains of one side.

    Args:
        common: what its rows share.
        parts: for each domain, which answers were right, shape (n,), and the samples that were
            asked about, shape (n,); retrieval asks about a sample once for each gallery.
    """

    common: Row
    parts: Mapping[str, tuple[NDArray[np.bool_], NDArray[np.int64]]]


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
        for domain in self.unseen:
            mine = samples((domain,), "train")
            if len(np.unique(labels.index[mine])) > 1:
                own[domain] = LinearProbe.fit(pair(mine), pair(samples((domain,), "val")))
        if own:
            readers.append(("linear", "own", lambda domain, x: own[domain].predict(x)))
        common: Row = {"label": label, "portion": portion, "chance": 1 / len(labels.names)}
        for measure, trained_on, predict in readers:
            for side, domains in (("seen", self.seen), ("unseen", self.unseen)):
                parts = {
                    d: (predict(d, features[tests[d]]) == labels.index[tests[d]], tests[d])
                    for d in domains
                    if len(tests[d]) and (trained_on == "seen" or d in own)
                }
                yield Answers(
                    {**common, "measure": measure, "trained_on": trained_on, "side": side}, parts
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
        sizes = [len(tests[d]) for d in self.seen if len(tests[d])]
        if not sizes:
            return
        common: Row = {
            "label": "instance",
            "portion": portion,
            "chance": float(np.mean([1 / size for size in sizes])),
            "measure": "retrieval",
            "trained_on": "none",
        }
        for side, domains in (("seen", self.seen), ("unseen", self.unseen)):
            parts: dict[str, tuple[NDArray[np.bool_], NDArray[np.int64]]] = {}
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
                if right:
                    parts[domain] = np.concatenate(right), np.concatenate(asked)
            yield Answers({**common, "side": side}, parts)

    def _rows(self, answers: Answers) -> list[Row]:
        groups = self.dataset.groups
        parts = {d: (right, groups[i]) for d, (right, i) in answers.parts.items()}
        return summarize(answers.common, parts, self.seed)
