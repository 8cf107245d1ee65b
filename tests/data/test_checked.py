"""Files that were readable before are not decoded again, until they change."""

import os

import pytest
from PIL import Image

from ddm.data import cache, checked, images
from ddm.data.folder import load_folder
from ddm.errors import DdmError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DDM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checked, "REMEMBERED_FROM", 3)
    for domain in "ab":
        (tmp_path / "images" / domain).mkdir(parents=True)
        for i in range(3):
            image = Image.new("RGB", (16 if i else 4, 16), (i, 9, 9))
            image.save(tmp_path / "images" / domain / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that were decoded, since the list was last cleared."""
    names = []
    whole = images.read_image

    def watched(path, *arguments, **named):
        names.append("/".join(str(path).split("/")[-2:]))
        return whole(path, *arguments, **named)

    monkeypatch.setattr(images, "read_image", watched)
    return names


def test_nothing_is_decoded_twice(root, decoded):
    first = load_folder(root, 8)
    assert len(decoded) == 6 and first.enlarged == 2
    decoded.clear()
    second = load_folder(root, 8)
    assert decoded == [] and second.keys == first.keys and second.enlarged == 2


def test_what_changed_or_is_new_is_decoded(root, decoded):
    load_folder(root, 8)
    Image.new("RGB", (5, 5)).save(root / "a" / "1.png")
    os.utime(root / "b" / "2.png", ns=(1, 1))
    Image.new("RGB", (20, 20)).save(root / "b" / "3.png")
    (root / "a" / "2.png").unlink()
    decoded.clear()
    dataset = load_folder(root, 8)
    assert sorted(decoded) == ["a/1.png", "b/2.png", "b/3.png"]
    assert len(dataset) == 6 and dataset.enlarged == 3
    decoded.clear()
    load_folder(root, 8)
    assert decoded == []


def test_another_size_is_another_question(root, decoded):
    load_folder(root, 8)
    decoded.clear()
    assert load_folder(root, 2).enlarged == 0 and len(decoded) == 6
    decoded.clear()
    # Neither of which makes it forget the other.
    assert load_folder(root, 8).enlarged == 2 and load_folder(root, 2).enlarged == 0
    assert decoded == []


def test_a_part_of_the_files_leaves_the_rest_known(root, decoded):
    load_folder(root, 8)
    keys = load_folder(root, 8).keys
    Image.new("RGB", (9, 9)).save(root / keys[0])
    decoded.clear()
    images.keep_readable(root, keys[:3], 8, 3, False)
    assert decoded == [keys[0]]
    decoded.clear()
    load_folder(root, 8)
    assert decoded == []


def test_without_a_home_nothing_is_remembered(root, decoded, monkeypatch):
    for name in ("DDM_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("none")))
    for _ in range(2):
        decoded.clear()
        assert len(load_folder(root, 8)) == 6 and len(decoded) == 6
    with pytest.raises(DdmError, match="set DDM_CACHE to a folder"):
        cache.cache_dir()


def test_unreadable_files_are_looked_at_each_time(root, decoded):
    (root / "a" / "1.png").write_bytes(b"")
    for _ in range(2):
        decoded.clear()
        assert load_folder(root, 8).skipped == (("a/1.png", "the file is empty"),)
        assert "a/1.png" in decoded
    assert decoded == ["a/1.png"]


def test_a_damaged_or_unwritable_cache_costs_time_alone(root, decoded, tmp_path, monkeypatch):
    load_folder(root, 8)
    (store,) = (tmp_path / "cache" / "checked").glob("*.npz")
    for content in (b"", b"nonsense", store.read_bytes()[:40]):
        store.write_bytes(content)
        decoded.clear()
        assert len(load_folder(root, 8)) == 6 and len(decoded) == 6
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DDM_CACHE", str(tmp_path / "file"))
    assert len(load_folder(root, 8)) == 6


def test_few_images_leave_nothing_behind(root, tmp_path, monkeypatch):
    monkeypatch.setattr(checked, "REMEMBERED_FROM", 7)
    load_folder(root, 8)
    assert not (tmp_path / "cache").exists()
