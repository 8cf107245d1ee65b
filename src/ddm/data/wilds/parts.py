"""The tables of the WILDS data sets, each read into one form: what lies where, in which split.

The formats, splits and label numbers are those of the package ``wilds`` 2.0.0 (arXiv 2012.07421,
2112.05090). Rows that no split claims are left out: an image of fmow from 2017 that was collected
for training, say, belongs to the unlabelled part alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddm.data.wilds.facts import (
    CATEGORIES,
    COUNTRIES,
    FOLD_SEED,
    FOLDS,
    HOSPITALS,
    SET_ASIDE,
)
from ddm.data.wilds.tables import Column, read_table
from ddm.errors import DdmError


@dataclass(frozen=True)
class Part:
    """The labelled or the unlabelled part of a data set, N images in the table's order.

    Args:
        keys: the images' paths.
        domain: the domain of each, a number or a name, shape (N,).
        splits: official split of each, shape (N,).
        units: what each was taken from and what one must not resample apart: slide, sequence,
            well; shape (N,).
        kind: what to put before a domain's number, ``"hospital"`` say.
        labels: official class of each, shape (N,); None where there are no classes.
        classes: the classes' names.
        metadata: further columns, shape (N,) each.
    """

    keys: list[str]
    domain: NDArray[Any]
    splits: NDArray[np.str_]
    units: NDArray[Any]
    kind: str = ""
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    metadata: dict[str, NDArray[Any]] = field(default_factory=dict)

    def subset(self, rows: NDArray[Any]) -> Part:
        """Some rows: indices, in any order."""
        return Part(
            keys=[self.keys[i] for i in rows],
            domain=self.domain[rows],
            splits=self.splits[rows],
            units=self.units[rows],
            kind=self.kind,
            labels=None if self.labels is None else self.labels[rows],
            classes=self.classes,
            metadata={name: values[rows] for name, values in self.metadata.items()},
        )


def camelyon17(root: Path, table: str, unlabeled: bool) -> Part:
    """Patches of lymph nodes from five hospitals; tumour or not."""
    path = root / table
    columns = {
        "patient": Column.TEXT,
        "node": Column.INTEGER,
        "x_coord": Column.INTEGER,
        "y_coord": Column.INTEGER,
        "tumor": Column.INTEGER,
        "slide": Column.INTEGER,
        "center": Column.INTEGER,
    }
    rows = read_table(path, columns if unlabeled else {**columns, "split": Column.INTEGER})
    hospital, tumor = rows["center"], rows["tumor"]
    if unlabeled:
        splits = np.full(len(hospital), "train_unlabeled", "U15")
        for number, split in HOSPITALS.items():
            splits[hospital == number] = f"{split}_unlabeled"
    else:
        _require(path, "tumor", tumor, (0, 1))
        splits = np.where(rows["split"] == 0, "train", "id_val").astype("U6")
        for number, split in HOSPITALS.items():
            splits[hospital == number] = split
        given = ~np.isin(hospital, list(HOSPITALS))
        _require(path, "split", np.where(given, rows["split"], 0), (0, 1))
    patches = zip(rows["patient"], rows["node"], rows["x_coord"], rows["y_coord"], strict=True)
    return Part(
        keys=[
            f"patches/patient_{patient}_node_{node}/"
            f"patch_patient_{patient}_node_{node}_x_{x}_y_{y}.png"
            for patient, node, x, y in patches
        ],
        domain=hospital,
        kind="hospital",
        splits=splits,
        units=rows["slide"],
        labels=None if unlabeled else tumor,
        classes=("normal", "tumor"),
        metadata={"hospital": hospital, "slide": rows["slide"]},
    )


def iwildcam(root: Path, table: str, unlabeled: bool) -> Part:
    """Pictures of camera traps; which animal. The unlabelled part is of other traps."""
    path = root / table
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    if unlabeled:
        rows = read_table(
            path,
            {
                "uid": Column.TEXT,
                "location_remapped": Column.INTEGER,
                "sequence_remapped": Column.INTEGER_OR_BLANK,
            },
        )
        keys = [f"images/{uid}.jpg" for uid in rows["uid"]]
        splits = np.full(len(keys), "extra_unlabeled")
    else:
        rows = read_table(
            path,
            {
                "filename": Column.TEXT,
                "split": Column.TEXT,
                "y": Column.INTEGER,
                "location_remapped": Column.INTEGER,
                "sequence_remapped": Column.INTEGER,
            },
        )
        keys = [f"train/{name}" for name in rows["filename"]]
        splits = rows["split"].astype(np.str_)
        _require(path, "split", splits, ("train", "val", "test", "id_val", "id_test"))
        labels, classes = _numbered_classes(path, "y", rows["y"])
        classes = _animals(root / "categories.csv", classes)
    location, sequence = rows["location_remapped"], rows["sequence_remapped"]
    # A blank sequence is no sequence that many images share.
    units = np.where(sequence < 0, -1 - np.arange(len(sequence)), sequence)
    return Part(
        keys=keys,
        domain=location,
        kind="location",
        splits=splits,
        units=units,
        labels=labels,
        classes=classes,
        metadata={"location": location, "sequence": sequence},
    )


def fmow(root: Path, table: str, unlabeled: bool) -> Part:
    """Satellite images of 2002 to 2017; what the place is used for. Regions are for the metric."""
    path = root / table
    columns = ("split", "country_code", "timestamp", "category")
    rows = read_table(path, dict.fromkeys(columns, Column.TEXT), {"img_path": Column.TEXT})
    mapping = read_table(
        root / "country_code_mapping.csv",
        {"alpha-3": Column.TEXT, "region": Column.TEXT_OR_BLANK},
    )
    # Antarctica has no region in the table of country codes, and Kosovo is not in it.
    regions = dict(zip(mapping["alpha-3"], mapping["region"], strict=True))
    region = np.array([regions.get(code) or "Other" for code in rows["country_code"]])
    year = _years(path, rows["timestamp"])
    collected = rows["split"]
    _require(path, "split", collected, ("train", "val", "test", "seq"))
    _require(path, "category", rows["category"], CATEGORIES)
    number = {category: i for i, category in enumerate(CATEGORIES)}
    labels = np.array([number[category] for category in rows["category"]], np.int64)
    late, middle = year >= 2016, (year >= 2013) & (year < 2016)
    early = year < 2013
    splits = np.full(len(year), "", "U15")
    if unlabeled:
        rest = np.isin(collected, ("train", "seq"))
        splits[late & rest] = "test_unlabeled"
        splits[middle & rest] = "val_unlabeled"
        splits[early & (collected == "seq")] = "train_unlabeled"
    else:
        splits[early & (collected == "train")] = "train"
        splits[early & (collected == "val")] = "id_val"
        splits[early & (collected == "test")] = "id_test"
        splits[middle & (collected == "val")] = "val"
        splits[late & (collected == "test")] = "test"
    # Images of one place at several times came from one folder, which tells the place.
    place = [path.rpartition("/")[0] for path in rows.get("img_path", ())]
    part = Part(
        keys=[f"images/rgb_img_{i}.png" for i in range(len(year))],
        domain=year,
        splits=splits,
        units=np.array(place) if place else np.arange(len(year)),
        labels=None if unlabeled else labels,
        classes=CATEGORIES,
        metadata={"year": year, "region": region, "country": rows["country_code"].astype(np.str_)},
    )
    return part.subset(np.flatnonzero(splits != ""))


def rxrx1(root: Path, table: str, unlabeled: bool) -> Part:
    """Fluorescent cells from 51 experiments; which siRNA they were treated with."""
    path = root / table
    rows = read_table(
        path,
        {
            "cell_type": Column.TEXT,
            "dataset": Column.TEXT,
            "experiment": Column.TEXT,
            "plate": Column.INTEGER,
            "well": Column.TEXT,
            "site": Column.INTEGER,
            "sirna_id": Column.INTEGER,
        },
    )
    splits = rows["dataset"].astype("U7")
    _require(path, "dataset", splits, ("train", "val", "test"))
    splits[(splits == "train") & (rows["site"] == 2)] = "id_test"
    labels, classes = _numbered_classes(path, "sirna_id", rows["sirna_id"])
    places = list(zip(rows["experiment"], rows["plate"], rows["well"], strict=True))
    return Part(
        keys=[
            f"images/{experiment}/Plate{plate}/{well}_s{site}.png"
            for (experiment, plate, well), site in zip(places, rows["site"], strict=True)
        ],
        domain=rows["experiment"].astype(np.str_),
        splits=splits,
        units=np.array([f"{experiment}/{plate}/{well}" for experiment, plate, well in places]),
        labels=labels,
        classes=classes,
        metadata={
            "cell_type": rows["cell_type"].astype(np.str_),
            "experiment": rows["experiment"].astype(np.str_),
            "plate": rows["plate"],
            "well": rows["well"].astype(np.str_),
            "site": rows["site"],
        },
    )


def poverty(root: Path, table: str, unlabeled: bool, fold: str) -> Part:
    """Multispectral images of African places; their wealth, a number, is in ``metadata["y"]``."""
    path = root / table
    columns = {"country": Column.TEXT}
    if not unlabeled:
        columns |= {"wealthpooled": Column.NUMBER, "urban": Column.INTEGER}
    rows = read_table(path, columns)
    country = rows["country"].astype(np.str_)
    _require(path, "country", country, sum(COUNTRIES, ()))
    position = FOLDS.index(fold)
    test = np.isin(country, COUNTRIES[position])
    val = np.isin(country, COUNTRIES[(position + 1) % len(FOLDS)])
    splits = np.full(len(country), "train", "U15")
    splits[test], splits[val] = "test", "val"
    metadata = {"country": country}
    if unlabeled:
        splits = np.char.add(splits, "_unlabeled")
    else:
        _require(path, "urban", rows["urban"], (0, 1))
        rng = np.random.default_rng(ord(fold) + FOLD_SEED)
        aside = rng.permutation(np.flatnonzero(~test & ~val))[:SET_ASIDE]
        splits[aside[: SET_ASIDE // 2]] = "id_val"
        splits[aside[SET_ASIDE // 2 :]] = "id_test"
        metadata |= {"urban": rows["urban"], "y": rows["wealthpooled"]}
    return Part(
        keys=[f"images/landsat_poverty_img_{i}.npz" for i in range(len(country))],
        domain=country,
        splits=splits,
        units=np.arange(len(country)),
        metadata=metadata,
    )


#: Reader of each data set whose splits need nothing but the folder; poverty's need a fold too.
READERS: dict[str, Callable[[Path, str, bool], Part]] = {
    "camelyon17": camelyon17,
    "iwildcam": iwildcam,
    "fmow": fmow,
    "rxrx1": rxrx1,
}


def _years(path: Path, timestamps: NDArray[Any]) -> NDArray[np.int64]:
    import pandas as pd

    times = pd.to_datetime(pd.Series(timestamps), utc=True, format="ISO8601", errors="coerce")
    if times.isna().any():
        row = int(np.flatnonzero(times.isna())[0])
        raise DdmError(
            f"{path}, row {row + 1}: timestamp is {timestamps[row]!r}, no date; the download "
            "stopped early or was edited, download it anew"
        )
    years: NDArray[np.int64] = times.dt.year.to_numpy(np.int64)
    return years


def _animals(path: Path, numbers: tuple[str, ...]) -> tuple[str, ...]:
    """The classes' names, where the download brought them; else their numbers."""
    if not path.is_file():
        return numbers
    rows = read_table(path, {"y": Column.INTEGER, "name": Column.TEXT})
    # Categories that no image is of have the number 99999.
    names = dict(zip(rows["y"].tolist(), rows["name"], strict=True))
    return tuple(names.get(i, number) for i, number in enumerate(numbers))


def _numbered_classes(
    path: Path, column: str, numbers: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Classes that are numbers from 0 on, all of them in use."""
    found = np.unique(numbers)
    if found[0] != 0 or found[-1] != len(found) - 1:
        missing = min(set(range(len(found))) - set(found.tolist()))
        raise DdmError(
            f"{path}: no image is of class {missing} in column {column!r}, which counts from 0 to "
            f"{found[-1]}; the table is not complete, download it anew"
        )
    return numbers, tuple(map(str, found.tolist()))


def _require(path: Path, column: str, values: NDArray[Any], known: tuple[Any, ...]) -> None:
    strange = np.flatnonzero(~np.isin(values, np.array(known)))
    if strange.size:
        row = int(strange[0])
        shown = ", ".join(map(str, known[:6])) + (" ..." if len(known) > 6 else "")
        raise DdmError(
            f"{path}, row {row + 1}: {column} is {values.tolist()[row]!r}, not one of {shown}; "
            "the table is another version's or was edited, download it anew"
        )
