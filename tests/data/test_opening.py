"""What a folder is taken for, and what is asked of it in vain."""

from pathlib import Path

import pytest

from benchmark_trees import names_of, write_images
from ddm.data import load_images, open_images
from ddm.data.domainnet import DOMAINNET
from ddm.data.pacs import PACS
from ddm.errors import DdmError
from test_pretrain import config


def names(domains: str, classes: str) -> list[str]:
    return [f"{d}/{c}/{i}.jpg" for d in domains.split() for c in classes.split() for i in range(3)]


@pytest.mark.parametrize(
    ("domains", "classes"),
    [("photo sketch cartoon", "dog cat"), ("Art Clipart Product", "chair sofa")],
)
def test_domains_of_the_same_names_are_no_benchmark(tmp_path: Path, domains, classes) -> None:
    dataset = load_images(str(write_images(tmp_path / "mine", names(domains, classes))), 8)
    assert dataset.name == "mine" and set(dataset.domains.names) == set(domains.split())
    assert set(dataset.labels["class"].names) == set(classes.split())
    with pytest.raises(DdmError, match="--partial: for PACS"):
        load_images(str(tmp_path / "mine"), 8, partial=True)


def test_a_benchmark_with_a_stray_class_is_still_one(tmp_path: Path) -> None:
    root = write_images(tmp_path, [*names_of(PACS), "photo/cat/1.jpg"])
    with pytest.raises(DdmError, match="cat holds images, but is no class of PACS"):
        load_images(str(root), 8)


@pytest.mark.parametrize("known", [PACS, DOMAINNET], ids=lambda b: b.title)
def test_what_there_is_of_a_benchmark(tmp_path: Path, known) -> None:
    left = [n for n in names_of(known) if not n.startswith(known.domains[-1])]
    root = write_images(tmp_path / "root", left)
    with pytest.raises(DdmError, match=r"complete the download, or take what there is \(--partial"):
        load_images(str(root), 8)
    settings = config(tmp_path, images=str(root), partial=True, size=8)
    dataset = open_images(settings)
    assert dataset.name == known.title
    assert dataset.domains.names == known.domains[:-1]
    assert dataset.labels["class"].names == known.classes


def test_official_splits_where_there_are_none(tmp_path: Path) -> None:
    pacs = write_images(tmp_path / "pacs", names_of(PACS))
    plain = write_images(tmp_path / "plain", names("a b", "x y"))
    for images in (pacs, plain, "emoji"):
        with pytest.raises(DdmError, match=r"--splits official: .* has no split files"):
            load_images(str(images), 8, splits="official")
