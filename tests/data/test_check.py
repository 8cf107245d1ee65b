"""What a check says about a tree whose every fault was put there on purpose."""

import json
import os
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import wilds_trees
from benchmark_trees import jpeg, label_of, names_of, write_images, write_split_file
from ddm.data.check import check_data
from ddm.data.domainbed import VLCS, load_vlcs
from ddm.data.domainnet import DOMAINNET
from ddm.data.pacs import PACS, load_pacs
from ddm.data.recognition import recognize, refuse_near_miss
from ddm.errors import DdmError

NAMES = names_of(PACS, per_class=2)


@pytest.fixture
def root(tmp_path):
    root = write_images(tmp_path / "PACS", NAMES)
    for domain in PACS.domains:
        for split, end in (("train", "1.jpg"), ("crossval", "2.jpg"), ("test", ".jpg")):
            mine = [n for n in NAMES if n.startswith(domain) and n.endswith(end)]
            write_split_file(root / f"{domain}_{split}_kfold.txt", PACS, mine, first_label=1)
    return root


def test_nothing_wrong(root):
    report = check_data(root)
    assert report.usable
    assert report.layout == "PACS, folders with split files"
    assert report.images == len(NAMES) == sum(c.images for c in report.counts)
    assert {(c.domain, c.label, c.split, c.images) for c in report.counts} == {
        (domain, label, split, 1)
        for domain in PACS.domains
        for label in PACS.classes
        for split in ("train", "val")
    }
    lines = str(report).splitlines()
    assert lines[:5] == [
        f"{root}: PACS, folders with split files",
        "56 images, 4 domains, 7 classes",
        "",
        "domain        images  train  val  dog  elephant  giraffe  guitar  horse  house  person",
        "art_painting      14      7    7    2         2        2       2      2      2       2",
    ]
    assert lines[8].split() == ["all", "56", "28", "28", *["8"] * 7]
    assert lines[-1] == "Nothing is missing, unreadable, duplicated or stray."


def test_everything_wrong(root):
    (root / "cartoon/dog/cartoon_001.jpg").unlink()
    shutil.rmtree(root / "sketch" / "person")
    (root / "photo/dog/photo_001.jpg").write_bytes((root / "photo/dog/photo_002.jpg").read_bytes())
    (root / "photo/cat").mkdir()
    shutil.copy(root / "photo/horse/photo_001.jpg", root / "cartoon/horse/cartoon_001.jpg")
    shutil.copy(root / "photo/horse/photo_001.jpg", root / "photo/horse/copy.jpg")
    Image.effect_noise((64, 64), 80).save(root / NAMES[0])
    os.truncate(root / NAMES[0], (root / NAMES[0]).stat().st_size // 2)
    (root / NAMES[1]).write_bytes(b"")
    write_images(root, ["wood/dog/1.jpg", "montage.jpg"])
    report = check_data(root)
    assert not report.usable
    assert report.missing == (
        "sketch/person/",
        "cartoon/dog/cartoon_001.jpg",
        "sketch/person/sketch_001.jpg",
        "sketch/person/sketch_002.jpg",
    )
    assert [key for key, _ in report.unreadable] == list(NAMES[:2])
    assert "truncated" in report.unreadable[0][1]
    assert report.unreadable[1][1] == "the file is empty"
    assert report.duplicates_within == (("photo/dog/photo_001.jpg", "photo/dog/photo_002.jpg"),)
    assert report.duplicates_across == (
        ("cartoon/horse/cartoon_001.jpg", "photo/horse/copy.jpg", "photo/horse/photo_001.jpg"),
    )
    assert report.duplicates_parted == report.duplicates_within  # One to train, one to validate.
    assert report.stray == ("montage.jpg", "photo/cat/", "wood/")
    assert report.unlisted == ("photo/horse/copy.jpg",)
    assert any("wood holds images, but is no domain of PACS" in line for line in report.faults)
    with pytest.raises(DdmError) as error:
        load_pacs(root)
    assert str(error.value) == report.faults[0]
    told = json.loads(report.to_json())
    assert told["usable"] is False
    assert told["unreadable"][1] == [NAMES[1], "the file is empty"]
    assert {"domain": "photo", "label": "horse", "split": "", "images": 1} in told["counts"]
    text = str(report)
    assert f"Unreadable: 2\n  {NAMES[0]} (" in text
    assert "Stray: 3\n  montage.jpg\n  photo/cat/\n  wood/" in text
    assert " = ".join(report.duplicates_across[0]) in text


def test_many_classes_and_long_lists(tmp_path):
    root = write_images(tmp_path / "domainnet", names_of(DOMAINNET, classes=DOMAINNET.classes[:20]))
    report = check_data(root)
    assert report.layout == "DomainNet, folders"
    assert len(report.missing) == 325
    text = str(report)
    assert "lacks 325 of DomainNet's 345 classes (bat, bathtub, beach, ...): complete" in text
    assert "  ... and 320 more (--json lists all)" in text
    assert "per class" in text.splitlines()[3]
    assert text.splitlines()[4].endswith("1 to 1")


def test_plain_folders(tmp_path):
    root = write_images(tmp_path / "mine", ["a/dog/1.jpg", "a/cat/1.jpg", "b/dog/1.jpg"])
    shutil.copy(root / "a/dog/1.jpg", root / "b/dog/2.jpg")
    report = check_data(root)
    assert report.layout == "folder of domains and classes"
    assert report.duplicates_across == (("a/dog/1.jpg", "b/dog/2.jpg"),)
    assert report.usable
    write_images(root, ["b/stray.jpg"])
    report = check_data(root)
    assert report.stray == ("b/stray.jpg",)
    assert "lies directly in its domain's folder" in report.faults[0]
    without = check_data(write_images(tmp_path / "plain", ["a/1.jpg", "b/1.jpg"]))
    assert without.layout == "folder of domains"
    assert "no classes" in str(without)
    assert without.usable


def test_rows_of_a_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    for d, domain in enumerate(PACS.domains):
        for s, split in enumerate(("train", "val")):
            with h5py.File(tmp_path / f"{domain}_{split}.hdf5", "w") as file:
                file["labels"] = np.arange(1, 8)
                file["images"] = np.random.default_rng([d, s]).integers(0, 256, (7, 8, 8, 3), "u1")
                if d < 2:
                    file["images"][0] = 7
    report = check_data(tmp_path)
    assert report.usable
    assert report.images == 56
    assert len(report.duplicates_across[0]) == 4
    assert report.duplicates_within == ()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_manifests(tmp_path, kind):
    names = [f"images/{i}.jpg" for i in range(8)]
    root = write_images(tmp_path, names)
    for copy in (3, 5):
        shutil.copy(root / names[0], root / names[copy])
    shutil.copy(root / names[1], root / names[2])
    (root / names[6]).write_bytes(b"no image")
    (root / names[7]).unlink()
    table = pd.DataFrame(
        {
            "path": names,
            "domain": ["a", "b", "b", "a", "b", "", "b", "b"],
            "class": ["dog", "cat", "cat", "dog", "", "dog", "dog", "dog"],
            "split": ["train", "test", "train", "train", "val", "train", "test", "test"],
        }
    )
    path = tmp_path / f"list.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path, index=False)
    report = check_data(path)
    assert report.usable and report.layout == "manifest" and report.images == 7
    counts = {(c.domain, c.label, c.split): c.images for c in report.counts}
    assert counts["a", "dog", "train"] == 2 and counts["", "dog", "train"] == 1
    assert report.missing == (names[7],)
    assert [key for key, _ in report.unreadable] == [names[6]]
    # Nobody knows the domain of the fifth, so that it is no other one.
    assert report.duplicates_within == ((names[0], names[3], names[5]), (names[1], names[2]))
    assert report.duplicates_across == ()
    assert report.duplicates_parted == ((names[1], names[2]),)
    assert f"Duplicated across splits: 1\n  {names[1]} = {names[2]}" in str(report)


def test_manifests_that_no_reader_takes(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("path,group,split\na.jpg,g,train\nb.jpg,g,test\n")
    with pytest.raises(DdmError, match=r"row 2: group 'g' is in test, but in train above"):
        check_data(path)
    path.write_text("path\na.jpg\nb.jpg\n")
    report = check_data(path)
    assert not report.usable and report.missing == ("a.jpg", "b.jpg")
    assert report.faults == (f"none of the 2 files that {path} lists exists under {tmp_path}",)


def test_wrong_roots(root):
    (root.parent / "beside").mkdir()
    for given in (root.parent, root / "photo"):
        with pytest.raises(DdmError, match=rf"is not the folder of a data set, .* give {root}$"):
            check_data(given)
    with pytest.raises(DdmError, match="nowhere does not exist"):
        check_data(root.parent / "nowhere")
    with pytest.raises(DdmError, match="is not a folder"):
        check_data(root / "photo_test_kfold.txt")


def test_recognition(root, tmp_path):
    source = recognize(root)
    assert source is not None
    assert source.load is load_pacs
    assert len(source.load(root, 4, 3, True)) == len(source.survey(root).keys)
    other = write_images(tmp_path / "v", names_of(VLCS))
    source = recognize(other)
    assert source is not None
    assert source.layout == "VLCS, folders"
    assert source.load(other, 4, 3, True).keys == load_vlcs(other).keys
    plain = write_images(tmp_path / "deep" / "er" / "plain", ["photo/dog/1.jpg", "mine/dog/1.jpg"])
    assert recognize(plain) is None
    refuse_near_miss(plain)
    assert label_of(VLCS, "LabelMe/car/1.jpg") == 1


def test_progress_is_shown(root, capfd):
    check_data(root)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Checking images: 100%" in err
    assert "56/56" in err
    sys.stderr.flush()


def test_wilds(tmp_path):
    rows = wilds_trees.camelyon17(tmp_path)
    root = tmp_path / "camelyon17_v1.0"
    images = sorted((root / "patches").rglob("*.png"))
    images[0].unlink()
    images[1].write_bytes(images[1].read_bytes()[:40])
    shutil.copy(images[2], images[3])
    report = check_data(root)
    assert report.usable and report.layout == "WILDS, camelyon17_v1.0"
    assert report.images == len(rows) - 1 == sum(c.images for c in report.counts)
    assert {c.domain for c in report.counts} == {f"hospital {i}" for i in range(5)}
    assert {c.split for c in report.counts} == {"train", "id_val", "val", "test"}
    assert report.missing == (images[0].relative_to(root).as_posix(),)
    assert [name for name, _ in report.unreadable] == [images[1].relative_to(root).as_posix()]
    groups = report.duplicates_within + report.duplicates_across
    assert {n for g in groups for n in g} == {p.relative_to(root).as_posix() for p in images[2:4]}
    assert str(report).splitlines()[3].split()[:6] == (
        ["domain", "images", "train", "id_val", "val", "test"]
    )
    for wrong, message in ((tmp_path, "too high"), (root / "patches", "too low")):
        with pytest.raises(DdmError, match=message):
            check_data(wrong)
    for image in images[1:]:
        image.unlink()
    report = check_data(root)
    assert not report.usable and "holds none of the 60 images" in str(report)


def test_multispectral(tmp_path):
    wilds_trees.poverty(tmp_path, unlabeled=True, each=3)
    root = tmp_path / "poverty_unlabeled_v1.0"
    (root / "images" / "landsat_poverty_img_5.npz").unlink()
    (root / "images" / "landsat_poverty_img_5.npz").write_bytes(b"PK")
    report = check_data(root)
    assert [name for name, _ in report.unreadable] == ["images/landsat_poverty_img_5.npz"]
    # The tree links three files many times.
    assert len(report.duplicates_across) == 3 and len({c.domain for c in report.counts}) == 23


def test_saved_hugging_face_data(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = [{"bytes": jpeg(i // 2), "path": None} for i in range(6)]
    pictures[5]["bytes"] = b"nothing"
    columns = {
        "image": pictures,
        "domain": ["photo", "photo", "photo", "sketch", "sketch", "sketch"],
        "label": ["a", "b", "a", "b", "a", "b"],
    }
    table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    table.save_to_disk(tmp_path / "saved")
    report = check_data(tmp_path / "saved")
    assert report.usable and "Hugging Face" in report.layout
    assert {(c.domain, c.label) for c in report.counts} == {
        ("photo", "a"), ("photo", "b"), ("sketch", "a"), ("sketch", "b"),
    }  # fmt: skip
    assert len(report.unreadable) == 1
    assert (len(report.duplicates_within), len(report.duplicates_across)) == (1, 1)
