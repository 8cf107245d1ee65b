"""Small WILDS downloads, written from the description of their formats.

Every tree has the table, the folder of images and the note ``RELEASE_v<version>.txt`` that the real
download has; image ``i`` is filled with ``shade(i)``. Each function returns the rows of the table.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
from PIL import Image

COUNTRIES = (
    *("angola", "benin", "burkina_faso", "cameroon", "cote_d_ivoire", "ethiopia", "ghana"),
    *("democratic_republic_of_congo", "guinea", "kenya", "lesotho", "malawi", "mali", "zambia"),
    *("mozambique", "nigeria", "rwanda", "senegal", "sierra_leone", "tanzania", "togo", "uganda"),
    "zimbabwe",
)


def shade(i: int) -> tuple[int, int, int]:
    return (i % 251, (7 * i) % 251, 200)


def _download(root: Path, folder: str) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / f"RELEASE_v{folder.rpartition('_v')[2]}.txt").write_text("")
    return path


def write_table(path: Path, rows: list[dict], indexed: bool = False) -> None:
    """A CSV file as pandas writes it; ``indexed`` puts the row's number first, without a name."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([""] * indexed + list(rows[0]))
        writer.writerows([i] * indexed + list(row.values()) for i, row in enumerate(rows))


def _image(path: Path, i: int, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), shade(i)).save(path)


def camelyon17(root: Path, unlabeled: bool = False) -> list[dict]:
    path = _download(root, f"camelyon17{'_unlabeled' * unlabeled}_v1.0")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        center = i % 5
        slide = 10 * center + i // 5 % 3
        row = {
            "patient": f"{slide:03}",
            "node": slide % 4,
            "x_coord": 100 + i,
            "y_coord": 32 * i,
            "tumor": -1 if unlabeled else int(rng.integers(2)),
            "slide": slide,
            "center": center,
            "split": int(rng.random() < 0.3),
        }
        rows.append(row)
        stem = f"patient_{row['patient']}_node_{row['node']}"
        _image(path / "patches" / stem / f"patch_{stem}_x_{100 + i}_y_{32 * i}.png", i)
    write_table(path / "metadata.csv", rows, indexed=True)
    return rows


def iwildcam(root: Path, unlabeled: bool = False) -> list[dict]:
    path = _download(root, "iwildcam_unlabeled_v1.0" if unlabeled else "iwildcam_v2.0")
    rows = []
    for i in range(50):
        split = ("train", "train", "id_val", "id_test", "val", "test")[i % 6]
        # Other cameras are those of val and test; the order of locations is not that of numbers.
        location = {"val": 10, "test": 11}.get(split, i % 10)
        common = {
            "location_remapped": location,
            "location": 500 + location,
            "sequence_remapped": i // 2,
            "seq_id": f"s-{i // 2}",
            "y": (-1, 99999, i % 7)[i % 3] if unlabeled else i % 7,
            "datetime": f"2013-06-{1 + i % 28:02} 10:{i:02}:00.000",
        }
        name = f"8a{i:04}-21bc"
        if unlabeled:
            rows.append({"uid": name, **common})
            _image(path / "images" / f"{name}.jpg", i)
        else:
            rows.append({"split": split, **common, "filename": f"{name}.jpg", "image_id": name})
            _image(path / "train" / f"{name}.jpg", i)
    if not unlabeled:
        names = ["empty", "jaguar", "ocelot", "white-lipped peccary", "agouti", "tapir", "human"]
        animals = [{"y": i, "category_id": 3 * i, "name": name} for i, name in enumerate(names)]
        animals.append({"y": 99999, "category_id": 5, "name": "start"})
        write_table(path / "categories.csv", animals)
    write_table(path / "metadata.csv", rows, indexed=True)
    return rows


def fmow(root: Path) -> list[dict]:
    path = _download(root, "fmow_v1.1")
    countries = [
        {"name": "France", "alpha-2": "FR", "alpha-3": "FRA", "region": "Europe"},
        {"name": "Namibia", "alpha-2": "NA", "alpha-3": "NAM", "region": "Africa"},
        {"name": "Japan", "alpha-2": "JP", "alpha-3": "JPN", "region": "Asia"},
        {"name": "Peru", "alpha-2": "PE", "alpha-3": "PER", "region": "Americas"},
    ]
    write_table(path / "country_code_mapping.csv", countries)
    rows = []
    for i in range(128):
        category = ("zoo", "airport", "multi-unit_residential", "crop_field")[i % 4]
        year = 2002 + (i * 5 + i // 16) % 16
        # Both ends of a year belong to it.
        day = ("01-01T00:00:00Z", "12-31T23:59:59Z", "06-15T08:30:00Z")[i % 3]
        split = ("train", "val", "test", "seq")[i // 3 % 4]
        rows.append(
            {
                "split": split,
                "img_filename": f"{category}_{i}_rgb.tif",
                "img_path": f"{split}/{category}/{category}_{i // 32}/{category}_{i}_rgb.jpg",
                "category": category,
                "country_code": ("FRA", "NAM", "JPN", "XKX", "PER")[i % 5],
                "timestamp": f"{year}-{day}",
                "lat": 1.5,
            }
        )
        _image(path / "images" / f"rgb_img_{i}.png", i)
    write_table(path / "rgb_metadata.csv", rows)
    return rows


def rxrx1(root: Path) -> list[dict]:
    path = _download(root, "rxrx1_v1.0")
    rows = []
    experiments = [("HEPG2-01", "train"), ("HUVEC-02", "train"), ("HUVEC-03", "val")]
    for experiment, split in [*experiments, ("RPE-01", "test"), ("U2OS-10", "test")]:
        for k, site in ((k, site) for k in range(6) for site in (1, 2)):
            row = {
                "site_id": f"{experiment}_{k}_{site}",
                "cell_type": experiment.split("-")[0],
                "dataset": split,
                "experiment": experiment,
                "plate": 1 + k % 2,
                "well": f"B{2 + k:02}",
                "site": site,
                "sirna_id": k % 5,
            }
            place = path / "images" / experiment / f"Plate{row['plate']}"
            _image(place / f"{row['well']}_s{site}.png", len(rows))
            rows.append(row)
    write_table(path / "metadata.csv", rows)
    return rows


def poverty(root: Path, unlabeled: bool = False, each: int = 155) -> list[dict]:
    """2,000 images of a fold's 13 or 14 training countries are set aside: ``each`` leaves some."""
    path = _download(root, "poverty_unlabeled_v1.0" if unlabeled else "poverty_v1.1")
    rng = np.random.default_rng(1)
    countries = list(COUNTRIES) * each
    rng.shuffle(countries)
    (path / "images").mkdir()
    for kind in range(3):
        bands = np.random.default_rng(kind).normal(size=(8, 6, 6)).astype(np.float32)
        # Where nothing was measured, temperature lies 70 deviations below the mean.
        bands[5, 0, 0], bands[7, 3, 3] = -69.5, 41.0
        np.savez_compressed(path / "images" / f"landsat_poverty_img_{kind}.npz", x=bands)
    rows = []
    for i, country in enumerate(countries):
        if i > 2:
            name = path / "images" / f"landsat_poverty_img_{i % 3}.npz"
            os.link(name, path / "images" / f"landsat_poverty_img_{i}.npz")
        row = {"lat": round(rng.normal(), 3), "lon": 1.0, "country": country, "year": 2012}
        if not unlabeled:
            row["wealthpooled"] = round(float(rng.normal()), 6)
            row["urban"] = bool(rng.random() < 0.4)
        rows.append(row)
    write_table(path / f"{'unlabeled' if unlabeled else 'dhs'}_metadata.csv", rows)
    return rows
