"""Our WILDS readers and metrics beside the package ``wilds`` itself, on the same trees.

The package needs torch_scatter for one mean over groups, which is stood in for here. It is not
among our dependencies: where it is not installed these tests are skipped.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import wilds_trees
from ddm.data.arrays import to_unit
from ddm.data.wilds import FOLDS, load_wilds
from ddm.data.wilds.metrics import wilds_score

pytest.importorskip("wilds")
pd = pytest.importorskip("pandas")

NAMES = ("camelyon17", "iwildcam", "fmow", "rxrx1", "poverty")
FOLDERS = {
    "camelyon17": "camelyon17_v1.0",
    "iwildcam": "iwildcam_v2.0",
    "fmow": "fmow_v1.1",
    "rxrx1": "rxrx1_v1.0",
    "poverty": "poverty_v1.1",
}
UNLABELED_FOLDERS = {
    "camelyon17": "camelyon17_unlabeled_v1.0",
    "iwildcam": "iwildcam_unlabeled_v1.0",
    "fmow": "fmow_v1.1",
    "poverty": "poverty_unlabeled_v1.0",
}


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("wilds")
    wilds_trees.rxrx1(root)
    wilds_trees.fmow(root)
    wilds_trees.poverty(root)
    wilds_trees.poverty(root, unlabeled=True, each=3)
    for unlabeled in (False, True):
        wilds_trees.camelyon17(root, unlabeled)
        wilds_trees.iwildcam(root, unlabeled)
    return root


@pytest.fixture(autouse=True)
def torch_scatter(monkeypatch):
    def scatter(src, index, dim_size, reduce):
        assert reduce == "mean"
        sums = torch.zeros(dim_size, dtype=src.dtype).index_add(0, index, src)
        return sums / torch.bincount(index, minlength=dim_size).clamp(min=1)

    module = types.ModuleType("torch_scatter")
    module.scatter = scatter
    monkeypatch.setitem(sys.modules, "torch_scatter", module)


def theirs(name, root, unlabeled=False, **arguments):
    """Their data set. The unlabelled ones assert the true numbers of images: we go without."""
    if name == "rxrx1" and int(pd.__version__.split(".")[0]) >= 3:
        pytest.skip("wilds 2.0.0 cannot read rxrx1 under pandas 3")
    module = f"unlabeled.{name}_unlabeled_dataset" if unlabeled else f"{name}_dataset"
    spec = importlib.util.find_spec(f"wilds.datasets.{module}")
    scope = {"__name__": spec.name}
    exec(compile(Path(spec.origin).read_text(), spec.origin, "exec", optimize=1), scope)
    bases = ("WILDSDataset", "WILDSUnlabeledDataset")
    (made,) = (
        value
        for key, value in scope.items()
        if key.endswith("Dataset") and key not in (*bases, "Dataset") and isinstance(value, type)
    )
    return made(root_dir=str(root), **arguments)


def column(dataset, field):
    """One of their metadata columns, numbers turned into what they stand for."""
    values = dataset.metadata_array[:, dataset.metadata_fields.index(field)].numpy()
    names = (dataset.metadata_map or {}).get(field)
    return values if names is None else np.array(names)[values.astype(int)]


def split_names(dataset):
    names = {number: name for name, number in dataset.split_dict.items()}
    return np.array([names.get(int(number), "") for number in dataset.split_array])


def path_of(name, dataset, i, unlabeled):
    """Where their image ``i`` lies, below the folder of the data set."""
    if name == "fmow":
        return f"images/rgb_img_{dataset.full_idxs[i]}.png"
    if name == "poverty":
        return f"images/landsat_poverty_img_{i}.npz"
    folder = {False: "train/", True: "images/"}[unlabeled] if name == "iwildcam" else ""
    return folder + dataset._input_array[i]


def assert_same(name, dataset, ours, unlabeled=False):
    splits = split_names(dataset)
    kept = np.flatnonzero(splits != "")
    assert ours.keys == tuple(path_of(name, dataset, i, unlabeled) for i in kept)
    assert list(ours.official_splits) == list(splits[kept])
    assert set(ours.official_splits) == set(dataset.split_dict)
    field, kind = {
        "camelyon17": ("hospital", "hospital "),
        "iwildcam": ("location", "location "),
        "fmow": ("year", ""),
        "rxrx1": ("experiment", ""),
        "poverty": ("country", ""),
    }[name]
    domains = [ours.domains.names[d] for d in ours.domains.index]
    assert domains == [f"{kind}{value}" for value in column(dataset, field)[kept]]
    for other in ("slide", "sequence", "region", "cell_type", "plate", "well", "site"):
        if other in dataset.metadata_fields:
            assert list(ours.metadata[other]) == list(column(dataset, other)[kept])
    for i, k in list(enumerate(kept))[:: max(1, len(kept) // 40)]:
        image = dataset.get_input(k)
        if name == "poverty":
            assert np.array_equal(ours.read(i), to_unit(image.numpy().transpose(1, 2, 0)))
        elif name == "iwildcam":  # JPEG: decoded to the same, but for a last bit in resizing
            assert np.abs(ours.read(i).astype(int) - np.asarray(image)).max() <= 1
        else:
            assert np.array_equal(ours.read(i), np.asarray(image))


@pytest.mark.parametrize("name", NAMES)
def test_labelled(trees, name):
    dataset = theirs(name, trees)
    ours = load_wilds(trees / FOLDERS[name], size=6 if name == "poverty" else 8)
    assert_same(name, dataset, ours)
    kept = split_names(dataset) != ""
    true = dataset.y_array.numpy()[kept]
    if name == "poverty":
        assert np.array_equal(ours.metadata["y"].astype(np.float32), true[:, 0])
        assert np.array_equal(ours.metadata["urban"], column(dataset, "urban"))
    else:
        assert np.array_equal(ours.labels["class"].index, true)
        assert len(ours.labels["class"].names) == dataset.n_classes


@pytest.mark.parametrize("name", UNLABELED_FOLDERS)
def test_unlabelled(trees, name):
    # Their fmow looks for a version that it does not name.
    dataset = theirs(name, trees, True, version="1.0")
    root = trees / UNLABELED_FOLDERS[name]
    ours = load_wilds(root, size=6 if name == "poverty" else 8, unlabeled=True)
    assert_same(name, dataset, ours, unlabeled=True)
    assert ours.labels == {}


@pytest.mark.parametrize("fold", FOLDS)
def test_folds_of_poverty(trees, fold):
    for unlabeled in (False, True):
        folder = UNLABELED_FOLDERS if unlabeled else FOLDERS
        ours = load_wilds(trees / folder["poverty"], size=2, fold=fold)
        assert list(ours.official_splits) == list(
            split_names(theirs("poverty", trees, unlabeled, fold=fold))
        )


THEIR_NAMES = {
    "camelyon17": {"accuracy": "acc_avg", "accuracy of the worst slide": "acc_wg"},
    "iwildcam": {
        "accuracy": "acc_avg",
        "macro recall": "recall-macro_all",
        "macro F1": "F1-macro_all",
    },
    "fmow": {
        "accuracy": "acc_avg",
        "accuracy of the worst region": "acc_worst_region",
        "accuracy of the worst year": "acc_worst_year",
    },
    "rxrx1": {"accuracy": "acc_avg", "accuracy of the worst cell_type": "acc_wg"},
    "poverty": {
        "r, all": "r_all",
        "r, rural": "r_urban:0",
        "r, urban": "r_urban:1",
        "r, the lower of urban and rural": "r_wg",
        "squared error, all": "mse_avg",
        "squared error, rural": "mse_urban:0",
        "squared error, urban": "mse_urban:1",
    },
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_metrics(trees, name, seed):
    dataset = theirs(name, trees)
    rng = np.random.default_rng(seed)
    for split in dataset.split_dict:
        rows = np.flatnonzero(split_names(dataset) == split)
        true = dataset.y_array[rows]
        if name == "poverty":
            noise = rng.normal(size=(len(rows), 1))
            predicted = (true + torch.from_numpy(noise)).float()
        else:
            right = torch.from_numpy(rng.random(len(rows)) < 0.6)
            wrong = torch.from_numpy(rng.integers(0, dataset.n_classes, len(rows)))
            predicted = torch.where(right, true, wrong)
        expected, _ = dataset.eval(predicted, true, dataset.metadata_array[rows])
        fields = [f for f in dataset.metadata_fields if f != "y"]
        score = wilds_score(
            name,
            predicted.flatten().numpy(),
            true.flatten().numpy(),
            {field: column(dataset, field)[rows] for field in fields},
        )
        compared = 0
        for ours, value in score.values.items():
            group = ours.removeprefix("accuracy of ").replace(" ", ":", 1)
            other = THEIR_NAMES[name].get(ours, f"acc_{group}")
            assert value == pytest.approx(expected[other], abs=2e-6), (split, ours)
            compared += 1
        assert compared == len(score.values) >= len(THEIR_NAMES[name])
