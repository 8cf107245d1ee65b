"""The figures of ``ddm evaluate`` for features from anywhere: an encoder of one's own training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ddm.config import require_not_negative
from ddm.data.base import SPLITS, ImageDataset, Labels, split_by_group
from ddm.domains import DomainTable, index_names
from ddm.errors import DdmError
from ddm.module import check_variant_dim
from ddm.probe import Floats, Row
from ddm.protocols import SeenUnseen, portions_of, standardize_domains
from ddm.whitening import Whitening

Names = Sequence[str | None]


def measure(
    features: Floats,
    domains: DomainTable | Names,
    labels: Names | Mapping[str, Names] | None = None,
    *,
    unseen: Sequence[str] = (),
    variant_dim: int | None = None,
    splits: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    instances: Names | None = None,
    seed: int = 0,
) -> list[Row]:
    """Probes, retrieval and leakage of features, on domains that they were learnt on and others.

    The protocol is that of :class:`ddm.protocols.SeenUnseen`: nothing is learnt, and nothing
    chosen, from the unseen domains. Print the rows with :func:`ddm.evaluate.summary_table`.

    Args:
        features: of all N images, shape (N, D), D dimensions as the encoder gives them.
        domains: of each image, a table or N names; None or "" where it is not known.
        labels: N names of classes, None where an image has none; or several such ways of naming.
            Without any there are retrieval and leakage alone.
        unseen: domains that the encoder was not trained on.
        variant_dim: width of the variant portion, to measure both portions too.
        splits: train, val or test of each image: the encoder learnt from the training images at
            most. Drawn by a hash of the groups by default.
        groups: N names; images of one group never part at a split, and intervals resample groups.
            An image is its own by default, and where it has None or "".
        instances: N names; images that show the very same thing in several domains share one.
            Retrieval needs them.
        seed: of the bootstrap.

    Returns:
        The rows, as in ``results.json``; portions are ``"all"``, with ``variant_dim``
        ``"invariant"`` and ``"variant"``, and, where they can be had, ``"standardized"`` and
        ``"whitened"``.

    Raises:
        DdmError: lengths that differ, features that are no array of shape (N, D) or not finite, an
            unknown split or domain, names that are no text.
        ValueError: ``variant_dim`` leaves one of the portions empty.

    Example:
        >>> rows = measure(features, domains, classes, unseen=["sketch"], variant_dim=64)
        >>> print(summary_table(rows))
    """
    if not isinstance(features, np.ndarray) or features.ndim != 2:
        raise DdmError(
            "features must be a NumPy array of shape (N, D), of a tensor x.detach().cpu().numpy()"
        )
    if not np.issubdtype(features.dtype, np.number) or np.iscomplexobj(features):
        raise DdmError(f"features must be real numbers, not {features.dtype}")
    require_not_negative("seed", seed)
    n = len(features)
    # Of half precision norms and votes overflow, and integers have none.
    features = np.asarray(features, np.float32)
    if not np.isfinite(features).all():
        raise DdmError("features are not finite: the encoder has diverged")
    given = {"domains": domains, "splits": splits, "groups": groups, "instances": instances}
    ways = labels if isinstance(labels, Mapping) else {} if labels is None else {"class": labels}
    for name, values in {**given, **{f"labels {k!r}": v for k, v in ways.items()}}.items():
        if values is not None and len(values) != n:
            raise DdmError(f"{name} are {len(values)}, but there are {n} features; give one each")
    table = domains if isinstance(domains, DomainTable) else DomainTable.from_names(domains)
    strange = set(unseen) - set(table.names)
    if strange:
        raise DdmError(
            f"unseen={sorted(strange)}: no such domain; there are {', '.join(table.names)}"
        )
    of_group = [str(i) for i in range(n)]
    if groups is not None:
        of_group = [f"image {i}" if g in (None, "") else g for i, g in enumerate(groups)]
    group_index = index_names(of_group)[0]
    dataset = ImageDataset(
        name="features",
        keys=[str(i) for i in range(n)],
        read=_no_images,
        size=1,
        channels=1,
        domains=table,
        splits=split_by_group(of_group) if splits is None else _checked(splits),
        groups=group_index,
        labels={name: Labels.from_names(values) for name, values in ways.items()},
        instances=None if instances is None else index_names(instances)[0],
    )
    portions = {"all": features}
    if variant_dim is not None:
        check_variant_dim(variant_dim, features.shape[1])
        portions = portions_of(features, variant_dim)
    standardized = standardize_domains(features, dataset)
    if standardized is not None:
        portions["standardized"] = standardized
    training = np.setdiff1d(dataset.select(splits=("train",)), dataset.select(unseen))
    whitening = Whitening.fit(features, training)
    if whitening is not None:
        portions["whitened"] = whitening(features)
    return SeenUnseen(dataset, tuple(unseen), seed).evaluate(portions)


def _checked(splits: Sequence[str]) -> NDArray[np.str_]:
    strange = set(splits) - set(SPLITS)
    if strange:
        raise DdmError(f"splits {sorted(strange)} are unknown; use {', '.join(SPLITS)}")
    return np.array(splits)


def _no_images(i: int) -> NoReturn:
    raise AssertionError("features alone are measured")
