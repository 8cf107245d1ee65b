"""OfficeHome, VLCS and TerraIncognita in DomainBed's layout."""

import shutil

import pytest

from benchmark_trees import names_of, table, write_images
from ddm.data.base import split_by_group
from ddm.data.domainbed import (
    OFFICE_HOME,
    TERRA_INCOGNITA,
    VLCS,
    load_domainbed,
    load_office_home,
    load_terra_incognita,
    load_vlcs,
    recognize,
)
from ddm.errors import DdmError

ALL = [
    (OFFICE_HOME, load_office_home, "office_home"),
    (VLCS, load_vlcs, "VLCS"),
    (TERRA_INCOGNITA, load_terra_incognita, "terra_incognita"),
]


@pytest.mark.parametrize(("layout", "load", "folder"), ALL)
def test_folders(tmp_path, layout, load, folder):
    names = names_of(layout)
    root = write_images(tmp_path / folder, names)
    dataset = load(root, size=4)
    assert recognize(root) == f"{layout.title}, folders"
    assert dataset.name == layout.title
    assert [row[:3] for row in table(dataset)] == [(n, *n.split("/")[1::-1]) for n in names]
    # The numbers of torchvision's ImageFolder, which sorts.
    assert dataset.labels["class"].names == tuple(sorted(layout.classes))
    assert dataset.domains.names == tuple(sorted(layout.domains))
    if layout is not TERRA_INCOGNITA:
        assert list(dataset.splits) == list(split_by_group(names))
    assert table(load_domainbed(root, size=4)) == table(dataset)


@pytest.mark.parametrize(("layout", "load", "folder"), ALL)
def test_wrong_root(tmp_path, layout, load, folder):
    root = write_images(tmp_path / "data" / folder, names_of(layout)[:: len(layout.classes)])
    for given in (root.parent, root.parent.parent, root / layout.domains[0]):
        with pytest.raises(DdmError, match=rf"not the folder of {layout.title}: .* give {root}$"):
            load(given)


@pytest.mark.parametrize("spelling", ["RealWorld", "Real_World", "real_world", "Real World"])
def test_spellings_of_real_world(tmp_path, spelling):
    names = [n.replace("Real World", spelling, 1) for n in names_of(OFFICE_HOME)]
    names = [n.replace("ToothBrush", "Toothbrush") if n.startswith("Art") else n for n in names]
    dataset = load_office_home(write_images(tmp_path, names), size=2)
    assert dataset.domains.names == ("Art", "Clipart", "Product", "Real World")
    assert len(dataset.labels["class"].names) == 65
    assert list(dataset.splits) == list(split_by_group(names_of(OFFICE_HOME)))
    assert (dataset.labels["class"].index.reshape(4, 65) == range(65)).all()


def test_what_is_missing(tmp_path):
    root = write_images(tmp_path / "VLCS", names_of(VLCS))
    shutil.rmtree(root / "SUN09" / "dog")
    with pytest.raises(DdmError, match=r"lacks images of 1 class.* \(SUN09/dog/\): complete the"):
        load_vlcs(root)
    shutil.rmtree(root / "SUN09")
    with pytest.raises(DdmError, match=r"lacks 1 of VLCS's 4 domains \(SUN09\): complete"):
        load_vlcs(root)
    assert load_vlcs(root, partial=True).domains.names == ("Caltech101", "LabelMe", "VOC2007")


def test_a_camera_need_not_see_every_animal(tmp_path):
    names = [n for n in names_of(TERRA_INCOGNITA) if not n.startswith("location_46/bobcat")]
    assert len(load_terra_incognita(write_images(tmp_path, names))) == len(names)
    for domain in TERRA_INCOGNITA.domains[:3]:
        shutil.rmtree(tmp_path / domain / "bobcat")
    with pytest.raises(DdmError, match=r"lacks 1 of TerraIncognita's 10 classes \(bobcat\)"):
        load_terra_incognita(tmp_path)


def test_one_picture_of_two_animals_is_in_one_split(tmp_path):
    pairs = [f"location_38/{a}/{k}.jpg" for k in range(30) for a in ("bird", "cat")]
    dataset = load_terra_incognita(write_images(tmp_path, pairs), partial=True)
    assert len(set(dataset.groups)) == 30
    both = {}
    for key, group, split in zip(dataset.keys, dataset.groups, dataset.splits, strict=True):
        both.setdefault(key.split("/")[2], set()).add((group, split))
    assert all(len(found) == 1 for found in both.values())
    assert len(set(dataset.splits)) == 3


def test_extra_folders(tmp_path):
    names = names_of(TERRA_INCOGNITA)
    root = write_images(tmp_path, [*names, "eccv_18_all_images_sm/1.jpg"])
    assert load_terra_incognita(root).keys == tuple(names)
    write_images(root, ["location_7/cat/1.jpg"])
    with pytest.raises(DdmError, match=r"location_7 holds images, but is no domain of TerraIncog"):
        load_terra_incognita(root)


def test_nothing_of_the_kind(tmp_path):
    write_images(tmp_path, ["a/dog/1.jpg", "b/dog/1.jpg"])
    assert recognize(tmp_path) is None
    with pytest.raises(
        DdmError, match=r"does not hold VLCS: give the folder that holds VLCS's dom"
    ):
        load_vlcs(tmp_path)
