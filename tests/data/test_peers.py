"""Our readers beside DomainBed's and Dassl's own, on the same trees.

Neither is a package that can be installed, so the tests are skipped unless a checkout is at hand:

    DDM_DOMAINBED=.../DomainBed DDM_DASSL=.../Dassl.pytorch pytest tests/data/test_peers.py

What those repositories import and a reader does not need is stood in for.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from benchmark_trees import names_of, write_images, write_split_file
from ddm.data.domainbed import OFFICE_HOME, TERRA_INCOGNITA, VLCS, load_domainbed
from ddm.data.domainnet import DOMAINNET, load_domainnet
from ddm.data.pacs import PACS, load_pacs

TRIPLE = tuple[str, int, str]


def checkout(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} does not name a checkout")
    return Path(os.environ[variable])


def ours(dataset: Any, root: Path, split: str | None = None) -> list[TRIPLE]:
    """(path, label, domain) of each image, sorted."""
    label, domains = dataset.labels["class"].index, dataset.domains
    return sorted(
        (str(root / key), int(label[i]), domains.names[domains.index[i]])
        for i, key in enumerate(dataset.keys)
        if split in (None, dataset.splits[i])
    )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts an empty module, or a package without its __init__, where an import would look."""

    def put(name: str, folder: Path | None = None, **members: Any) -> types.ModuleType:
        module = types.ModuleType(name)
        if folder is not None:
            module.__path__ = [str(folder)]
        for key, value in members.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    before = set(sys.modules)
    yield put
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("domainbed", "dassl"):
            del sys.modules[name]


BENCHMARKS = {
    "PACS": (PACS, "PACS", load_pacs),
    "VLCS": (VLCS, "VLCS", load_domainbed),
    "OfficeHome": (OFFICE_HOME, "office_home", load_domainbed),
    "TerraIncognita": (TERRA_INCOGNITA, "terra_incognita", load_domainbed),
    "DomainNet": (DOMAINNET, "domain_net", load_domainnet),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_domainbed(tmp_path: Path, stand_in: Any, name: str) -> None:
    repository = checkout("DDM_DOMAINBED")
    benchmark, folder, load = BENCHMARKS[name]
    root = write_images(tmp_path / folder, names_of(benchmark, per_class=2))
    stand_in("wilds.datasets.camelyon17_dataset", Camelyon17Dataset=None)
    stand_in("wilds.datasets.fmow_dataset", FMoWDataset=None)
    stand_in("domainbed", repository / "domainbed")
    module = importlib.import_module("domainbed.datasets")
    environments = getattr(module, name)(str(tmp_path), [], {"data_augmentation": False})
    mine = load(root, size=4)
    names = mine.labels["class"].names
    # Of DomainNet we keep the numbers of the official split files, which sort without regard to
    # capitals; DomainBed numbers the folders as Python sorts them. The classes are the same.
    number = names.index if name == "DomainNet" else sorted(names).index
    theirs = sorted(
        (str(Path(path)), number(environment.classes[label]), Path(environment.root).name)
        for environment in environments.datasets
        for path, label in environment.samples
    )
    assert ours(mine, root) == theirs
    assert len(theirs) == 2 * len(benchmark.domains) * len(benchmark.classes)


@pytest.mark.parametrize("name", ["PACS", "DomainNet"])
def test_dassl(tmp_path: Path, stand_in: Any, name: str) -> None:
    package = checkout("DDM_DASSL") / "dassl"
    benchmark = BENCHMARKS[name][0]
    pacs = name == "PACS"
    root = tmp_path / ("pacs" if pacs else "domainnet")
    names = names_of(benchmark, per_class=3)
    write_images(root / "images" if pacs else root, names)
    official = ("train", "crossval") if pacs else ("train", "test")
    for domain in benchmark.domains:
        mine = [n for n in names if n.startswith(f"{domain}/")]
        files = {official[0]: mine[::3] + mine[1::3], official[1]: mine[2::3]}
        if pacs:
            files["test"] = mine
        for split, members in files.items():
            file = root / "splits" / f"{domain}_{split}{'_kfold' if pacs else ''}.txt"
            write_split_file(file, benchmark, members, first_label=1 if pacs else 0)
    stand_in("gdown")
    stand_in("dassl", package)
    utils = stand_in("dassl.utils", package / "utils")
    for part in ("tools", "registry"):
        vars(utils).update(vars(importlib.import_module(f"dassl.utils.{part}")))
    for part in ("data", "data/datasets", "data/datasets/dg", "data/datasets/da"):
        stand_in(f"dassl.{part.replace('/', '.')}", package / part)
    kind = importlib.import_module(
        "dassl.data.datasets.dg.pacs" if pacs else "dassl.data.datasets.da.domainnet"
    )
    dataset = types.SimpleNamespace(
        ROOT=str(tmp_path),
        SOURCE_DOMAINS=list(benchmark.domains),
        TARGET_DOMAINS=list(benchmark.domains),
    )
    read = getattr(kind, name)(types.SimpleNamespace(DATASET=dataset))
    load = load_pacs if pacs else load_domainnet
    mine = load(root, size=4, splits="official")
    # Keys are relative to where the images lie.
    images = root / "images" if pacs else root
    for split, theirs in (("train", read.train_x), ("val" if pacs else "test", read.val)):
        expected = sorted((d.impath, d.label, benchmark.domains[d.domain]) for d in theirs)
        assert ours(mine, images, split) == expected and expected
