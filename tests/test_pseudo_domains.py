"""Discovered domains in tables, in pre-training, and found anew while training."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import adjusted_mutual_info_score

from ddm import discovery_page
from ddm.cli import main
from ddm.config import ModuleConfig
from ddm.data import load_images, open_heap, open_images
from ddm.discovery import damp_changes
from ddm.domains import DomainTable
from ddm.errors import DdmError
from ddm.evaluate import evaluate
from ddm.pretrain import _tell_domains, pretrain, resume
from ddm.pseudo_domains import FeatureMemory, discover, rediscover
from ddm.training import Pretraining
from synthetic import make_dataset, write_folder
from test_pretrain import Stop, assert_same_run, config, stop_at


@pytest.fixture(scope="module")
def heap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three styles at several depths, whose folders say nothing of their style."""
    source = write_folder(tmp_path_factory.mktemp("source"), each=10)
    root = tmp_path_factory.mktemp("heap") / "images"
    for i, path in enumerate(sorted(source.rglob("*.png"))):
        place = root / ("a" if i % 2 else "b/c") / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    return root


def test_a_table_to_train_with(heap: Path, tmp_path: Path) -> None:
    output = tmp_path / "tables" / "domains.parquet"
    found, dataset = discover(str(heap), output, 3)
    frame = pd.read_parquet(output)
    assert list(frame.columns) == ["path", "domain", "confidence", "split"]
    assert len(frame) == len(dataset) == 90
    assert set(frame["domain"]) <= {"domain-0", "domain-1", "domain-2", ""}
    # It is a manifest, wherever it lies: paths are relative to it.
    again = load_images(str(output), 32)
    assert again.domains.names == ("domain-0", "domain-1", "domain-2")
    np.testing.assert_array_equal(again.domains.index, found.domains)
    # An image to test stays one, whichever way it is read.
    np.testing.assert_array_equal(again.splits, open_heap(str(heap), 32).splits)
    run = pretrain(config(tmp_path, images=str(output), epochs=1))
    assert run.encoder_file.exists()


def test_a_manifest_keeps_its_columns_and_its_domains_are_not_looked_at(
    heap: Path, tmp_path: Path
) -> None:
    paths = sorted(str(p.relative_to(heap.parent)) for p in heap.rglob("*.png"))
    manifest = heap.parent / "list.csv"
    wrong = [f"wrong-{i % 4}" for i in range(len(paths))]
    classes = [f"class-{i % 3}" for i in range(len(paths))]
    given = {"class": classes, "group": [f"patient-{i // 2}" for i in range(len(paths))]}
    given["instance"] = [f"{i:03}" if i % 3 else "" for i in range(len(paths))]
    pd.DataFrame({"path": paths, "domain": wrong, **given}).to_csv(manifest, index=False)
    # Where the manifest is reached by a link, its paths are from the link's folder.
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "link.csv").symlink_to(manifest)
    for path in paths:
        (tmp_path / "lists" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lists" / path).symlink_to(heap.parent / path)
    (tmp_path / "out.csv").symlink_to(tmp_path / "lists" / "elsewhere.csv")
    for source, output in (
        (manifest, tmp_path / "domains.csv"),
        (tmp_path / "lists" / "link.csv", tmp_path / "out.csv"),
    ):
        discover(str(source), output, 2)
        frame = pd.read_csv(output, keep_default_na=False, dtype=str)
        for name, values in given.items():
            assert frame[name].tolist() == values
        assert set(frame["domain"]) <= {"domain-0", "domain-1", ""}
        assert len(load_images(str(output), 32)) == len(paths)
    with pytest.raises(DdmError, match="the manifest itself"):
        discover(str(manifest), manifest, 2)


def test_what_was_corrected_by_hand_is_not_lost(heap: Path, tmp_path: Path) -> None:
    output = tmp_path / "domains.csv"
    discover(str(heap), output, 2)
    corrected = output.read_text().replace("domain-0", "photo")
    output.write_text(corrected)
    with pytest.raises(DdmError, match=r"domains.csv exists, and would lose.*--overwrite"):
        discover(str(heap), output, 2)
    assert output.read_text() == corrected
    discover(str(heap), output, 2, overwrite=True)
    assert "photo" not in output.read_text()


def test_images_that_are_no_files(heap: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """A saved Hugging Face data set is a folder, and its images are rows."""
    dataset = make_dataset(each=10)
    asked = []

    def load(images, size, *_):
        asked.append(images)
        return dataset

    saved = tmp_path / "saved"
    saved.mkdir()
    for name in ("dataset_info.json", "state.json"):
        (saved / name).write_text("{}")
    monkeypatch.setattr("ddm.data.load_images", load)
    output = tmp_path / "domains.csv"
    assert main(["discover", str(saved), "-o", str(output), "--num_domains", "3"]) == 0
    command = f"ddm pretrain {saved} --domains discover"
    assert f"Next: {command}" in capsys.readouterr().out
    assert f"{command} -o runs/mine" in output.with_suffix(".html").read_text()
    assert "correct" not in output.with_suffix(".html").read_text().lower()
    assert pd.read_csv(output)["path"].tolist() == list(dataset.keys)
    # Nor does training take it for a heap of files.
    settings = config(tmp_path, images=str(saved), domains="discover", num_domains=3)
    assert open_images(settings) is dataset
    assert asked == [str(saved)] * 2


def test_one_domain_cannot_be_trained_with(heap: Path, tmp_path: Path, capsys) -> None:
    images = tmp_path / "noise"
    images.mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(images / f"{i}.png")
    output = tmp_path / "domains.csv"
    assert main(["discover", str(images), "-o", str(output)]) == 0
    assert "One domain" in (said := capsys.readouterr().out) and "Next" not in said
    assert "ddm pretrain" not in output.with_suffix(".html").read_text()


def test_the_command(heap: Path, tmp_path: Path, capsys) -> None:
    images = tmp_path / "images"
    shutil.copytree(heap, images)
    (images / "größer.png").write_bytes(b"no image")
    (images / "ärger.png").write_bytes((heap / "a" / "1.png").read_bytes())
    output = tmp_path / "domains.csv"
    assert main(["discover", str(images), "-o", str(output), "--num_domains", "2-4"]) == 0
    said = capsys.readouterr()
    assert "domains among 91 images" in said.out and f"ddm pretrain {output}" in said.out
    assert "of the clusterings find" in said.out
    page = output.with_suffix(".html").read_text()
    for text in ("Most typical", "Most doubtful", "Number of domains", "Map of styles"):
        assert text in page
    assert 'src="http' not in page  # Nothing is loaded from elsewhere.
    # It says which row a picture is, and what was left out.
    named = set(re.findall(r"<li><code>([^<]*)</code></li>", page))
    assert named and named <= set(pd.read_csv(output)["path"])
    assert "<li><code>größer.png</code>:" in page
    assert "1 image could not be read, first größer.png" in said.err and "lists them" in said.err
    # Spreadsheets know UTF-8 by its mark, and write semicolons in some countries.
    assert output.read_bytes().startswith(b"\xef\xbb\xbf")
    lines = output.read_text("utf-8-sig").replace(",", ";")
    (tmp_path / "corrected.csv").write_text(lines, encoding="utf-8-sig")
    one, other = (load_images(str(tmp_path / n), 32) for n in ("domains.csv", "corrected.csv"))
    assert one.keys == other.keys and "images/ärger.png" in one.keys
    assert one.domains.names == other.domains.names


def test_interrupted_before_the_page_no_table_is_there(
    heap: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(discovery_page, "write_discovery_page", interrupt)
    monkeypatch.chdir(tmp_path)
    assert main(["discover", str(heap), "--num_domains", "3"]) == 130
    assert "resume" not in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_domains_outlive_a_page_that_cannot_be_written(heap: Path, tmp_path: Path, capsys) -> None:
    output, page = tmp_path / "domains.csv", tmp_path / "taken.html"
    page.mkdir()
    asked = ["discover", str(heap), "-o", str(output), "--num_domains", "3", "--page", str(page)]
    assert main(asked) == 2
    assert f"the domains are in {output}" in capsys.readouterr().err
    assert pd.read_csv(output)["domain"].nunique() == 3


def test_what_continues_an_interrupted_run(heap: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setattr("ddm.pretrain.pretrain", interrupt)
    command = ["pretrain", str(heap), "-o", str(run)]
    assert main(command) == 130 and "resume" not in capsys.readouterr().err
    (run / "config.yaml").touch()
    assert main(command) == 130 and f"`ddm resume {run}`" in capsys.readouterr().err
    monkeypatch.setattr("ddm.demo.run_demo", interrupt)
    assert main(["demo"]) == 130 and "the same command" in capsys.readouterr().err


def test_names_that_differ_by_more_than_case_are_no_slip(capsys) -> None:
    names = ["C", "C++", "x1.0", "x10", "5", "-5", "1_12", "11_2"]
    _tell_domains(DomainTable.from_names(names * 20))
    assert "if they are one" not in capsys.readouterr().err
    _tell_domains(DomainTable.from_names([f"{word} {i}" for i in range(9) for word in ("a", "A")]))
    assert capsys.readouterr().err.count("if they are one, give them one name, and 8 more") == 1


def test_domains_are_told_and_slips_of_the_pen(tmp_path: Path, capsys) -> None:
    root = write_folder(tmp_path / "images", each=12)
    rows = [(p.relative_to(root), p.parts[-3]) for p in sorted(root.rglob("*.png"))]
    names = ["Night" if d == "night" and i % 2 else d for i, (_, d) in enumerate(rows)]
    names[0] = "fotp"
    manifest = root / "list.csv"
    table = pd.DataFrame({"path": [str(path) for path, _ in rows], "domain": names})
    table.to_csv(manifest, index=False)
    settings = config(tmp_path, images=str(manifest), epochs=1, train_split="all")
    pretrain(settings)
    said = capsys.readouterr().err
    counts = pd.Series(names).value_counts()
    assert f"images of 5 domains: Night {counts['Night']}, filled {counts['filled']}" in said
    assert "domains 'Night' and 'night' are 2; if they are one" in said
    assert "fewer than 10 images to train on in fotp:" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_domains", "many"], "give a number"),
        (["--num_domains", "1"], "from 2 on"),
        (["--num_domains", "60"], "too few to find 60"),
        (["--num_domains", "4-many"], "or a range (3-8, 3-)"),
        (["--seed", "-1"], "seed=-1 must not be negative"),
        (["-o", "domains.txt"], "ends in .parquet or .csv"),
        (["-o", "domains.csv", "--page", "domains.csv"], "name ends in .html"),
    ],
)
def test_bad_words(heap: Path, tmp_path: Path, capsys, monkeypatch, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["discover", str(heap), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not any(tmp_path.iterdir())


def test_interrupted_nothing_is_half_written(heap: Path, tmp_path: Path, monkeypatch) -> None:
    output = tmp_path / "domains.parquet"
    output.write_bytes(b"an older one")

    def full(self, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError):
        discover(str(heap), output, 2, overwrite=True)
    assert output.read_bytes() == b"an older one"
    assert [p.name for p in tmp_path.iterdir()] == ["domains.parquet"]


# --- pre-training --------------------------------------------------------------------------------


def test_training_on_found_domains(tmp_path: Path) -> None:
    dataset = make_dataset(each=20, size=32)
    settings = config(tmp_path, epochs=1, domains="discover", held_out=["outline"], num_domains=2)
    run = pretrain(settings, dataset)
    table = run.load_pseudo_domains()
    outline = dataset.domains.index == dataset.domains.names.index("outline")
    # Held-out and test images were not looked at.
    assert (table.index[outline] == -1).all()
    assert (table.index[dataset.splits == "test"] == -1).all()
    known = table.index >= 0
    assert adjusted_mutual_info_score(dataset.domains.index[known], table.index[known]) > 0.9
    # Judged by the given domains all the same.
    rows = evaluate(run.path, dataset)["rows"]
    assert {r["domain"] for r in rows} >= {"night", "filled", "outline"}


def test_shuffled_domains_are_as_many_of_each_and_say_nothing(tmp_path: Path) -> None:
    dataset = make_dataset(each=40, size=32)
    settings = config(tmp_path, epochs=1, domains="shuffled", held_out=["outline"])
    run = pretrain(settings, dataset)
    table = run.load_pseudo_domains()
    names = np.asarray(dataset.domains.names)
    used = np.isin(names[dataset.domains.index], ["filled", "night"]) & (dataset.splits == "train")
    assert set(table.names) == {"filled", "night"}
    np.testing.assert_array_equal(table.index >= 0, used)
    dealt, given = np.asarray(table.names)[table.index[used]], names[dataset.domains.index[used]]
    assert sorted(dealt) == sorted(given)
    assert 0 < (dealt == given).mean() < 1
    assert abs(adjusted_mutual_info_score(given, dealt)) < 0.1
    rows = evaluate(run.path, dataset)["rows"]  # Judged by the given domains.
    assert {r["domain"] for r in rows} >= {"night", "filled", "outline"}


def test_a_heap_is_trained_on_and_evaluated(heap: Path, tmp_path: Path) -> None:
    settings = config(tmp_path, images=str(heap), epochs=1, domains="discover", num_domains=3)
    rows = evaluate(pretrain(settings).path)["rows"]
    assert {r["domain"] for r in rows} >= {"domain-0", "domain-1"}
    assert {r["measure"] for r in rows} == {"leakage"}


@pytest.mark.parametrize("checkpoint_steps", [0, 2])
def test_resume_with_domains_found_anew(tmp_path, monkeypatch, checkpoint_steps) -> None:
    dataset = make_dataset()
    # Undamped, so that something does move in so short a run.
    monkeypatch.setattr(
        "ddm.pseudo_domains.damp_changes", lambda old, found: damp_changes(old, found, sure=0)
    )
    settings = dict(
        domains="discover",
        num_domains=3,
        rediscover_every=1,
        learning_rate=1e-2,
        checkpoint_steps=checkpoint_steps,
    )
    whole = pretrain(config(tmp_path / "a", **settings), dataset)
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(Stop):
            pretrain(config(tmp_path / "b", **settings), dataset)
    resumed = resume(tmp_path / "b" / "run", dataset)
    assert_same_run(whole, resumed)
    one, other = whole.load_pseudo_domains(), resumed.load_pseudo_domains()
    np.testing.assert_array_equal(one.index, other.index)
    np.testing.assert_array_equal(one.confidence, other.confidence)
    rows = pd.read_csv(whole.metrics_file)
    found = rows[rows["domains_agreement"].notna()]
    # Not after the last one; after the first one only where there is something to cluster yet.
    assert 1 in set(found["epoch"]) <= {0, 1}
    assert found["domains_true_agreement"].between(-0.1, 1).all()
    assert (found["domains_moved"] > 0).any()


def test_resume_of_a_heap_knows_no_truth(heap: Path, tmp_path: Path, monkeypatch) -> None:
    settings = dict(images=str(heap), domains="discover", num_domains=3, rediscover_every=1)
    whole = pretrain(config(tmp_path / "a", **settings))
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(Stop):
            pretrain(config(tmp_path / "b", **settings))
    assert_same_run(whole, resume(tmp_path / "b" / "run"))
    assert "domains_true_agreement" not in whole.metrics_file.read_text()


def test_found_again_where_a_kill_came_before_the_table(tmp_path: Path, monkeypatch) -> None:
    dataset = make_dataset()
    settings = dict(domains="discover", num_domains=3)
    whole = pretrain(config(tmp_path / "a", **settings), dataset)
    with monkeypatch.context() as patch:
        stop_at(patch, 0)
        with pytest.raises(Stop):
            pretrain(config(tmp_path / "b", **settings), dataset)
    (tmp_path / "b" / "run" / "pseudo_domains.parquet").unlink()
    assert_same_run(whole, resume(tmp_path / "b" / "run", dataset))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_domains=3), "domains discover"),
        (dict(rediscover_every=3), "domains discover"),
        (dict(domains="shuffled", num_domains=3), "domains discover"),
        (dict(domains="discover", num_domains=1), "at least 2"),
        (
            dict(domains="discover", rediscover_every=1, images_per_domain=4),
            "images_per_domain=4: not with rediscover_every",
        ),
        (dict(images_per_domain=0), "images_per_domain=0 must be at least 1"),
        (dict(domains="shuffled", ddm=ModuleConfig(enabled=False)), "--domains shuffled is for"),
    ],
)
def test_settings_that_contradict(tmp_path, changes, message) -> None:
    with pytest.raises(DdmError, match=message):
        config(tmp_path, **changes)


def test_domains_of_content_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("ddm.discovery._halves_kappa", lambda *_: 0.1)
    with pytest.raises(DdmError, match=r"follow content, not style .* kappa 0.10"):
        pretrain(config(tmp_path, domains="discover"), make_dataset())
    assert not (tmp_path / "run").exists()


# --- found anew ----------------------------------------------------------------------------------


def test_the_memory_keeps_the_mean_of_the_views() -> None:
    memory = FeatureMemory(np.array([3, 5, 8]), size=10, dim=2)
    views = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[3.0, 0.0], [5.0, 4.0]]])
    memory.add(torch.tensor([8, 3]), views)
    features, seen = memory.joined()
    assert seen.tolist() == [True, False, True]
    np.testing.assert_allclose(features, [[4, 4], [0, 0], [2, 1]])
    later = FeatureMemory(np.array([3, 5, 8]), size=10, dim=2)
    later.load(memory.state(), rank=0)
    np.testing.assert_array_equal(later.joined()[0], features)
    # What other ranks had seen is counted once: by the first.
    later.load(memory.state(), rank=1)
    assert not later.joined()[1].any()


def test_mistakes_are_corrected_and_unseen_images_stay() -> None:
    rng = np.random.default_rng(0)
    n = 300
    true = rng.integers(0, 2, n)
    features = rng.normal(size=(n, 6)).astype(np.float32)
    features[:, 0] += 8 * true
    wrong = rng.random(n) < 0.15
    table = DomainTable(np.where(wrong, 1 - true, true), ("domain-0", "domain-1"))
    memory = FeatureMemory(np.arange(n), n, 6)
    seen = np.arange(0, n - 10)
    memory.add(torch.from_numpy(seen), torch.from_numpy(features[seen])[None])
    after, figures = rediscover(table, memory, seed=0)
    assert (after.index[seen] == true[seen]).mean() > 0.98
    np.testing.assert_array_equal(after.index[n - 10 :], table.index[n - 10 :])
    assert figures["domains_moved"] == pytest.approx(wrong[seen].mean(), abs=0.02)
    assert 0 < figures["domains_agreement"] < 1


def test_features_that_collapse_leave_the_domains_alone(tmp_path, monkeypatch, capsys) -> None:
    whole = Pretraining.training_step

    def dead(self, batch, batch_idx):
        loss = whole(self, batch, batch_idx)
        self.memory.features.zero_()
        return loss

    monkeypatch.setattr(Pretraining, "training_step", dead)
    settings = dict(domains="discover", num_domains=3, rediscover_every=1, epochs=2)
    run = pretrain(config(tmp_path, **settings), make_dataset())
    assert "the domains stay as they are" in capsys.readouterr().err
    assert run.encoder_file.exists()
