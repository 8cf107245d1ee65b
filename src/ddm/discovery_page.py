"""The page on discovered domains: one HTML file, made to be checked by eye."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddm import __version__, plots
from ddm.data.base import ImageDataset
from ddm.discovery import SEPARATED, Discovery
from ddm.domains import UNKNOWN
from ddm.pages import write_page

SHOWN = 10  # images of a strip
SKIPPED = 100  # unreadable images that are named
MAP_POINTS = 2000
FEWEST_MAP_POINTS = 10
#: Of 600 images of one domain 2 draws in 45 were taken for several, of 1,200 none
#: (docs/discovery.md).
MANY = 1000


def write_discovery_page(
    found: Discovery,
    dataset: ImageDataset,
    table: Path,
    output: Path,
    command: str | None,
    editable: bool = True,
    names: Sequence[str] | None = None,
) -> Path:
    """Show what was found: images of each domain, sizes, how many there are and why, a map.

    Args:
        found: the domains of all images of the data set.
        dataset: the images.
        table: where the domains were written to.
        output: the HTML file to write.
        command: how to train with these domains; None where there is one alone.
        editable: whether the table can be corrected and trained with.
        names: what the table calls each image; the data set's keys by default.

    Returns:
        The file written.
    """
    return write_page(
        "domains.html.j2",
        output,
        title=f"Domains found in {dataset.name}",
        headline=headline(found, len(dataset)),
        domains=list(_domains(found, dataset, names or dataset.keys)),
        pictures=list(_pictures(found)),
        table=table.name,
        command=command,
        editable=editable,
        skipped=dataset.skipped[:SKIPPED],
        skipped_count=len(dataset.skipped),
        version=__version__,
    )


def headline(found: Discovery, count: int) -> list[str]:
    """What was found, in a few sentences."""
    outliers = int((found.domains == UNKNOWN).sum())
    apart = f" {outliers:,} images fit none and are left out." if outliers > 1 else ""
    if outliers == 1:
        apart = " One image fits none and is left out."
    uncertain = (
        f"Of fewer than {MANY:,} images it is uncertain how many domains they have, and whether "
        "several at all: look at the page."
    )
    few = [uncertain] if found.candidates and count < MANY else []
    if found.num_domains == 1:
        how = ""
        if found.separation is not None:
            how = (
                f" (separation {found.separation:.0f}; several are told apart from {SEPARATED:.0f} "
                "on)"
            )
        return [
            f"One domain: the {count - outliers:,} images look alike in style{how}.{apart}",
            *few,
            "Ask for a number of domains (--num_domains 5, or 2-8) if you know better.",
        ]
    lines = [f"{found.num_domains} domains among {count:,} images."]
    text = f"Different clusterings agree at {found.agreement:.2f} (adjusted Rand index, at most 1)."
    text += apart
    doubtful = int(((found.domains != UNKNOWN) & (found.confidence < 0.5)).sum())
    if doubtful:
        text += f" {doubtful:,} got fewer than half of the votes."
    lines.append(text)
    votes = {c.num_domains: c.support for c in found.candidates}
    others = {number: share for number, share in votes.items() if number != found.num_domains}
    if votes.get(found.num_domains) and any(others.values()):
        second = max(others, key=lambda number: others[number])
        lines.append(
            f"{votes[found.num_domains]:.0%} of the clusterings find {found.num_domains} by "
            f"themselves, {others[second]:.0%} find {second}."
        )
    if found.candidates and not any(votes.values()):
        lines.append(
            "None of the clusterings finds a number of this range by itself: it is the one on "
            "which they agree most. Try another range (--num_domains)."
        )
    lines += few
    if found.follows_content:
        lines.append(
            f"Warning: the halves of an image agree on its domain at kappa {found.halves:.2f} "
            "only. These clusters follow what the images show, not how they were made."
        )
    return lines


def _domains(
    found: Discovery, dataset: ImageDataset, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for number, name in enumerate(found.table().names):
        members = np.flatnonzero(found.domains == number)
        if not len(members):
            continue
        distance = _distances(found, members)
        typical = members[np.argsort(distance, kind="stable")]
        doubtful = members[np.lexsort((-distance, found.confidence[members]))]
        kinds = (
            ("Random", "", rng.permutation(members)),
            ("Most typical", "nearest to the middle of the domain", typical),
            ("Most doubtful", "fewest votes", doubtful),
        )
        yield {
            "name": name,
            "count": f"{len(members):,}",
            "share": f"{100 * len(members) / len(dataset):.0f}%",
            "strips": [
                {"title": title, "note": note, **_strip(dataset, names, chosen)}
                for title, note, chosen in kinds
            ],
        }
    outliers = np.flatnonzero(found.domains == UNKNOWN)
    if len(outliers):
        strip = {
            "title": "Random",
            "note": "far from every domain",
            **_strip(dataset, names, rng.permutation(outliers)),
        }
        share = f"{100 * len(outliers) / len(dataset):.1f}%"
        yield {
            "name": "outliers",
            "count": f"{len(outliers):,}",
            "share": share,
            "strips": [strip],
        }


def _strip(
    dataset: ImageDataset, names: Sequence[str], chosen: NDArray[np.int64]
) -> dict[str, Any]:
    """One picture of some images, and what they are called in the table."""
    shown = chosen[:SHOWN]
    images: list[Any] = [dataset.read(int(i)) for i in shown]
    return {
        "image": plots.strip(images + [None] * (SHOWN - len(images))),
        "files": [names[int(i)] for i in shown],
    }


def _distances(found: Discovery, members: NDArray[np.int64]) -> NDArray[np.float64]:
    space = found.space[members].astype(np.float64)
    spread = space.std(0) + 1e-12
    distance: NDArray[np.float64] = np.linalg.norm((space - np.median(space, 0)) / spread, axis=1)
    return distance


def _pictures(found: Discovery) -> Iterator[dict[str, str]]:
    if found.candidates:
        numbers = np.array([c.num_domains for c in found.candidates], float)
        lines = {
            "found": [c.support for c in found.candidates],
            "agreement": [c.agreement for c in found.candidates],
        }
        curves = [
            plots.Curve(i, name, numbers, np.array(values))
            for i, (name, values) in enumerate(lines.items())
        ]
        taken = ": the number that most find is taken"
        if found.num_domains == 1:
            taken = ", if there are several: here styles do not lie far enough apart for that"
        yield {
            "title": "Number of domains",
            "image": plots.curves(curves, "domains", from_zero=True),
            "alt": "; ".join(f"{c.num_domains}: {c.support:.2f}" for c in found.candidates),
            "note": "How many of the clusterings, each of another part of the images, find so many "
            f"domains by themselves{taken}. And how well they agree when brought to that number "
            "(adjusted Rand index).",
        }
    if len(found.space) >= FEWEST_MAP_POINTS:
        chosen = np.random.default_rng(0).permutation(len(found.space))[:MAP_POINTS]
        points = plots.umap(found.space[chosen])
        yield {
            "title": "Map of styles",
            "image": plots.scatter(points, found.domains[chosen], found.table().names),
            "alt": f"UMAP of {len(chosen)} images by style, coloured by domain",
            "note": f"UMAP of the styles of {len(chosen):,} images. Distances on such a map "
            "deceive; whether clusters part says more than how far.",
        }
