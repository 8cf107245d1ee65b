"""Whitened features: a linear map, fitted on training images, for retrieval."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from ddm.errors import DdmError
from ddm.files import atomic
from ddm.probe import Floats

#: As a share of the mean variance of a direction: a direction in which nothing varies is scaled ten
#: times as much as one of the mean variance, at most.
_RIDGE = 0.01
#: Rows in memory at a time.
_CHUNK = 65_536


@dataclass(frozen=True)
class Whitening:
    """Features brought to a covariance of nearly the identity: ``(x - mean) (C + ridge)^(-1/2)``.

    Distances follow the directions in which features vary most, whatever these tell. Whitening
    (for retrieval: Jégou and Chum, ECCV 2012) makes all directions count alike. It needs neither
    labels nor domains, and nothing of a domain that is unseen. It is for retrieval; k-NN and linear
    probes it may help or hurt (``docs/results.md``). It takes several times as many training images
    as there are dimensions: with fewer, the scale of other images is not that of these.

    Args:
        mean: shape (D,).
        matrix: shape (D, D), symmetric.
        images: how many it was fitted to; None where that is not known.
    """

    mean: NDArray[np.float32]
    matrix: NDArray[np.float32]
    images: int | None = None

    @property
    def doubt(self) -> str:
        """What to say where it was fitted to too few images; empty else."""
        width = len(self.mean)
        if self.images is None or self.images >= 2 * width:
            return ""
        return (
            f"whitened features are fitted to {self.images} images for {width} dimensions: too few "
            "to trust distances between them"
        )

    @classmethod
    def fit(
        cls, features: Floats, training: NDArray[np.int64] | NDArray[np.bool_] | None = None
    ) -> Whitening | None:
        """Fit the map.

        Args:
            features: of all images, shape (N, D); may be memory-mapped, and is read in parts.
            training: rows to fit it to: their indices, shape (M,), or which they are, shape (N,);
                all by default.

        Returns:
            The map; None where these features do not vary, as those of fewer than two images.

        Raises:
            DdmError: features of another shape, or not finite; a mask of another length.
        """
        if np.ndim(features) != 2:
            raise DdmError(f"features must have shape (N, D), not {np.shape(features)}")
        rows = np.arange(len(features)) if training is None else np.asarray(training)
        if rows.dtype == bool:
            if rows.shape != (len(features),):
                raise DdmError(
                    f"training is a mask of shape {rows.shape}, but there are {len(features)} "
                    "features"
                )
            rows = np.flatnonzero(rows)
        width = features.shape[1]
        total = np.zeros(width, np.float64)
        outer = np.zeros((width, width), np.float64)
        parts = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
        for part in parts:
            total += features[part].sum(0, dtype=np.float64)
        mean = total / max(1, len(rows))
        if not np.isfinite(mean).all():
            raise DdmError("features are not finite, so that there is no whitening them")
        for part in parts:
            centred = features[part].astype(np.float64) - mean
            outer += centred.T @ centred
        values, vectors = np.linalg.eigh(outer / max(1, len(rows)))
        variance = values.clip(0).mean()
        # Rounding leaves a little of features that are all the same.
        if not variance > 1e-12 * np.square(mean).mean():
            return None
        matrix = (vectors * (values.clip(0) + _RIDGE * variance) ** -0.5) @ vectors.T
        return cls(mean.astype(np.float32), matrix.astype(np.float32), len(rows))

    def __call__(self, features: Floats) -> Floats:
        """Whitened features, shape (N, D).

        Raises:
            DdmError: features of another width.
        """
        if np.ndim(features) != 2 or features.shape[1] != len(self.mean):
            raise DdmError(
                f"features must have shape (N, {len(self.mean)}), not {np.shape(features)}"
            )
        return ((features - self.mean) @ self.matrix).astype(np.float32, copy=False)

    def save(self, path: Path) -> None:
        """Write ``mean`` and ``matrix`` as a safetensors file."""
        with atomic(path) as temporary:
            save_file(
                {"mean": self.mean, "matrix": self.matrix},
                temporary,
                None if self.images is None else {"images": str(self.images)},
            )

    @classmethod
    def load(cls, path: Path | str) -> Whitening:
        """Read what :meth:`save`, or ``ddm evaluate`` in the run folder, wrote.

        Raises:
            DdmError: the file is missing, or another one.
        """
        try:
            with safe_open(path, framework="np") as file:
                images = (file.metadata() or {}).get("images")
            return cls(**load_file(path), images=None if images is None else int(images))
        except (OSError, SafetensorError, TypeError) as error:
            raise DdmError(
                f"{path} is no whitening that `ddm evaluate` wrote ({error}); evaluate the run"
            ) from None
