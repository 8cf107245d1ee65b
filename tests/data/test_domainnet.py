"""DomainNet in its own layout and DomainBed's, and the subset of 20 classes."""

import re
import shutil
from pathlib import Path

import pytest

from benchmark_trees import label_of, names_of, table, write_images, write_split_file
from ddm.bench import Grid
from ddm.data import load_images
from ddm.data.base import split_by_group
from ddm.data.domainnet import DOMAINNET, load_domainnet, recognize
from ddm.data.domainnet_classes import DOMAINNET_CLASSES, UDG_CLASSES
from ddm.errors import DdmError

SOME = ("aircraft_carrier", "bee", "cell_phone", "t-shirt", "The_Eiffel_Tower", "zigzag")
NAMES = names_of(DOMAINNET, per_class=2, classes=SOME)


def write_splits(folder, names=NAMES, first_label=0):
    for domain in DOMAINNET.domains:
        for split, end in (("train", "1.jpg"), ("test", "2.jpg")):
            mine = [n for n in names if n.startswith(f"{domain}/") and n.endswith(end)]
            write_split_file(folder / f"{domain}_{split}.txt", DOMAINNET, mine, first_label)


@pytest.fixture
def root(tmp_path):
    """A part of DomainNet with its split files."""
    write_images(tmp_path / "domainnet", NAMES)
    write_splits(tmp_path / "domainnet")
    return tmp_path / "domainnet"


def test_official_labels():
    assert len(DOMAINNET_CLASSES) == 345
    letters = [re.sub("[^a-z]", "", name.lower()) for name in DOMAINNET_CLASSES]
    assert letters == sorted(set(letters))
    # As other people's split files have them: "painting/t-shirt/painting_328_000002.jpg 327".
    assert DOMAINNET_CLASSES.index("t-shirt") == 327
    assert DOMAINNET_CLASSES[:3] == ("aircraft_carrier", "airplane", "alarm_clock")
    assert len(UDG_CLASSES) == 20
    assert set(UDG_CLASSES) < set(DOMAINNET_CLASSES)
    assert label_of(DOMAINNET, "real/zigzag/1.jpg") == 344


def test_the_whole_of_it_as_domainbed_has_it(tmp_path):
    names = names_of(DOMAINNET)
    root = write_images(tmp_path / "domain_net", names)
    dataset = load_domainnet(root, size=2)
    assert recognize(root) == "DomainNet, folders"
    assert [row[:3] for row in table(dataset)] == [(n, *n.split("/")[1::-1]) for n in names]
    assert dataset.labels["class"].names == DOMAINNET_CLASSES
    assert list(dataset.splits) == list(split_by_group(names))
    (root / "quickdraw" / "zebra" / "quickdraw_001.jpg").unlink()
    with pytest.raises(DdmError, match=r"lacks images of 1 class.* \(quickdraw/zebra/\): complete"):
        load_domainnet(root, size=2)


@pytest.mark.parametrize("place", [".", "splits"])
def test_split_files(tmp_path, place):
    root = write_images(tmp_path / "domainnet", NAMES)
    write_splits(root / place)
    dataset = load_domainnet(root, size=4, partial=True)
    assert recognize(root) == "DomainNet, folders with split files"
    assert table(dataset) == [
        (n, n.split("/")[1], n.split("/")[0], "train" if n.endswith("1.jpg") else "test")
        for n in NAMES
    ]
    labels = dataset.labels["class"].index.tolist()
    assert labels == [label_of(DOMAINNET, name) for name in NAMES]
    assert "val" in load_domainnet(root, size=4, partial=True, splits="drawn").splits


def test_images_that_the_cleaned_lists_leave_out(root):
    write_images(root, ["clipart/bee/another.jpg"])
    dataset = load_domainnet(root, partial=True)
    assert dataset.keys == tuple(NAMES)
    assert dataset.skipped == (("clipart/bee/another.jpg", "no split file names it"),)


def test_a_class_may_miss_in_a_split_file(root):
    """As t-shirt does in painting_train.txt."""
    path = root / "painting_train.txt"
    path.write_text("".join(x for x in path.open() if "t-shirt" not in x))
    assert len(load_domainnet(root, partial=True)) == len(NAMES) - 1


def test_subset_of_20_classes(tmp_path):
    names = names_of(DOMAINNET, classes=UDG_CLASSES)
    root = write_images(tmp_path / "domain_net", [*names, "real/zebra/1.jpg"])
    dataset = load_domainnet(root, size=4, classes=UDG_CLASSES)
    assert dataset.keys == tuple(names)
    assert dataset.labels["class"].names == UDG_CLASSES
    assert [row[1] for row in table(dataset)] == [name.split("/")[1] for name in names]
    write_splits(root / "splits", names=[n.replace("001", "011") for n in names])
    with pytest.raises(DdmError, match=r"clipart_train.txt names 20 images that .* lacks, first"):
        load_domainnet(root, size=4, classes=UDG_CLASSES)
    shutil.rmtree(root / "real" / "sun")
    with pytest.raises(DdmError, match=r"1 class.* in some domain \(real/sun/\)"):
        load_domainnet(root, size=4, classes=UDG_CLASSES)


def test_split_files_under_a_subset(root):
    dataset = load_domainnet(root, classes=("zigzag", "bee"))
    assert dataset.labels["class"].names == ("zigzag", "bee")
    chosen = [name for name in NAMES if name.split("/")[1] in ("zigzag", "bee")]
    assert [(row[0], row[3]) for row in table(dataset)] == [
        (name, "train" if name.endswith("1.jpg") else "test") for name in chosen
    ]
    (root / "real" / "t-shirt" / "real_001.jpg").unlink()
    assert len(load_domainnet(root, classes=("zigzag", "bee"))) == len(chosen)


def test_a_run_can_choose_its_classes(root, tmp_path):
    grid = Grid.load(Path("domainnet-udg"), str(root))
    assert tuple(grid.config(grid.runs[0], Path("out")).classes) == UDG_CLASSES
    dataset = load_images(str(root), 4, classes=("zigzag", "bee"))
    assert dataset.labels["class"].names == ("zigzag", "bee")
    with pytest.raises(DdmError, match=f"--classes bee: .*{tmp_path} is not DomainNet"):
        load_images(str(tmp_path), 4, classes=("bee",))


def test_classes_of_another_name(root):
    with pytest.raises(DdmError, match=r"classes: 'bees' is no class of DomainNet \(aircraft_car"):
        load_domainnet(root, classes=("bees",))
    with pytest.raises(DdmError, match=r"classes: 'bee' is named twice"):
        load_domainnet(root, classes=("bee", "bee"))


def test_part_of_the_classes(root):
    with pytest.raises(DdmError, match=r"lacks 339 of DomainNet's 345 classes \(airplane, alarm_c"):
        load_domainnet(root)


def test_labels_that_count_from_1(root):
    write_splits(root, first_label=1)
    with pytest.raises(
        DdmError,
        match=r"clipart_train.txt, line 1: label 309 for 'clipart/The_Eiffel_Tower/clipart_001.jpg'"
        r", but class 'The_Eiffel_Tower' is 308: all labels count from 1, those of DomainNet from "
        "0; get the official file, or take 1 off each label",
    ):
        load_domainnet(root, partial=True)


def test_image_in_both_splits(root):
    path = root / "real_test.txt"
    path.write_text(path.read_text() + "real/bee/real_001.jpg 26\n")
    with pytest.raises(
        DdmError, match=r"real_test.txt, line 7: 'real/bee/real_001.jpg' is in the "
    ):
        load_domainnet(root, partial=True)


def test_split_file_that_is_missing(root):
    (root / "real_test.txt").unlink()
    with pytest.raises(DdmError, match=r"real_test.txt is missing beside the other split files"):
        load_domainnet(root, classes=("bee",))


def test_extra_folders(root):
    write_images(root, ["splits_mini/x/1.jpg"])
    assert len(load_domainnet(root, partial=True)) == len(NAMES)
    write_images(root, ["clipart/unicorn/1.jpg"])
    with pytest.raises(DdmError, match=r"unicorn holds images, but is no class of DomainNet"):
        load_domainnet(root, partial=True)


def test_wrong_root(root):
    for given in (root.parent, root / "real", root / "real" / "bee"):
        with pytest.raises(DdmError, match=rf"is not the folder of DomainNet: .*, give {root}$"):
            load_domainnet(given)
    for domain in ("clipart", "infograph", "painting"):
        shutil.rmtree(root / domain)
    assert recognize(root) == "DomainNet, folders with split files"
    for path in root.glob("*.txt"):
        path.unlink()
    assert recognize(root) is None
    with pytest.raises(DdmError, match=r"lacks 3 of DomainNet's 6 domains \(clipart, infograph"):
        load_domainnet(root, classes=("bee",))
