"""The tables of docs/results.md: differences and intervals against numpy and scipy on their own."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

PATH = Path(__file__).parents[2] / "benchmarks" / "study" / "gains.py"
spec = importlib.util.spec_from_file_location("gains", PATH)
gains = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gains)

DOMAINS = ("a", "b", "c")


def write(folder: Path, method: str, kind: str, held_out: str, seed: int, value: float) -> None:
    """A run whose probes are right in ``value`` on seen domains and in half of that on unseen.

    No two held-out domains have seen ones in common, so that intervals are the ordinary ones; what
    else they are is tested with `ddm.clustered`.
    """
    x, y = f"x of {held_out}", f"y of {held_out}"
    common = {"label": "group", "trained_on": "seen", "chance": 0.1}
    rows = [
        {**common, "measure": measure, "portion": portion, "side": side, "domain": d, "value": v}
        for measure in ("linear", "linear_balanced", "knn")
        for portion in ("all", "invariant", "variant", "standardized", "whitened")
        for side, d, v in (("seen", x, value + 0.1), ("seen", y, value - 0.1),
                           ("seen", "worst", 0.0), ("unseen", held_out, value / 2))
    ]  # fmt: skip
    leak = {"measure": "leakage", "label": "domain", "trained_on": "seen", "side": "seen"}
    rows += [
        {**leak, "portion": p, "domain": "x", "value": v}
        for p, v in (("all", 0.75), ("variant", 0.5), ("invariant", value))
    ]
    record = {
        "variant": f"{method}-{kind}", "held_out": [held_out], "seed": seed,
        "config": {"epochs": 10, "ddm": {"enabled": kind != "plain"}}, "rows": rows,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    path = folder / f"{method}-{kind}_{held_out}_{seed}.json"
    path.write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two methods, three domains, two seeds; what is gained differs in all of them."""
    for m, method in enumerate(("byol", "simclr")):
        for d, held_out in enumerate(DOMAINS):
            for seed in (1, 2):
                write(tmp_path / "study", method, "plain", held_out, seed, 0.4)
                gained = 0.4 + 0.02 * m + 0.01 * d + 0.03 * seed
                write(tmp_path / "study", method, "instances", held_out, seed, gained)
    return tmp_path / "study"


def test_what_whitening_gives_is_within_runs(folder: Path) -> None:
    for path in folder.glob("*-plain_*.json"):
        record = json.loads(path.read_text("utf-8"))
        gained = {"a": 0.01, "b": 0.02, "c": 0.06}[record["held_out"][0]]
        for row in record["rows"]:
            row["value"] += gained * (row["portion"] == "whitened")
        path.write_text(json.dumps(record), encoding="utf-8")
    records = gains.read([folder])
    half = (3.0 - ttest_1samp([1, 2, 6], 0).confidence_interval().low).item()
    lines = gains.whitening(records, ["plain", "instances", "none"]).split("\n")[4:]
    assert lines[0] == "| plain | 12 |" + f" +3.0 ± {half:.1f} |" * 4
    assert lines[1] == "| instances | 12 |" + " +0.0 ± 0.0 |" * 4 and len(lines) == 2
    # Of a kind that was not read so as a whole nothing is said.
    for record in list(records["plain"].values())[:1]:
        record["rows"] = [row for row in record["rows"] if row["portion"] != "whitened"]
    assert "| plain |" not in gains.whitening(records, ["plain", "instances"])
    assert gains.whitening(records, ["plain"]) == ""


def test_intervals_are_over_held_out_domains(folder: Path) -> None:
    records = gains.read([folder])
    of = gains.figures_of(records, ("instances", "plain"))
    assert [f[0] for f in of] == ["group, seen", "group, unseen", "group, unseen, balanced"]
    lines = {
        name: (pairs, gains.over_domains(gaps, pairs))
        for name, pairs, gaps in gains.compare(records, "instances", "plain", ("all", "all"), of)
    }
    assert {name: len(pairs) for name, (pairs, _) in lines.items()} == {
        "byol": 6, "simclr": 6, "all methods": 12,
    }  # fmt: skip
    for name, offset in (("byol", 0.0), ("simclr", 2.0), ("all methods", 1.0)):
        # Seeds and methods are averaged first: three values, one a domain.
        of_domains = offset + np.arange(3) + 4.5
        mean, half = lines[name][1]
        low, high = ttest_1samp(of_domains, 0).confidence_interval(0.95)
        assert mean[0] == pytest.approx(of_domains.mean())
        assert half[0] == pytest.approx((high - low) / 2)
        np.testing.assert_allclose(mean[1:], mean[0] / 2)


def test_every_method_against_one(folder: Path) -> None:
    records = gains.read([folder])
    records["reference"] = gains.for_all_methods(records, "simclr-plain")
    lines = gains.table(records, "instances", "reference", ("all", "all")).splitlines()
    assert [line.split(" | ")[:2] for line in lines[4:]] == [
        ["| byol", "6"], ["| simclr", "6"], ["| all methods", "12"],
    ]  # fmt: skip
    # All plain runs of the fixture reach the same.
    assert lines[4:] == gains.table(records, "instances", "plain", ("all", "all")).splitlines()[4:]
    for record in records["plain"].values():
        if record["variant"] == "simclr-plain":
            for row in record["rows"]:
                row["value"] += 0.1
    last = gains.table(records, "instances", "reference", ("all", "all")).splitlines()[-1]
    assert f"| all methods | 12 | {6.5 - 10:+.1f} ±" in last


def test_how_often_the_domain_is_found(folder: Path) -> None:
    lines = gains.leakage(gains.read([folder]), ["plain", "instances"]).splitlines()[4:]
    assert lines[0] == "| byol | plain | 6 | 75.0 | 50.0 | 40.0 |"
    assert lines[-1] == "| all methods | instances | 12 | 75.0 | 50.0 | 46.5 |"
    assert len(lines) == 6


def test_an_unfinished_grid_is_compared_where_it_has_every_method(folder: Path) -> None:
    (folder / "byol-instances_c_1.json").unlink()
    records = gains.read([folder])
    of = gains.figures_of(records, ("instances", "plain"))
    lines = list(gains.compare(records, "instances", "plain", ("all", "all"), of))
    assert [len(pairs) for _, pairs, _ in lines] == [5, 6, 10]
    last = gains.table(records, "instances", "plain", ("all", "all")).splitlines()[-1]
    # Of c the second seed alone, in both methods.
    assert f"| all methods | 10 | {np.mean([5.5, 6.5, 9.0]):+.1f} ±" in last


def test_pairs_of_runs_on_one_kind_of_device(folder: Path) -> None:
    records = gains.read([folder])
    assert gains.on_one_device(records, "instances", "plain") == {}
    for pair, record in records["instances"].items():
        record["machine"] = {"device": "gpu" if pair[2] == 1 else "cpu"}
    for record in records["plain"].values():
        record["machine"] = {"device": "cpu"}
    same = gains.on_one_device(records, "instances", "plain")
    assert {pair[2] for runs in same.values() for pair in runs} == {2}
    assert len(same["plain"]) == len(same["instances"]) == 6


def test_plain_runs_of_another_study_stand_in_by_the_order_of_their_seeds(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = folder.parent / "published"
    for method in ("byol", "simclr"):
        for held_out in DOMAINS:
            for seed, value in ((0, 0.3), (7, 0.2), (8, 0.9)):
                write(published, method, "plain", held_out, seed, value)
    records = gains.read([folder])
    found = gains.as_published(published, records)
    assert {(pair[2], run["seed"]) for pair, run in found.items()} == {(1, 0), (2, 7)}
    for path in published.glob("*_[78].json"):
        path.rename(path.with_suffix(".off"))
    found = gains.as_published(published, records)
    assert {(pair[2], run["seed"]) for pair, run in found.items()} == {(1, 0), (2, 0)}
    for path in published.glob("*.off"):
        path.rename(path.with_suffix(".json"))
    arguments = ["instances-plain", "plain-published", "--published", str(published)]
    monkeypatch.setattr(sys, "argv", ["gains.py", str(folder), *arguments])
    gains.main()
    printed = capsys.readouterr().out
    assert printed == (folder / "gains.md").read_text() + "\n"
    assert "| all methods | 12 | +15.0 ± 0.0 | +7.5 ± 0.0 |" in printed
    assert (folder / "gains.png").stat().st_size > 10_000


def test_invariant_portions_are_compared_where_both_runs_have_one(folder: Path) -> None:
    records = gains.read([folder])
    records["shuffled"] = records["instances"]
    assert gains.have_portions(records, ["instances", "shuffled"])
    assert not gains.have_portions(records, ["instances", "plain"])


def test_of_runs_in_several_folders_those_of_the_first_count(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other, "byol", "instances", "a", 1, 0.9)
    write(other, "byol", "instances", "a", 7, 0.9)
    pair = ("byol", ("a",), 1, 10)
    first, beside = gains.read([folder, other])["instances"], gains.read([other])["instances"]
    assert first[pair] == gains.read([folder])["instances"][pair] != beside[pair]
    assert ("byol", ("a",), 7, 10) in first


def validated(record: dict, *values: float) -> None:
    """Adds what a probe of groups reaches on validation images of two seen domains."""
    row = {"measure": "linear_validation", "portion": "all", "trained_on": "seen", "side": "seen"}
    record["rows"] += [
        {**row, "label": label, "domain": domain, "value": value}
        for domain, value in zip("xy", values, strict=True)
        for label, value in (("group", value), ("subgroup", 1 - value))
    ]


def test_what_is_best_on_validation_images_is_chosen(folder: Path) -> None:
    for kind, value in (("plain4", 0.9), ("plain12", 0.2)):
        for held_out in DOMAINS:
            write(folder, "byol", kind, held_out, 1, value)
    (folder / "byol-plain12_c_1.json").unlink()
    records = gains.read([folder])
    # What a run reaches in the tables has no say.
    best = {"a": "plain", "b": "plain12"}
    for kind in ("plain", "plain4", "plain12"):
        for pair, record in records[kind].items():
            is_best = best.get(pair[1][0], "plain4") == kind
            validated(record, *((0.1, 0.9) if is_best else (0.5, 0.4)))
    found = gains.best_validated(records, ["plain4", "plain", "plain12"])
    # Simclr was tried with one kind; byol with three, of which c and the second seed have not all.
    assert {pair: run["variant"] for pair, run in found.items() if pair[0] == "byol"} == {
        ("byol", ("a",), 1, 10): "byol-plain", ("byol", ("b",), 1, 10): "byol-plain12",
    }  # fmt: skip
    assert {run["variant"] for p, run in found.items() if p[0] == "simclr"} == {"simclr-plain"}
    assert gains.choices(found).splitlines()[2:] == [
        "| method | a | b | c |",
        "|---|---|---|---|",
        "| byol | plain | plain12 |  |",
        "| simclr | plain, plain | plain, plain | plain, plain |",
    ]
    records["plain"]["byol", ("a",), 1, 10]["rows"].clear()
    with pytest.raises(SystemExit, match="byol-plain has no linear_validation"):
        gains.best_validated(records, ["plain4", "plain", "plain12"])
