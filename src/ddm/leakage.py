"""How much of the domain is left in each portion."""

from __future__ import annotations

import numpy as np

from ddm.data.base import ImageDataset
from ddm.probe import Floats, LinearProbe, Row, summarize


def domain_leakage(
    dataset: ImageDataset, domains: tuple[str, ...], portion: str, features: Floats, seed: int
) -> list[Row]:
    """How well a fresh linear probe finds the domain.

    Trained on the training split of the domains, read on their test split; domains that have no
    training images, as some of WILDS', are left out. The mean over domains is the balanced
    accuracy; chance is one over their number, of the pooled figure the share of the largest. How
    much of the class a portion holds is what the ordinary probes say. Leakage is reported, not
    aimed at: it says little about transfer.

    Args:
        dataset: the images.
        domains: domains to tell apart.
        portion: name of the portion, for the rows.
        features: its features of all images, shape (N, D).
        seed: of the bootstrap.

    Returns:
        Rows for each domain, their mean, all of them pooled and their worst; none where there is
        nothing to tell apart.
    """
    train, validation, test = (dataset.select(domains, (s,)) for s in ("train", "val", "test"))
    domain = dataset.domains.index
    test = test[np.isin(domain[test], domain[train])]
    if len(np.unique(domain[train])) < 2 or not len(test):
        return []
    probe = LinearProbe.fit(
        (features[train], domain[train]), (features[validation], domain[validation])
    )
    right = probe.predict(features[test]) == domain[test]
    parts = {}
    for number, name in enumerate(dataset.domains.names):
        mine = domain[test] == number
        if mine.any():
            parts[name] = right[mine], dataset.groups[test[mine]]
    common: Row = {
        "measure": "leakage",
        "label": "domain",
        "portion": portion,
        "trained_on": "seen",
        "side": "seen",
        "chance": 1 / len(np.unique(domain[train])),
    }
    rows = summarize(common, parts, seed)
    # Where every answer weighs alike, always to answer the largest domain is worth its share.
    largest = np.bincount(domain[train]).argmax()
    for row in rows:
        if row["domain"] == "pooled":
            row["chance"] = float((domain[test] == largest).mean())
    return rows
