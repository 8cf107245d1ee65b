"""Folders as people have them: both layouts, odd names, stray files, and the usual mistakes."""

import os
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ddm.data.check import check_data
from ddm.data.folder import load_folder, load_heap
from ddm.errors import DdmError


def make(root, *names):
    """Write an 8 x 8 image under each name, the k-th of grey value k."""
    for shade, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), shade).save(path)
    return root


def domains_of(dataset):
    return [dataset.domains.names[d] for d in dataset.domains.index]


def classes_of(dataset):
    return [dataset.labels["class"].names[c] for c in dataset.labels["class"].index]


def test_domains_and_classes(tmp_path):
    make(tmp_path, "sketch/dog/1.png", "photo/dog/1.png", "photo/cat/deep/er/2.PNG")
    dataset = load_folder(tmp_path, size=4)
    assert dataset.name == tmp_path.name
    assert dataset.keys == ("photo/cat/deep/er/2.PNG", "photo/dog/1.png", "sketch/dog/1.png")
    assert domains_of(dataset) == ["photo", "photo", "sketch"]
    assert classes_of(dataset) == ["cat", "dog", "dog"]
    assert [dataset.read(i)[0, 0, 0] for i in range(3)] == [2, 1, 0]
    assert dataset.read(0).shape == (4, 4, 3)
    assert len(set(dataset.groups)) == 3
    assert dataset.skipped == ()
    assert dataset.instances is None


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "crossval"), ("test",)])
def test_splits_do_not_pass_for_classes(tmp_path, names):
    make(tmp_path, *(f"{d}/{split}/{c}/1.png" for d in "ab" for split in names for c in "xy"))
    with pytest.raises(DdmError, match=r"called like splits \(.*, and would pass for classes"):
        load_folder(tmp_path)
    # A train may be a train.
    make(tmp_path, "a/bus/1.png", "b/bus/1.png")
    assert "bus" in load_folder(tmp_path).labels["class"].names


def test_a_folder_between_domains_and_classes_is_told_of(tmp_path, capsys):
    make(tmp_path, "amazon/images/bike/1.png", "dslr/images/desk/1.png")
    assert load_folder(tmp_path).labels["class"].names == ("images",)
    assert "taken for their only class: if bike, desk are classes" in capsys.readouterr().err


def test_images_of_other_formats_are_told_of(tmp_path, capsys):
    make(tmp_path, "a/1.png", "b/1.png")
    for name in ("a/2.AVIF", "b/3.heic", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert len(load_folder(tmp_path)) == 2
    said = capsys.readouterr().err
    assert "2 files of formats that are not read (.avif, .heic) are passed over" in said
    assert "first a/2.AVIF" in said
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "1.heic").write_bytes(b"x")
    with pytest.raises(DdmError, match=r"holds no images.*1 files of formats .*heic"):
        load_folder(tmp_path / "phone")


def test_domains_alone(tmp_path):
    dataset = load_folder(make(tmp_path, "a/1.png", "b/1.png", "b/2.png"), channels=1)
    assert domains_of(dataset) == ["a", "b", "b"]
    assert dataset.labels == {}
    assert dataset.read(0).shape == (64, 64, 1)


def test_stray_files_are_passed_over(tmp_path):
    make(tmp_path, "a/1.png", "b/1.png")
    make(tmp_path, ".cache/1.png", "__MACOSX/a/1.png", "a/.ipynb_checkpoints/1.png", "a/._1.png")
    (tmp_path / "empty" / "emptier").mkdir(parents=True)
    for name in (".DS_Store", "README.md", "a/Thumbs.db", "b/labels.csv", "docs.txt"):
        (tmp_path / name).write_text("no image")
    assert load_folder(tmp_path).keys == ("a/1.png", "b/1.png")


def test_links_are_followed_and_loops_cut(tmp_path):
    store = make(tmp_path / "store", "x/1.png")
    root = make(tmp_path / "root", "a/dog/1.png", "b/dog/1.png")
    (root / "c").mkdir()
    (root / "c" / "dog").symlink_to(store / "x", target_is_directory=True)
    (root / "a" / "dog" / "up").symlink_to(root, target_is_directory=True)
    (root / "a" / "dog" / "self").symlink_to("self")
    (root / "b" / "dog" / "2.png").symlink_to(store / "x" / "1.png")
    (root / "b" / "dog" / "3.png").symlink_to(store / "gone.png")
    dataset = load_folder(root)
    assert dataset.keys == ("a/dog/1.png", "b/dog/1.png", "b/dog/2.png", "c/dog/1.png")
    assert dataset.skipped == (("b/dog/3.png", "no such file"),)


def test_unreadable_images_are_skipped(tmp_path):
    make(tmp_path, "a/1.png", "a/2.png", "b/1.png", "c/1.png")
    (tmp_path / "a" / "1.png").write_bytes(b"")
    (tmp_path / "c" / "1.png").write_text("text")
    dataset = load_folder(tmp_path)
    assert dataset.keys == ("a/2.png", "b/1.png")
    assert dataset.domains.names == ("a", "b")
    assert [dataset.read(i)[0, 0, 0] for i in range(2)] == [1, 2]
    assert dataset.skipped == (
        ("a/1.png", "the file is empty"),
        ("c/1.png", "not an image, or damaged at its start"),
    )
    with pytest.raises(DdmError, match=r"2 of 4 images .* 'a/1.png' \(the file is empty\)"):
        load_folder(tmp_path, strict=True)


def test_nothing_readable(tmp_path):
    make(tmp_path, "a/1.png", "b/1.png")
    for name in ("a", "b"):
        (tmp_path / name / "1.png").write_bytes(b"")
    with pytest.raises(DdmError, match=r"none of the 2 images .* 'a/1.png' \(the file is empty\)"):
        load_folder(tmp_path)


def test_missing_root(tmp_path):
    with pytest.raises(DdmError, match="nowhere does not exist: give the folder"):
        load_folder(tmp_path / "nowhere")


def test_root_is_a_file(tmp_path):
    (tmp_path / "m.csv").write_text("path\n")
    with pytest.raises(DdmError, match=r"m.csv is not a folder: .* as a manifest"):
        load_folder(tmp_path / "m.csv")


def test_no_images(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "readme.txt").write_text("")
    with pytest.raises(DdmError, match=r"holds no images: expected .*/<domain>/<image> or"):
        load_folder(tmp_path)


def test_images_in_the_root(tmp_path):
    make(tmp_path, "a/1.png", "b/1.png", "stray.png")
    with pytest.raises(DdmError, match=r"stray.png lies directly in .* sub-folder, use a manif"):
        load_folder(tmp_path)


def test_mixed_layout(tmp_path):
    make(tmp_path, "a/dog/1.png", "b/dog/1.png", "b/stray.png")
    with pytest.raises(DdmError, match=r"stray.png lies directly .* but .*1.png in a class folder"):
        load_folder(tmp_path)


@pytest.mark.parametrize("name", ["train", "val", "test", "Test", "validation"])
def test_splits_are_no_domains(tmp_path, name):
    make(tmp_path, "photo/dog/1.png", f"{name}/dog/1.png")
    with pytest.raises(DdmError, match=f"{name} is called like a split, not a domain: expected"):
        load_folder(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8(tmp_path):
    make(tmp_path, "a/1.png", "b/1.png")
    os.rename(tmp_path / "a" / "1.png", os.fsencode(tmp_path) + b"/a/caf\xe9.png")
    with pytest.raises(DdmError, match=r"not UTF-8: 1, first b'a/caf\\xe9.png'; rename them"):
        load_folder(tmp_path)
    make(tmp_path, "a/2.png")
    report = check_data(tmp_path)
    assert report.images == 2 and not report.usable
    assert "not UTF-8: 1, first b'a/caf\\xe9.png'" in report.faults[0]
    assert "not UTF-8" in report.to_json()


def test_folder_without_permission(tmp_path, monkeypatch):
    make(tmp_path, "a/1.png", "b/1.png")
    scandir = os.scandir

    def guarded(folder):
        if os.path.basename(folder) == "b":
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(
        DdmError, match=r"b cannot be listed \(Permission denied\): make it readable"
    ):
        load_folder(tmp_path)


@pytest.mark.skipif(sys.platform == "darwin", reason="there the two spellings are one folder")
def test_one_accent_two_spellings(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    dataset = load_folder(make(tmp_path, f"a/{composed}/1.png", f"b/{decomposed}/1.png"))
    assert dataset.labels["class"].names == (composed,)
    assert dataset.read(1)[0, 0, 0] == 1


def test_splits_hang_on_the_key_alone(tmp_path):
    names = [f"{d}/{i}.png" for d in "ab" for i in range(20)]
    before = load_folder(make(tmp_path, *names))
    after = load_folder(make(tmp_path, "a/new.png", "c/new.png"))
    splits = dict(zip(after.keys, after.splits, strict=True))
    assert [splits[key] for key in before.keys] == list(before.splits)
    assert set(load_folder(tmp_path, split_fractions=(0, 0, 1)).splits) == {"test"}


# Names that any file system takes, and that differ there from one another.
folder_names = st.text("abxyz 01äé漢字-_'\",", min_size=1, max_size=6).map(
    lambda name: unicodedata.normalize("NFC", f"n{name}n")
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), names=st.sets(st.tuples(*[folder_names] * 3), min_size=2, max_size=6))
def test_any_names_in_any_order(tmp_path_factory, data, names):
    """The dataset depends on the names alone, not on the order in which the files came to be."""
    shuffled = data.draw(st.permutations(sorted(names)))
    root = tmp_path_factory.mktemp("names")
    make(root, *(f"{domain}/{label}/{file}.png" for domain, label, file in shuffled))
    dataset = load_folder(root, size=2)
    assert list(dataset.keys) == sorted(f"{d}/{c}/{f}.png" for d, c, f in names)
    assert domains_of(dataset) == [key.split("/")[0] for key in dataset.keys]
    assert classes_of(dataset) == [key.split("/")[1] for key in dataset.keys]
    shades = {f"{d}/{c}/{f}.png": shade for shade, (d, c, f) in enumerate(shuffled)}
    assert [dataset.read(i)[0, 0, 0] for i in range(len(dataset))] == [
        shades[key] for key in dataset.keys
    ]


def test_order_of_the_file_system_does_not_matter(tmp_path, monkeypatch):
    make(tmp_path, *(f"{d}/{c}/{i}.png" for d in "ab" for c in "xy" for i in range(3)))
    plain = load_folder(tmp_path)
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: list(scandir(folder))[::-1])
    other_way = load_folder(tmp_path)
    assert other_way.keys == plain.keys
    assert np.array_equal(other_way.domains.index, plain.domains.index)


def test_images_smaller_than_asked_for_are_counted(tmp_path):
    make(tmp_path, "a/1.png", "a/2.png", "b/1.png")
    Image.new("RGB", (40, 3)).save(tmp_path / "b" / "2.png")
    (tmp_path / "b" / "3.png").write_bytes(b"")
    with Image.open(tmp_path / "a" / "1.png") as image:
        side = min(image.size)
    assert load_folder(tmp_path, size=side).enlarged == 1
    assert load_folder(tmp_path, size=side + 1).enlarged == 4
    assert load_folder(tmp_path, size=3).enlarged == 0


def test_folders_that_are_no_classes_are_told_of(tmp_path, capsys):
    """As cameras keep them: a folder a date, of which no two domains have the same."""
    make(tmp_path / "dated", "canon/2021-05/1.png", "canon/2021-06/2.png", "nikon/2022-01/3.png")
    load_folder(tmp_path / "dated", size=4)
    said = capsys.readouterr().err
    assert "no class lies in two domains (2021-05, 2021-06, 2022-01): if these folders are" in said
    report = check_data(tmp_path / "dated")
    assert report.usable and "no class lies in two domains" in report.remarks[0]
    assert "To be looked at: 1" in str(report)
    make(tmp_path / "dated", "nikon/2021-05/4.png")
    load_folder(tmp_path / "dated", size=4)
    assert "no class" not in capsys.readouterr().err and not check_data(tmp_path / "dated").remarks


def test_what_lies_astray_is_no_domain(tmp_path):
    make(tmp_path, "x.png", "a/c1/1.png", "a/c2/2.png")
    assert check_data(tmp_path).remarks == ()


def test_a_folder_of_formats_that_are_not_read(tmp_path):
    for name in ("scan.dcm", "raw.NEF"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DdmError, match=r"no images that can be read; 2 files .* \(\.dcm, \.nef\)"):
        load_heap(tmp_path)


def test_a_flat_folder_is_called_one(tmp_path):
    make(tmp_path, "0.png", "1.png", "2.png")
    (tmp_path / "raw.cr2").write_bytes(b"")
    report = check_data(tmp_path)
    assert report.layout == "flat folder, without domains" and not report.stray
    assert "ddm pretrain --domains discover" in report.faults[0] and not report.usable
    assert "1 files of formats that are not read (.cr2)" in report.remarks[0]
    assert "3 images, 0 domains, no classes" in str(report)
