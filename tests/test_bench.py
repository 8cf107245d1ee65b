"""Grids of runs: done once, resumed, and summed up right."""

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import yaml

from ddm.bench import OWN_GRIDS, Grid, bench
from ddm.cli import main
from ddm.config import PretrainConfig, differences
from ddm.domains import SUMMARIES
from ddm.errors import DdmError
from synthetic import write_folder

VARIANTS = {"plain": {"ddm.enabled": False}, "coral": {"ddm.invariance_weight": 0.1}}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"), each=12)


def write_grid(path, images, **changes):
    base = dict(images=str(images), size=16, epochs=1, batch_size=16, workers=0, accelerator="cpu")
    grid = {"base": base, "variants": VARIANTS, "held_out": [["outline"]], "seeds": [0]}
    path.write_text(yaml.safe_dump({**grid, **changes}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def done(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    grid = write_grid(folder / "grid.yaml", images)
    return grid, folder / "results", bench(grid, folder / "results")


def test_two_jobs_do_what_one_does(done, tmp_path):
    grid, results, _ = done
    bench(grid, tmp_path / "out", jobs=2)
    for one in results.glob("*.json"):
        records = [json.loads(path.read_text()) for path in (one, tmp_path / "out" / one.name)]
        rows, theirs = (
            {tuple(v for v in r.values() if isinstance(v, str)): r["value"] for r in record["rows"]}
            for record in records
        )
        assert theirs == pytest.approx(rows, rel=1e-6, nan_ok=True)
        # They shared the cores.
        assert records[1]["machine"]["threads"] <= max(1, len(os.sched_getaffinity(0)) // 2)


def test_one_file_a_run_and_a_table(done):
    _, results, text = done
    assert {p.name for p in results.glob("*.json")} == {
        "plain_outline_0.json",
        "coral_outline_0.json",
    }
    assert not any((results / "runs").iterdir())
    record = json.loads((results / "coral_outline_0.json").read_text())
    assert record["config"]["ddm"]["invariance_weight"] == 0.1 and record["versions"]
    unseen = [r for r in record["rows"] if r["side"] == "unseen" and r["domain"] == "outline"]
    value = next(
        r["value"]
        for r in unseen
        if (r["measure"], r["trained_on"], r["portion"]) == ("linear", "seen", "all")
    )
    line = next(x for x in text.splitlines() if x.startswith("| coral"))
    assert line.split("|")[4].split()[0] == f"{100 * value:.1f}"
    assert (results / "table.md").read_text() == text
    manifest = yaml.safe_load((results / "manifest.yaml").read_text())
    assert manifest["grid"]["variants"] == VARIANTS and len(manifest["data"]) == 1
    hashes = manifest["data"][0]["split_hashes"]
    assert hashes == record["data"]["split_hashes"]
    assert f"test {hashes['test'][:12]}" in text and "not made on the same" not in text


def test_finished_runs_are_skipped_and_the_rest_done(done, images, monkeypatch, capsys):
    grid, results, text = done
    before = {p: p.stat().st_mtime_ns for p in results.glob("*.json")}
    assert bench(grid, results) == text
    assert {p: p.stat().st_mtime_ns for p in results.glob("*.json")} == before

    import ddm.evaluate

    whole = ddm.evaluate.evaluate

    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    longer = write_grid(results.parent / "longer.yaml", images, seeds=[0, 1])
    with monkeypatch.context() as patch:
        patch.setattr("ddm.evaluate.evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench(longer, results)
    trained = results / "runs" / "plain_outline_1" / "encoder.safetensors"
    weights = trained.read_bytes()

    def compare(run, *arguments, **named):
        if run.name == "plain_outline_1":
            assert (run / "encoder.safetensors").read_bytes() == weights
        return whole(run, *arguments, **named)

    monkeypatch.setattr("ddm.evaluate.evaluate", compare)
    capsys.readouterr()
    assert "| plain | 2 |" in bench(longer, results)
    assert "another state of ddm's code" not in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_finished_runs_of_other_code_are_told_of(images, tmp_path, monkeypatch, capsys):
    grid = write_grid(tmp_path / "g.yaml", images, variants={"coral": VARIANTS["coral"]})
    bench(grid, tmp_path / "out")
    more = write_grid(
        tmp_path / "g.yaml",
        images,
        variants={"coral": VARIANTS["coral"], "plain": {"ddm.enabled": False}},
    )
    monkeypatch.setattr("ddm.evaluate.code_hash", lambda: "0" * 12)
    bench(more, tmp_path / "out")
    assert "1 finished run(s)" in capsys.readouterr().err
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
    assert len({record["versions"]["code"] for record in records}) == 2


def test_kept_runs_are_read_again_where_their_result_is_gone(images, tmp_path, monkeypatch):
    grid = write_grid(tmp_path / "g.yaml", images, variants={"coral": VARIANTS["coral"]})
    text = bench(grid, tmp_path / "out", keep_runs=True)
    result = tmp_path / "out" / "coral_outline_0.json"
    rows = json.loads(result.read_text())["rows"]
    result.unlink()
    for name in ("pretrain", "resume"):  # Nothing is trained again.
        monkeypatch.setattr(f"ddm.pretrain.{name}", None)
    assert bench(grid, tmp_path / "out", keep_runs=True) == text
    again = json.loads(result.read_text())
    assert again["rows"] == rows and again["train_seconds"] is None
    # They are not taken for runs of a grid that has changed since.
    result.unlink()
    changed = {"coral": {**VARIANTS["coral"], "learning_rate": 9.0}}
    grid = write_grid(tmp_path / "g.yaml", images, variants=changed)
    with pytest.raises(DdmError, match=r"other settings.*learning_rate: None / 9\.0"):
        bench(grid, tmp_path / "out")
    assert not result.exists()


def test_reserved_domains_leave_no_figure(images, tmp_path):
    grid = write_grid(tmp_path / "g.yaml", images, held_out=[[]], reserved=["outline"])
    changed = yaml.safe_load(grid.read_text())
    changed["variants"] = {"coral": {}}
    grid.write_text(yaml.safe_dump(changed, sort_keys=False))
    with pytest.raises(DdmError, match=r"reserves outline.*keep_runs"):
        bench(grid, tmp_path / "out", keep_runs=True)
    bench(grid, tmp_path / "out")
    text = (tmp_path / "out" / "coral_none_0.json").read_text()
    record = json.loads(text)
    assert record["config"]["held_out"] == ["outline"]
    assert {r["domain"] for r in record["rows"]} == {"filled", "night", *SUMMARIES}
    assert all(r["side"] == "seen" for r in record["rows"])


def test_results_of_another_grid_are_refused(done, images):
    _, results, _ = done
    other = write_grid(results.parent / "other.yaml", images, variants={"plain": {}})
    with pytest.raises(DdmError, match=r"plain_outline_0\.json is of another .*ddm\.enabled"):
        bench(other, results)


@pytest.mark.parametrize(
    "changes", [{"init": "resnet18.a1_in1k"}, {"images": "elsewhere/other"}], ids=["init", "images"]
)
def test_so_are_results_with_other_first_weights_or_images(done, images, changes):
    _, results, _ = done
    base = yaml.safe_load((results.parent / "grid.yaml").read_text())["base"]
    other = write_grid(results.parent / "other.yaml", images, base={**base, **changes})
    with pytest.raises(DdmError, match=rf"of another .*{next(iter(changes))}: "):
        bench(other, results)
    # Where they lie is no matter.
    moved = write_grid(results.parent / "other.yaml", f"/elsewhere/{images.name}")
    bench(moved, results)


def test_first_weights_are_the_same_wherever_the_file_is_named_from(tmp_path, monkeypatch):
    (tmp_path / "weights.pth").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    one, other = (
        PretrainConfig(init=init) for init in ("weights.pth", str(tmp_path / "weights.pth"))
    )
    assert differences(one, other) == []
    assert differences(one, PretrainConfig(init="resnet18.a1_in1k")) != []
    assert differences(one, PretrainConfig()) != []
    # Moved, with the folder that holds it.
    moved = [PretrainConfig(init=f"/{place}/runs/a") for place in ("here", "there")]
    assert differences(*moved) == []


def test_one_failing_run_does_not_stop_the_others(images, tmp_path):
    variants = {"bad": {"ddm.variant_dim": 500}, "coral": {}}
    grid = write_grid(tmp_path / "g.yaml", images, variants=variants)
    with pytest.raises(DdmError, match=r"1 of 2 runs failed.*bad_outline_0.*variant_dim=500"):
        bench(grid, tmp_path / "out")
    assert (tmp_path / "out" / "coral_outline_0.json").exists()
    assert "| bad | 0 |" in (tmp_path / "out" / "table.md").read_text()


def test_nor_does_one_with_a_fault_that_nobody_foresaw(images, tmp_path, monkeypatch, capsys):
    import ddm.pretrain

    whole = ddm.pretrain.finish

    def finish(config):
        if not config.ddm.enabled:
            raise RuntimeError("out of memory")
        return whole(config)

    monkeypatch.setattr("ddm.pretrain.finish", finish)
    grid = write_grid(tmp_path / "g.yaml", images)
    with pytest.raises(DdmError, match=r"1 of 2 runs failed.*plain_.*RuntimeError: out of memory"):
        bench(grid, tmp_path / "out")
    assert (tmp_path / "out" / "coral_outline_0.json").exists()
    assert "Traceback" in capsys.readouterr().err  # For whoever is to mend it.


def test_a_killed_process_is_said_to_be_one(images, tmp_path, monkeypatch):
    def killed(futures):
        for future in futures:
            future.cancel()
        dead = Future()
        dead.set_exception(BrokenProcessPool("terminated abruptly"))
        futures[dead] = next(iter(futures.values()))
        yield dead

    monkeypatch.setattr("ddm.bench.as_completed", killed)
    monkeypatch.setattr("ddm.bench.ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr("ddm.bench._attempt", lambda *_: [])
    grid = write_grid(tmp_path / "g.yaml", images)
    with pytest.raises(DdmError, match=r"killed, for want of memory.*fewer --jobs than 2"):
        bench(grid, tmp_path / "out", jobs=2)


def test_settings_of_a_variant_add_to_those_of_the_base(tmp_path):
    grid = Grid.load(
        write_grid(
            tmp_path / "g.yaml",
            "x",
            base={"images": "x", "ddm": {"variant_dim": 7}, "finetune.steps": 9},
            variants={"a": {"ddm": {"invariance": "coral"}, "ddm.invariance_weight": 0.5}},
            finetune={"batch_size": 8},
        )
    )
    module = grid.config(grid.runs[0], tmp_path).ddm
    assert (module.variant_dim, module.invariance, module.invariance_weight) == (7, "coral", 0.5)
    settings = grid.finetuning(grid.runs[0])
    assert (settings.steps, settings.batch_size, settings.seed) == (9, 8, 0)


def test_folds_are_runs_of_their_own(tmp_path):
    grid = write_grid(tmp_path / "g.yaml", "x", folds=["A", "C"], held_out=[[]], seeds=[0, 1])
    grid = Grid.load(grid)
    assert [run.name for run in grid.runs][:4] == ["plain_A_0", "coral_A_0", "plain_C_0",
                                                   "coral_C_0"]  # fmt: skip
    assert len(grid.runs) == 8
    assert grid.config(grid.runs[2], tmp_path).splits == "C"


def test_shards_part_the_runs(images, tmp_path):
    grid = Grid.load(write_grid(tmp_path / "g.yaml", images, seeds=[0, 1, 2]))
    names = [run.name for run in grid.runs]
    assert len(set(names)) == 6
    parts = [run.name for part in range(1, 5) for run in grid.shard(part, 4)]
    assert sorted(parts) == sorted(names)
    assert [len(grid.shard(part, 4)) for part in range(1, 5)] == [2, 2, 1, 1]


@pytest.mark.parametrize("path", sorted(OWN_GRIDS.glob("*.yaml")), ids=lambda p: p.stem)
def test_grids_that_come_with_the_package(path):
    grid = Grid.load(Path(path.stem), images="elsewhere")
    assert len(grid.seeds) == 3 and path.read_text().startswith("# ")
    config = grid.config(grid.runs[-1], Path("out"))
    assert config.images == "elsewhere"
    if grid.finetune is not None:  # The supervised baselines.
        assert config.epochs == 0
        assert grid.finetuning(grid.runs[-1]).invariance == "coral"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(variants=None), "needs `variants:`"),
        (dict(variant={}), "has variant; known are"),
        (dict(seeds=3), "seeds must be a list of integers"),
        (dict(held_out=["outline"]), "a list of lists"),
        (dict(variants={"a": {"ddm.invariant": "coral"}}), "variant a has settings .*invariant"),
        (dict(variants={"a": {"epoch": 3}}), "variant a has settings .* epoch"),
        (dict(variants={"a": {"seed": 3}}), "seed is not to be set"),
        (dict(variants={"a/b": {}}), "cannot be a file's name"),
        (
            dict(variants={"a": {"finetune.steps": 3}}),
            "variant a: sets finetune.steps, .* no `finetune:`",
        ),
        (
            dict(variants={"a": {"finetune.step": 3}}, finetune={"steps": 2}),
            "finetune has settings this version does not know: step",
        ),
        (dict(base={"epochs": -1}), "epochs=-1 must be at least 0"),
        (
            dict(base={"train_split": "training"}),
            "variant plain: train_split: training must be one of train, all",
        ),
        (
            dict(variants={"a": {"ddm.invariance": "corall"}}),
            "ddm.invariance='corall' is unknown; .*or give",
        ),
        (dict(variants={"a": {"epochs": 1.5}}), "variant a: epochs: 1.5 must be a whole number"),
        (dict(variants={"a": {"seed": None}}), "seed is not to be set"),
        (dict(variants={"a": {"size": None}}), "variant a: size has no value"),
        (dict(variants={"a": {"ddm": 3}}), "ddm must hold settings by name, not 3"),
        (dict(base=[1]), r"base must hold settings by name, not \[1\]"),
        (dict(variants={"a": 3}), "variant a must hold settings by name, not 3"),
        (dict(variants={"a": {1: 2}}), "variant a must hold settings by name"),
        (dict(reserved="outline"), "reserved must be a list, not 'outline'"),
        (dict(seeds=[0, 0]), "asks twice for coral_outline_0, plain_outline_0"),
        (dict(folds=["A"], base={"splits": "B"}), "splits is not to be set"),
        (dict(base={"ddm.invariance": 3}), "ddm.invariance: 3 must be one of .*, or package.modu"),
        (dict(base={"ddm.invariance_args": {"nope": 1}}), "instances has no setting 'nope'"),
        (dict(base={"method_args": {"nope": 1}}), "has no setting 'nope'"),
        (dict(folds=["F"]), "splits: F must be one of drawn, official, A"),
        (
            dict(base={"finetune.steps": 3}),
            "variant plain: sets finetune.steps, .* no `finetune:`",
        ),
        (dict(finetune={"learning_rates": 0.1}), "finetune: learning_rates: 0.1 must be a list"),
    ],
)
def test_bad_grids_are_refused_before_anything_runs(tmp_path, images, changes, message):
    grid = write_grid(tmp_path / "g.yaml", images, **changes)
    with pytest.raises(DdmError, match=message):
        bench(grid, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line(tmp_path, capsys):
    assert main(["bench", str(tmp_path / "no.yaml"), "-o", str(tmp_path / "o")]) == 2
    assert (
        "no.yaml does not exist: give a grid (YAML), or one of camelyon17-methods, camelyon17-"
        in capsys.readouterr().err
    )
    (tmp_path / "g.yaml").write_text("variants: {a: {}}")
    assert main(["bench", str(tmp_path / "g.yaml"), "-o", "o", "--shard", "two"]) == 2
    assert "--shard two: give i/n" in capsys.readouterr().err
    assert main(["bench", str(tmp_path / "g.yaml"), "-o", "o", "--shard", "3/2"]) == 2
    assert "both count from 1" in capsys.readouterr().err


def test_images_by_what_is_left_out(tmp_path):
    held_out = [["a"], ["a", "b"], []]
    grid = Grid.load(write_grid(tmp_path / "g.yaml", "folder/{held_out}.csv", held_out=held_out))
    names = {r.held_out: grid.config(r, tmp_path).images for r in grid.runs}
    assert names == {
        ("a",): "folder/a.csv",
        ("a", "b"): "folder/a+b.csv",
        (): "folder/.csv",
    }
