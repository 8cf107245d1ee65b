"""Features of any images in a table: what `ddm embed` writes, and what it refuses."""

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from ddm import embeddings
from ddm.cli import main
from ddm.embeddings import embed_images
from ddm.errors import DdmError
from ddm.evaluate import evaluate
from ddm.pretrain import pretrain
from synthetic import write_folder
from test_pretrain import config


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("embed") / "images", each=8)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    settings = config(tmp_path_factory.mktemp("embed"), images=str(images), epochs=1)
    run = pretrain(settings)
    evaluate(run.path)
    return run


def read(path):
    frame = pd.read_parquet(path)
    return list(frame["path"]), np.stack(frame["features"].to_numpy())


@pytest.mark.parametrize("portion", ["all", "variant", "invariant", "whitened"])
def test_they_are_those_of_the_evaluation(run, images, tmp_path, monkeypatch, portion):
    monkeypatch.setattr(embeddings, "ROWS", 7)
    dataset = embed_images(run.path, str(images), tmp_path / "new" / "f.parquet", portion)
    paths, features = read(tmp_path / "new" / "f.parquet")
    known = pd.read_parquet(run.domains_file)["path"].tolist()
    assert sorted(known) == paths == list(dataset.keys)
    expected = np.load(run.features_file)[[known.index(path) for path in paths]]
    if portion == "whitened":
        fitted = load_file(run.whitening_file)
        expected = (expected - fitted["mean"]) @ fitted["matrix"]
    width = 192 // 8
    columns = {"variant": slice(None, width), "invariant": slice(width, None)}
    expected = expected[:, columns.get(portion, slice(None))]
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["f.parquet"]


@pytest.mark.parametrize("kind", ["folder", "manifest"])
def test_images_kept_larger_than_their_views_are_read_as_in_training(images, tmp_path, kind):
    source = images
    if kind == "manifest":
        source = images / "list.csv"
        paths = sorted(str(p.relative_to(images)) for p in images.rglob("*.png"))
        table = {"path": paths, "domain": [path.split("/")[0] for path in paths]}
        pd.DataFrame(table).to_csv(source, index=False)
    run = pretrain(config(tmp_path, images=str(source), epochs=1, size=96))
    evaluate(run.path)
    embed_images(run.path, str(source), tmp_path / "f.parquet")
    paths, features = read(tmp_path / "f.parquet")
    known = pd.read_parquet(run.domains_file)["path"].tolist()
    expected = np.load(run.features_file)[[known.index(path) for path in paths]]
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_images_that_the_run_never_saw_at_any_depth(run, images, tmp_path, capsys):
    heap = tmp_path / "heap"
    (heap / "deep" / "er").mkdir(parents=True)
    source = sorted(images.rglob("*.png"))
    for i, path in enumerate(source[:5]):
        (heap / ("deep/er" if i % 2 else ".") / f"{i}.png").write_bytes(path.read_bytes())
    for name in "abcdefg":
        (heap / f"broken-{name}.png").write_bytes(b"no image")
    output = tmp_path / "features.parquet"
    assert main(["embed", str(run.path), str(heap), "-o", str(output)]) == 0
    said = capsys.readouterr()
    assert "features of 5 images" in said.out
    assert "broken-e.png could not be read" in said.err and "broken-f.png" not in said.err
    assert "nor could 2 more: `ddm data check" in said.err
    paths, features = read(output)
    assert paths == ["0.png", "2.png", "4.png", "deep/er/1.png", "deep/er/3.png"]
    assert features.shape == (5, 192)


def test_what_is_refused_writes_nothing(run, images, tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_bytes(run.config_file.read_bytes())
    manifest = tmp_path / "list.parquet"
    pd.DataFrame({"path": [str(next(images.rglob("*.png")))]}).to_parquet(manifest)
    before = manifest.read_bytes()
    output = tmp_path / "out" / "f.parquet"
    for arguments, message in (
        ((run.path, str(images), output, "invariants"), "--portion invariants is unknown; choose"),
        ((run.path, str(images), output.with_suffix(".csv")), "name ends in .parquet"),
        ((run.path, str(manifest), manifest), "is the manifest itself"),
        ((unfinished, str(images), output), "has not finished; `ddm resume"),
        ((tmp_path / "nope", str(images), output), r"nope is not a run folder"),
        ((run.path, str(tmp_path / "nowhere"), output), "neither a folder"),
    ):
        with pytest.raises(DdmError, match=message):
            embed_images(*arguments)
    whitening = run.whitening_file.read_bytes()
    run.whitening_file.unlink()
    with pytest.raises(DdmError, match=r"whitening\.safetensors is missing: `ddm evaluate"):
        embed_images(run.path, str(images), output, "whitened")
    run.whitening_file.write_bytes(whitening)
    assert not output.parent.exists() and manifest.read_bytes() == before


def test_a_table_that_is_there_is_kept(run, images, tmp_path):
    output = tmp_path / "features.parquet"
    output.write_bytes(b"of another run")
    with pytest.raises(DdmError, match=r"features\.parquet exists; .* give --overwrite"):
        embed_images(run.path, str(images), output)
    assert output.read_bytes() == b"of another run"
    embed_images(run.path, str(images), output, overwrite=True)
    assert len(read(output)[0]) > 5
