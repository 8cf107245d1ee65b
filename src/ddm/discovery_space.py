"""The space in which domains are looked for: directions of style, not of content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

from ddm.domains import UNKNOWN
from ddm.errors import DdmError
from ddm.style import HALVES, StyleFeatures

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: What is added to the noise of each statistic, as a share of the mean noise of its kind.
RIDGE = 0.1
#: Directions of palettes, and steps of the walk that says how near colours are.
PALETTES, STEPS = 4, 16
#: Least noise of a direction of palettes, where images are of length 1.
PALETTE_NOISE = 0.001
#: A colour that fewer images share binds no domain.
SHARED_BY = 5
#: Rows at a time, where there may be millions.
CHUNK = 65_536


class Palettes:
    """Where flat colours lie among palettes: those that images have in common are near each other.

    A random walk from image to colour to image hardly leaves a palette that a domain has for
    itself. Coordinates of a colour are the leading right singular vectors of the normalised matrix
    of images and colours (Dhillon, 2001, co-clusters words and documents that way), scaled to
    ``STEPS`` steps of the walk (diffusion maps, Coifman & Lafon, 2006), so that colours count by
    how well they part. An image, or part of one, lies in the mean direction of its colours; one
    without any where images lie in the mean, so that to have none says nothing. Colours of more
    than half of the images are nobody's palette.

    Args:
        colours: codes, -1 for none, shape (n, 4, C).
    """

    def __init__(self, colours: NDArray[np.int32]) -> None:
        rows = colours.reshape(len(colours), -1)
        image, _ = np.nonzero(rows >= 0)
        pairs = np.unique(np.stack([rows[rows >= 0], image]), axis=1)  # Each colour once an image.
        codes, column, images = np.unique(pairs[0], return_inverse=True, return_counts=True)
        kept = (images >= SHARED_BY) & (images <= len(rows) / 2)
        self.codes = codes[kept]
        self.coordinates: Floats = np.zeros((len(self.codes), 0))
        self.middle: Floats = np.zeros(0)
        count = min(PALETTES, len(self.codes) - 1)
        if count < 1:
            return
        used = kept[column]
        place = (np.cumsum(kept) - 1)[column[used]]
        matrix = csr_array(
            (np.ones(len(place)), (pairs[1][used], place)), shape=(len(rows), len(self.codes))
        )
        of_image = 1 / np.sqrt(np.maximum(matrix.sum(1), 1))
        of_colour = 1 / np.sqrt(matrix.sum(0))
        normalised = of_image[:, None] * matrix * of_colour[None, :]
        start = np.random.default_rng(0).random(min(normalised.shape))
        _, values, vectors = svds(normalised, count, v0=start)
        self.coordinates = vectors.T * of_colour[:, None] * values**STEPS
        self.middle = np.zeros(count)
        directions = self(colours)
        self.middle = directions[directions.any(1)].mean(0)

    def __call__(self, colours: NDArray[np.int32]) -> Floats:
        """Coordinates of images or parts of them, shape (n, ..., C) -> (n, P)."""
        rows = np.sort(colours.reshape(len(colours), -1), 1)
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1  # Each colour once an image.
        if not len(self.codes):
            return np.zeros((len(rows), 0))
        place = np.searchsorted(self.codes, rows).clip(max=len(self.codes) - 1)
        known = self.codes[place] == rows
        total = np.einsum("nc,ncp->np", known, self.coordinates[place])
        length = np.linalg.norm(total, axis=1, keepdims=True)
        direction: Floats = np.where(length > 0, total / np.maximum(length, 1e-12), self.middle)
        return direction


def embed(
    features: StyleFeatures | NDArray[Any], fitted: Ints, dims: int, previous: Ints | None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Samples, and their halves, in the space that is clustered: (N, d) and (n, 4, d).

    Features of style: the directions in which images differ most, compared with how much the halves
    of one image do (a generalised eigenvalue problem, as in linear discriminant analysis with each
    image for a class; Hatch et al., 2006, call it within-class covariance normalisation). Other
    features: those in which the previous domains differ most, compared with how much samples of one
    domain do; without previous domains, principal components of the standardised ones.

    Args:
        features: of all N samples.
        fitted: the samples that the directions are found in.
        dims: how many directions, d; fewer where there are no more.
        previous: domains so far, shape (N,), -1 for unknown; None for none.

    Returns:
        The samples, and the halves of the fitted ones; None where features are not of style.

    Raises:
        DdmError: style features without a column.
        numpy.linalg.LinAlgError: features that hardly vary.
    """
    if isinstance(features, StyleFeatures):
        return _embed_style(features, fitted, dims)
    x = np.asarray(features[fitted], np.float64)
    mean, total = x.mean(0), np.cov(x.T).reshape(x.shape[1], x.shape[1])
    if previous is not None and len(np.unique(known := previous[fitted])) > 1:
        one_hot = known[:, None] == np.unique(known[known != UNKNOWN])
        rows = one_hot.any(1)
        means = (one_hot.T @ x) / one_hot.sum(0)[:, None]
        within = x[rows] - one_hot[rows] @ means
        noise = within.T @ within / rows.sum()
        noise += 0.01 * max(np.trace(noise), 1e-12) / len(noise) * np.eye(len(noise))
        _, vectors = eigh(total, noise)
        basis = _leading(vectors, max(1, one_hot.shape[1] - 1))
    else:
        scale = 1 / np.sqrt(np.maximum(np.diag(total), 1e-12))
        scale[np.diag(total) < 1e-12] = 0
        _, vectors = np.linalg.eigh(total * np.outer(scale, scale))
        basis = _leading(scale[:, None] * vectors, dims)

    def columns(rows: slice) -> Floats:
        return np.asarray(features[rows], np.float64)

    return _project(columns, len(features), mean, basis), None


def _embed_style(
    features: StyleFeatures, fitted: Ints, dims: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    palettes = Palettes(features.colours[fitted])

    def whole(rows: Any) -> Floats:
        return np.hstack([features.whole[rows], palettes(features.colours[rows])])

    def half(number: int, quarters: tuple[int, int]) -> Floats:
        colours = features.colours[fitted][:, quarters]
        return np.hstack([features.halves[fitted, number], palettes(colours)])

    x = whole(fitted)
    if not x.shape[1]:
        raise DdmError("images share no flat colours that tell them apart; add other statistics")
    mean, total = x.mean(0), np.cov(x.T).reshape(x.shape[1], x.shape[1])
    halves = np.stack([half(i, quarters) for i, quarters in enumerate(HALVES.values())], 1)
    left, right, upper, lower = halves.transpose(1, 0, 2)
    differences = np.concatenate([left - right, upper - lower])
    noise = differences.T @ differences / (2 * len(differences))
    # Statistics that hardly vary within images would else outweigh all others of their kind.
    width = features.whole.shape[1]
    for kind, least in ((slice(width), 1e-12), (slice(width, len(noise)), PALETTE_NOISE)):
        variances = np.diag(noise)[kind]
        if len(variances):
            noise[kind, kind] += max(RIDGE * variances.mean(), least) * np.eye(len(variances))
    basis = _leading(eigh(total, noise)[1], dims)
    space = _project(whole, len(features), mean, basis)
    return space, ((halves - halves.mean((0, 1))) @ basis).astype(np.float32)


def _project(
    columns: Callable[[slice], Floats], count: int, mean: Floats, basis: Floats
) -> NDArray[np.float32]:
    """All samples along the directions of a basis, a part of them at a time."""
    space = np.empty((count, basis.shape[1]), np.float32)
    for start in range(0, count, CHUNK):
        rows = slice(start, start + CHUNK)
        space[rows] = (columns(rows) - mean) @ basis
    return space


def _leading(vectors: Floats, count: int) -> Floats:
    """The last so many eigenvectors, the leading one first, with signs that do not hang on the
    machine."""
    basis = vectors[:, ::-1][:, :count]
    leading: Floats = basis * np.sign(basis[np.abs(basis).argmax(0), np.arange(basis.shape[1])])
    return leading
