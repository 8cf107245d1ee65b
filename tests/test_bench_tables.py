"""The tables of a grid: means, errors and paired tests right, published figures apart."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import ddm.bench_tables
from ddm.bench import OWN_GRIDS, Grid
from ddm.bench_tables import COLUMNS, published, table


def test_published_figures_stand_apart_from_each_other(monkeypatch, tmp_path):
    text = published("pacs-domainbed")
    assert "| ERM | 84.7 (0.4) | 80.8 (0.6) | 97.2 (0.3) | 79.3 (1.0) | 85.5 |" in text
    assert text.count("### Published: ResNet-50, first weights ImageNet") == 1
    assert "Source: https://github.com/facebookresearch/DomainBed/" in text
    assert published("emoji-lodo") == ""
    with open(Path(ddm.bench_tables.__file__).parent / "published.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    grids = {path.stem: Grid.load(Path(path.stem), "x") for path in OWN_GRIDS.glob("*.yaml")}
    for row in rows:
        known = {d for held in grids[row["grid"]].held_out for d in held}
        assert row["domain"] in known | {"mean"} and 0 < float(row["accuracy"]) < 100
        assert row["backbone"] and row["source"].startswith("https://")
    # A mean that is not that of its domains was read off wrongly.
    for grid, method in {(row["grid"], row["method"]) for row in rows}:
        mine = {
            r["domain"]: float(r["accuracy"])
            for r in rows
            if (r["grid"], r["method"]) == (grid, method)
        }
        mean = mine.pop("mean")
        assert np.mean(list(mine.values())) == pytest.approx(mean, abs=0.11)
    other = dict(rows[0], grid="pacs-domainbed", backbone="ViT-B", method="ERM", accuracy="90.0")
    monkeypatch.setattr(ddm.bench_tables.csv, "DictReader", lambda file: iter([*rows, other]))
    assert published("pacs-domainbed").count("### Published") == 2


def record(variant, seed, values, held_out="a", fold=None, shift=0.02):
    rows = []
    for (_, measure, trained_on, side), value in zip(COLUMNS, values, strict=True):
        for domain, more in (("a", shift), ("b", -shift), ("mean", 0.5)):
            rows.append(
                dict(
                    measure=measure,
                    trained_on=trained_on,
                    side=side,
                    portion="all",
                    label="class" if measure in ("linear", "knn") else "x",
                    domain=domain,
                    value=value + more,
                    n=10,
                )
            )
    data = dict(split_hashes=dict(train="t" * 64, val="v" * 64, test="e" * 64))
    return dict(
        variant=variant, held_out=[held_out], fold=fold, seed=seed, main_label="class", rows=rows,
        data=data,
    )  # fmt: skip


def test_each_method_is_compared_with_its_own_plain_run():
    rng = np.random.default_rng(0)
    values = rng.uniform(0.3, 0.6, (2, 2, 3, len(COLUMNS)))
    names = [["byol-plain", "byol-ddm"], ["dino-plain", "dino-ddm"]]
    records = [
        record(names[m][k], seed, values[m, k, seed])
        for m in range(2)
        for k in range(2)
        for seed in range(3)
        if (m, k, seed) != (1, 1, 2)  # Not finished yet.
    ]
    text = table([*names[0], *names[1], "other"], records)
    block = text.split("All features: paired differences")[1].split("###")[0]
    lines = {x.split(" | ")[0][2:]: x.split(" | ")[1:3] for x in block.splitlines() if "less" in x}
    gaps = 100 * (values[:, 1, :, 0] - values[:, 0, :, 0])
    for name, mine, pairs in (
        ("byol-ddm less byol-plain", gaps[0], 3),
        ("dino-ddm less dino-plain", gaps[1, :2], 2),
        # Of the seeds that both methods have; errors are over seeds.
        ("all methods, ddm less plain", gaps[:, :2].mean(0), 4),
    ):
        error = mine.std(ddof=1) / len(mine) ** 0.5
        assert lines[name][0] == str(pairs)
        assert lines[name][1].startswith(f"{mine.mean():+.1f} ({error:.1f};")
    # What is no METHOD-KIND is compared with the first.
    assert lines["other less byol-plain"] == ["0", "-"]
    assert set(lines) == {
        "byol-ddm less byol-plain",
        "dino-ddm less dino-plain",
        "all methods, ddm less plain",
        "other less byol-plain",
    }


def test_means_errors_and_paired_tests():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.6, (4, len(COLUMNS)))
    gap = rng.normal(0.03, 0.02, (4, len(COLUMNS)))
    records = [record("plain", s, base[s]) for s in range(4)]
    records += [record("new", s, base[s] + gap[s]) for s in range(4)]
    text = table(["plain", "new"], records)
    cell = next(x for x in text.splitlines() if x.startswith("| new | 4 |")).split("|")[3].strip()
    values = 100 * (base + gap)[:, 0]
    assert cell == f"{values.mean():.1f} ({values.std(ddof=1) / 2:.1f})"
    line = [x for x in text.splitlines() if x.startswith("| new | 4 |")][1]
    first = 100 * gap[:, 0]
    error = first.std(ddof=1) / 2
    t = first.mean() / error
    # Student's t with three degrees of freedom, in closed form.
    z = abs(t) / math.sqrt(3)
    p = 1 - 2 / math.pi * (z / (1 + z * z) + math.atan(z))
    assert line.split("|")[3].strip() == f"{first.mean():+.1f} ({error:.1f}; {p:.3f})"


@pytest.mark.parametrize("by", ["held_out", "fold"])
def test_errors_are_over_sets_of_held_out_domains(by):
    # Three seeds of a domain share its images: they are no three pieces of evidence.
    rng = np.random.default_rng(1)
    base = rng.uniform(0.3, 0.6, (4, 3))
    gap = rng.normal(0.03, 0.03, (4, 1)) + rng.normal(0, 0.005, (4, 3))
    columns = np.ones(len(COLUMNS))
    records = [
        record(variant, seed, values[place, seed] * columns, shift=0, **{by: "ABCD"[place]})
        for variant, values in (("plain", base), ("new", base + gap))
        for place in range(4)
        for seed in range(3)
    ]
    text = table(["plain", "new"], records)
    assert text.startswith("Errors are over sets of held-out domains, or folds, and over the")
    rows = [x for x in text.splitlines() if x.startswith("| new | 12 |")]
    means, differences = rows[:2]
    values = 100 * (base + gap).mean(1)
    assert means.split("|")[3].strip() == f"{values.mean():.1f} ({values.std(ddof=1) / 2:.1f})"
    gaps = 100 * gap.mean(1)
    error = gaps.std(ddof=1) / 2
    expected = 2 * scipy.stats.t.sf(gaps.mean() / error, 1)  # Read on two domains only.
    assert differences.split("|")[3].strip() == f"{gaps.mean():+.1f} ({error:.1f}; {expected:.3f})"


def test_errors_are_over_the_domains_that_figures_are_read_on_too():
    # Two domains 4 points apart, read in runs that differ by nothing else.
    values = np.full(len(COLUMNS), 0.5)
    records = [record("plain", 0, values, held_out) for held_out in "ABCD"]
    line = next(x for x in table(["plain"], records).splitlines() if x.startswith("| plain | 4 |"))
    assert line.split("|")[3].strip() == "50.0 (2.0)"
