"""A run is a folder: configuration, metrics, checkpoints, domain table, encoder, report."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ddm.config import PretrainConfig
from ddm.data.base import ImageDataset
from ddm.domains import UNKNOWN, DomainTable
from ddm.errors import DdmError
from ddm.files import atomic, write_text
from ddm.messages import tell


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    Args:
        path: the folder.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def domains_file(self) -> Path:
        return self.path / "domains.parquet"

    @property
    def pseudo_domains_file(self) -> Path:
        return self.path / "pseudo_domains.parquet"

    @property
    def stopped_file(self) -> Path:
        """Why one of several processes stopped, for the others to say."""
        return self.path / "stopped.txt"

    @property
    def skipped_file(self) -> Path:
        return self.path / "skipped.csv"

    @property
    def checkpoint_file(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def encoder_file(self) -> Path:
        return self.path / "encoder.safetensors"

    @property
    def results_file(self) -> Path:
        return self.path / "results.json"

    @property
    def predictions_file(self) -> Path:
        return self.path / "predictions.parquet"

    @property
    def features_file(self) -> Path:
        return self.path / "features.npy"

    @property
    def whitening_file(self) -> Path:
        return self.path / "whitening.safetensors"

    def require_new(self) -> None:
        """Refuse a folder that holds something already.

        Raises:
            DdmError: another run, or other files, lie there.
        """
        if self.config_file.exists():
            raise DdmError(
                f"{self.path} holds another run; continue that one with `ddm resume {self.path}`, "
                "or choose another --output"
            )
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise DdmError(
                f"{self.path} exists and is not an empty folder; choose another --output"
            )

    @classmethod
    def create(cls, config: PretrainConfig) -> RunFolder:
        """Make the folder of a new run and write its configuration.

        Raises:
            DdmError: the folder holds something already, or cannot be made.
        """
        run = cls(Path(config.output))
        run.require_new()
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DdmError(
                f"cannot make {run.path}: {error.strerror}; choose another --output"
            ) from None
        config.save(run.config_file)
        return run

    @classmethod
    def open(cls, path: Path | str) -> tuple[RunFolder, PretrainConfig]:
        """Open the folder of an existing run.

        Raises:
            DdmError: it is not a run folder.
        """
        run = cls(Path(path))
        return run, PretrainConfig.load(run.config_file)

    def save_domains(self, dataset: ImageDataset) -> None:
        """Write which images the run uses, with the domain and split of each."""
        names = np.asarray([*dataset.domains.names, ""], dtype=object)
        frame = pd.DataFrame(
            {
                "path": list(dataset.keys),
                "domain": names[dataset.domains.index],
                "confidence": dataset.domains.confidence,
                "split": dataset.splits,
            }
        )
        with atomic(self.domains_file) as temporary:
            frame.to_parquet(temporary, index=False)

    def save_pseudo_domains(self, dataset: ImageDataset, table: DomainTable) -> None:
        """Write which domain was discovered for each image."""
        frame = pd.DataFrame(
            {
                "path": list(dataset.keys),
                # All names are kept, that of a domain without images too.
                "domain": pd.Categorical.from_codes(table.index, list(table.names)),
                "confidence": table.confidence,
            }
        )
        with atomic(self.pseudo_domains_file) as temporary:
            frame.to_parquet(temporary, index=False)

    def load_pseudo_domains(self) -> DomainTable:
        """The discovered domains, in the order of the run's images.

        Raises:
            DdmError: the file is missing.
        """
        if not self.pseudo_domains_file.exists():
            raise DdmError(f"{self.pseudo_domains_file} is missing; begin the run anew")
        frame = pd.read_parquet(self.pseudo_domains_file)
        domain = frame["domain"].astype("category").cat
        return DomainTable(
            domain.codes.to_numpy(np.int64),
            tuple(map(str, domain.categories)),
            frame["confidence"].to_numpy(np.float32),
        )

    def save_matched(self, matched: dict[str, Any]) -> None:
        """Write which of the encoder's first weights came from where."""
        write_text(self.path / "init.json", json.dumps(matched, indent=1))

    def save_skipped(self, dataset: ImageDataset) -> None:
        """Write which images could not be read, and why."""
        frame = pd.DataFrame(list(dataset.skipped), columns=["path", "reason"])
        with atomic(self.skipped_file) as temporary:
            frame.to_csv(temporary, index=False)

    def with_saved_domains(
        self, dataset: ImageDataset, pseudo_domains: bool = False
    ) -> ImageDataset:
        """The run's own images, under its own domain table and splits.

        Images that came later are passed over, so that a folder may grow.

        Args:
            dataset: the images as they are now.
            pseudo_domains: where nobody gave any domain, those that were found take their place.

        Raises:
            DdmError: images that the run began with, or their domains, are gone.
        """
        if not self.domains_file.exists():
            raise DdmError(f"{self.domains_file} is missing; the run never started, begin it anew")
        frame = pd.read_parquet(self.domains_file)
        if dataset.keys != tuple(frame["path"]):
            dataset = self._without_new(dataset, list(frame["path"]))
        lost = set(frame["domain"]) - {"", *dataset.domains.names}
        if lost:
            raise DdmError(
                f"{dataset.name} has no domain {', '.join(sorted(lost))} any more, "
                f"which {self.path} was trained with; give it its name back, or begin a new run"
            )
        position = {name: i for i, name in enumerate(dataset.domains.names)}
        index = frame["domain"].map(position).fillna(UNKNOWN).to_numpy(np.int64)
        confidence = frame["confidence"].to_numpy(np.float32)
        table = DomainTable(index, dataset.domains.names, confidence)
        if pseudo_domains and not table.names and self.pseudo_domains_file.exists():
            table = self.load_pseudo_domains()
        # The splits too are the run's own: what it trained on must never be tested on.
        return replace(dataset, domains=table, splits=frame["split"].to_numpy(str))

    def _without_new(self, dataset: ImageDataset, keys: list[str]) -> ImageDataset:
        """The images that the run began with, in its order."""
        position = {key: i for i, key in enumerate(dataset.keys)}
        gone = [key for key in keys if key not in position]
        new = len(position) - len(keys) + len(gone)
        if gone:
            raise DdmError(
                f"{dataset.name} has changed since {self.path} began: {len(gone)} of "
                f"{len(keys)} images are gone, first {gone[0]!r} ({new} are new); "
                "restore them, or begin a new run"
            )
        if new:
            tell(
                f"{dataset.name} holds {new} more {'image' if new == 1 else 'images'} than when "
                f"{self.path} began; they are passed over (features of them: ddm embed)"
            )
        return dataset.only(np.array([position[key] for key in keys]))
