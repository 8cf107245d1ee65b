"""Hugging Face data sets saved on disk: columns found or named, splits, and what is refused."""

import io
import os
import pickle
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from ddm.config import PretrainConfig
from ddm.data.huggingface import load_huggingface, recognize
from ddm.data.loading import IndexedImages
from ddm.errors import DdmError
from ddm.evaluate import evaluate
from ddm.pretrain import pretrain

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def picture(shade, side=8, mode="L"):
    buffer = io.BytesIO()
    Image.new(mode, (side, side), shade).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{shade}.png"}


FEATURES = {
    "image": datasets.Image(),
    "domain": datasets.Value("string"),
    "label": datasets.ClassLabel(names=["dog", "cat", "bird"]),
}


def table(n=6, start=0, **columns):
    """``n`` rows; column=(type, values) adds, replaces or, with None, removes one."""
    content = {
        "image": [picture(start + i) for i in range(n)],
        "domain": [("photo", "sketch")[i % 2] for i in range(n)],
        "label": [i % 3 for i in range(n)],
    }
    features = dict(FEATURES)
    for name, column in columns.items():
        if column is None:
            del features[name], content[name]
        else:
            features[name], content[name] = column
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def save(path, **splits):
    datasets.DatasetDict(splits).save_to_disk(path)
    return path


def domains_of(dataset):
    return [dataset.domains.names[d] if d >= 0 else None for d in dataset.domains.index]


def test_columns_and_splits_are_found(tmp_path):
    root = save(tmp_path / "d", train=table(4), validation=table(2, 10), test=table(3, 20))
    dataset = load_huggingface(root, size=4)
    assert recognize(root) == "huggingface"
    assert dataset.name == "d"
    assert dataset.keys[:5] == ("train/0", "train/1", "train/2", "train/3", "validation/0")
    assert list(dataset.splits) == ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    assert list(dataset.official_splits) == ["train"] * 4 + ["validation"] * 2 + ["test"] * 3
    assert domains_of(dataset)[:3] == ["photo", "sketch", "photo"]
    # In the order of ClassLabel, not of the alphabet.
    assert dataset.labels["class"].names == ("dog", "cat", "bird")
    assert list(dataset.labels["class"].index) == [0, 1, 2, 0, 0, 1, 0, 1, 2]
    assert [dataset.read(i)[0, 0, 0] for i in range(9)] == [0, 1, 2, 3, 10, 11, 20, 21, 22]
    assert dataset.read(0).shape == (4, 4, 3)
    assert dataset.enlarged == 0
    assert load_huggingface(root, size=9).enlarged == 9
    assert dataset.resized(9).read(8).shape == (9, 9, 3)


def test_a_single_split_is_divided(tmp_path):
    table(40).save_to_disk(tmp_path / "one")
    save(tmp_path / "two", train=table(40))
    for name, first in (("one", "all/0"), ("two", "train/0")):
        dataset = load_huggingface(tmp_path / name)
        assert dataset.keys[0] == first
        assert set(dataset.splits) == {"train", "val", "test"}
        assert dataset.official_splits is None


def test_a_split_for_each_domain(tmp_path):
    tables = {name: table(20, 20 * i, domain=None) for i, name in enumerate(("sketch", "photo"))}
    dataset = load_huggingface(save(tmp_path / "d", **tables))
    assert domains_of(dataset) == ["sketch"] * 20 + ["photo"] * 20
    assert set(dataset.splits) == {"train", "val", "test"}


def test_columns_are_named(tmp_path):
    columns = {
        "thumbnail": (datasets.Image(), [picture(90 + i) for i in range(6)]),
        "style": (datasets.Value("int64"), [9, 10, 9, 10, 9, None]),
        "animal": (datasets.Value("string"), [*"abcab", None]),
    }
    table(6, **columns).save_to_disk(tmp_path / "d")
    dataset = load_huggingface(
        tmp_path / "d", image="thumbnail", domain="style", label="animal", size=8
    )
    assert domains_of(dataset) == ["9", "10", "9", "10", "9", None]
    assert dataset.domains.names == ("9", "10")
    assert list(dataset.labels["class"].index) == [0, 1, 2, 0, 1, -1]
    assert dataset.read(0)[0, 0, 0] == 90


def test_without_domains_or_labels(tmp_path):
    table(4, domain=None, label=None).save_to_disk(tmp_path / "d")
    dataset = load_huggingface(tmp_path / "d", channels=1, size=8)
    assert domains_of(dataset) == [None] * 4
    assert dataset.labels == {}
    assert dataset.read(2).shape == (8, 8, 1)


def test_domain_as_a_class_label(tmp_path):
    domain = (datasets.ClassLabel(names=["sketch", "art"]), [1, 0, 0, 1])
    table(4, domain=domain).save_to_disk(tmp_path / "d")
    dataset = load_huggingface(tmp_path / "d")
    assert dataset.domains.names == ("sketch", "art")
    assert domains_of(dataset) == ["art", "sketch", "sketch", "art"]


def test_unreadable_images_are_skipped(tmp_path):
    images = [picture(1), {"bytes": b"no image", "path": None}, picture(3), None]
    images.append({"bytes": picture(5)["bytes"][:40], "path": None})
    table(5, image=(datasets.Image(), images)).save_to_disk(tmp_path / "d")
    dataset = load_huggingface(tmp_path / "d")
    assert dataset.keys == ("all/0", "all/2")
    assert [dataset.read(i)[0, 0, 0] for i in range(2)] == [1, 3]
    reasons = dict(dataset.skipped)
    assert reasons["all/1"] == "not an image, or damaged at its start"
    assert reasons["all/3"] == "the file is empty"
    with pytest.raises(DdmError, match=r"3 of 5 images cannot be read, first 'all/1' \(not an im"):
        load_huggingface(tmp_path / "d", strict=True)


def test_images_in_files_of_their_own(tmp_path, monkeypatch):
    for i in (7, 9):
        (tmp_path / f"{i}.png").write_bytes(picture(i)["bytes"])
    images = [{"bytes": None, "path": str(tmp_path / f"{i}.png")} for i in (7, 8, 9)]
    fetched = table(3, image=(datasets.Image(), images))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: fetched)
    dataset = load_huggingface("hf:someone/files", size=8)
    assert [dataset.read(i)[0, 0, 0] for i in range(2)] == [7, 9]
    assert dataset.skipped == (("all/1", "no such file"),)


def test_batches_in_another_process(tmp_path):
    dataset = load_huggingface(save(tmp_path / "d", train=table(4), test=table(4, 10)), size=8)
    images, domains, index = pickle.loads(
        pickle.dumps(IndexedImages(dataset, np.array([6, 1])))
    ).__getitems__([0, 1])
    assert images[:, 0, 0, 0].tolist() == [12, 1]
    assert domains.tolist() == [0, 1]
    assert index.tolist() == [6, 1]


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({"image": None}, {}, "no column of type Image, only 'domain', 'label': cast the"),
        ({"other": (datasets.Image(), [None] * 6)}, {}, "'image', 'other' could each be the image"),
        ({}, {"domain": "dmain"}, "no column 'dmain', only 'image', 'domain', 'label': give anoth"),
        ({}, {"image": "label"}, "column 'label' is of type ClassLabel, not Image"),
        ({"style": (datasets.Value("string"), ["a"] * 6)}, {}, "'domain', 'style' could each be"),
        ({"label": (datasets.Value("float32"), [0.5] * 6)}, {}, "'label' is of type float32, but"),
        ({}, {"channels": 8}, "channels must be 3"),
    ],
)
def test_columns_that_do_not_do(tmp_path, columns, arguments, message):
    table(6, **columns).save_to_disk(tmp_path / "d")
    with pytest.raises(DdmError, match=message) as raised:
        load_huggingface(tmp_path / "d", **arguments)
    assert "\n" not in str(raised.value)


def test_splits_that_do_not_do(tmp_path):
    with pytest.raises(DdmError, match="split 'extra' is none of train, val and test, but others"):
        load_huggingface(save(tmp_path / "a", train=table(2), extra=table(2)))
    with pytest.raises(DdmError, match="split 'test' has other columns or classes than 'train'"):
        load_huggingface(save(tmp_path / "b", train=table(2), test=table(2, domain=None)))


def test_wrong_roots(tmp_path):
    root = save(tmp_path / "above" / "d", train=table(2), test=table(2))
    with pytest.raises(DdmError, match=r"above is one folder too high.*: give .*above/d$"):
        load_huggingface(tmp_path / "above")
    assert recognize(tmp_path / "above") == "huggingface"
    with pytest.raises(DdmError, match="does not exist: give a directory that save_to_disk wrote"):
        load_huggingface(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DdmError, match="no directory that save_to_disk wrote: it has neither"):
        load_huggingface(tmp_path / "empty")
    assert recognize(tmp_path / "empty") is None
    assert recognize(tmp_path / "nowhere") is None
    # One split of it is a data set too.
    assert len(load_huggingface(root / "test")) == 2


def test_copies_that_are_not_complete(tmp_path):
    root = save(tmp_path / "d", train=table(2), test=table(2))
    (arrow,) = (root / "test").glob("*.arrow")
    whole = arrow.read_bytes()
    arrow.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DdmError, match=r"d is damaged \(.*\): copy or save it again"):
        load_huggingface(root)
    arrow.unlink()
    with pytest.raises(DdmError, match=r"not complete, .*test/data.*arrow is missing: copy"):
        load_huggingface(root)
    shutil.rmtree(root / "test")
    with pytest.raises(DdmError, match=r"not complete, .*test/state.json is missing"):
        load_huggingface(root)
    (root / "dataset_dict.json").write_text("{")
    with pytest.raises(DdmError, match="damaged note"):
        load_huggingface(root)


def test_hub(tmp_path, monkeypatch):
    asked = []

    def load_dataset(name, config, revision):
        asked.append((name, config, revision))
        if name == "nobody/none":
            raise ConnectionError("Couldn't reach the hub\nat all")
        return datasets.DatasetDict(train=table(4), test=table(2))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    dataset = load_huggingface("hf:flwrlabs/pacs:c@v1")
    assert asked == [("flwrlabs/pacs", "c", "v1")]
    assert len(dataset) == 6
    load_huggingface("hf:flwrlabs/pacs")
    assert asked[1:] == [("flwrlabs/pacs", None, None)]
    with pytest.raises(
        DdmError, match=r"hf:nobody/none cannot be fetched .*hub at all\): check it"
    ):
        load_huggingface("hf:nobody/none")


def test_offline_for_real(tmp_path):
    with pytest.raises(DdmError, match=r"hf:flwrlabs/pacs cannot be fetched from the Hugging Face"):
        load_huggingface("hf:flwrlabs/pacs")


def test_the_package_is_told_of(tmp_path, monkeypatch):
    root = save(tmp_path / "d", train=table(2))
    monkeypatch.setattr(datasets, "__version__", "2.19.0")
    with pytest.raises(DdmError, match=r"'datasets' 2\.19\.0 is too old: pip install"):
        load_huggingface(root)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DdmError, match="need the package 'datasets': pip install 'datasets>=4'"):
        load_huggingface(root)
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"]


def test_splits_of_their_own_are_none_of_wilds(tmp_path):
    """The protocol of WILDS once took every labelled data set with the splits train and test."""
    root = save(tmp_path / "mypacs", train=table(12), test=table(6, 12))
    config = PretrainConfig(
        images=str(root), output=str(tmp_path / "run"), size=8, epochs=0, batch_size=4,
        accelerator="cpu",
    )  # fmt: skip
    rows = evaluate(pretrain(config).path)["rows"]
    assert {row["measure"] for row in rows} >= {"linear", "leakage"}
