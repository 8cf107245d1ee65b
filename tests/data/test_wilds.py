"""WILDS as it lies on disk: every data set in its own format, and what is refused."""

import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import wilds_trees
from ddm.config import PretrainConfig
from ddm.data.arrays import read_array, to_unit
from ddm.data.base import ImageDataset
from ddm.data.images import UnreadableImage
from ddm.data.loading import IndexedImages
from ddm.data.wilds import RELEASES, load_wilds, recognize
from ddm.embed import embed
from ddm.encoders import EncoderSpec, build_encoder
from ddm.errors import DdmError
from ddm.plots import strip
from ddm.pretrain import pretrain


def domains_of(dataset: ImageDataset) -> list[str]:
    return [dataset.domains.names[d] for d in dataset.domains.index]


def shade_of(dataset: ImageDataset, i: int) -> tuple[int, ...]:
    return tuple(dataset.read(i)[0, 0].tolist())


def assert_groups_keep_to_splits(dataset: ImageDataset) -> None:
    for group in set(dataset.groups):
        assert len(set(dataset.official_splits[dataset.groups == group])) == 1


def test_camelyon17(tmp_path):
    rows = wilds_trees.camelyon17(tmp_path)
    dataset = load_wilds(tmp_path / "camelyon17_v1.0", size=8)
    assert dataset.name == "camelyon17_v1.0"
    assert len(dataset) == len(rows)
    assert dataset.keys[1] == ("patches/patient_010_node_2/patch_patient_010_node_2_x_101_y_32.png")
    assert domains_of(dataset) == [f"hospital {row['center']}" for row in rows]
    places = {1: ("val", "val"), 2: ("test", "test")}
    for row, split, official in zip(rows, dataset.splits, dataset.official_splits, strict=True):
        own = ("val", "id_val") if row["split"] else ("train", "train")
        assert (split, official) == places.get(row["center"], own)
    assert dataset.labels["class"].names == ("normal", "tumor")
    assert list(dataset.labels["class"].index) == [row["tumor"] for row in rows]
    assert list(dataset.metadata["slide"]) == [row["slide"] for row in rows]
    assert_groups_keep_to_splits(dataset)
    assert len(set(dataset.groups)) == len(
        set(zip(dataset.metadata["slide"], dataset.official_splits, strict=True))
    )
    assert [shade_of(dataset, i) for i in (0, 59)] == [wilds_trees.shade(i) for i in (0, 59)]


def test_camelyon17_unlabelled(tmp_path):
    rows = wilds_trees.camelyon17(tmp_path, unlabeled=True)
    dataset = load_wilds(tmp_path / "camelyon17_unlabeled_v1.0")
    assert dataset.labels == {}
    names = {1: "val_unlabeled", 2: "test_unlabeled"}
    assert list(dataset.official_splits) == [
        names.get(row["center"], "train_unlabeled") for row in rows
    ]
    assert Counter(dataset.splits.tolist()) == {"train": 36, "val": 12, "test": 12}


def test_iwildcam(tmp_path):
    rows = wilds_trees.iwildcam(tmp_path)
    dataset = load_wilds(tmp_path / "iwildcam_v2.0", size=8)
    assert dataset.keys[0] == "train/8a0000-21bc.jpg"
    # In the order of numbers: 10 after 9.
    assert dataset.domains.names == tuple(f"location {i}" for i in range(12))
    assert domains_of(dataset) == [f"location {row['location_remapped']}" for row in rows]
    assert list(dataset.official_splits) == [row["split"] for row in rows]
    assert list(dataset.splits) == [row["split"].removeprefix("id_") for row in rows]
    assert list(dataset.labels["class"].index) == [row["y"] for row in rows]
    assert dataset.labels["class"].names[3] == "white-lipped peccary"
    assert list(dataset.metadata["sequence"]) == [row["sequence_remapped"] for row in rows]
    assert_groups_keep_to_splits(dataset)
    (tmp_path / "iwildcam_v2.0" / "categories.csv").unlink()
    again = load_wilds(tmp_path / "iwildcam_v2.0", size=8)
    assert again.labels["class"].names == tuple("0123456")


def test_iwildcam_unlabelled(tmp_path):
    rows = wilds_trees.iwildcam(tmp_path, unlabeled=True)
    table = tmp_path / "iwildcam_unlabeled_v1.0" / "metadata.csv"
    rows[3]["sequence_remapped"] = rows[4]["sequence_remapped"] = ""
    wilds_trees.write_table(table, rows, indexed=True)
    dataset = load_wilds(table.parent)
    assert dataset.keys[0] == "images/8a0000-21bc.jpg"
    assert set(dataset.official_splits) == {"extra_unlabeled"}
    assert set(dataset.splits) == {"train"}
    assert dataset.labels == {}
    assert list(dataset.metadata["sequence"][2:5]) == [1, -1, -1]
    # Images of no known sequence are no sequence.
    assert dataset.groups[3] != dataset.groups[4]
    assert dataset.groups[0] == dataset.groups[1]


def test_fmow(tmp_path):
    rows = wilds_trees.fmow(tmp_path)
    regions = {"FRA": "Europe", "NAM": "Africa", "JPN": "Asia", "PER": "Americas"}
    expected, unlabeled = {}, {}
    for i, row in enumerate(rows):
        year, split = int(row["timestamp"][:4]), row["split"]
        age = "" if year >= 2016 else "middle" if year >= 2013 else "early"
        named = {
            "early": {"train": "train", "val": "id_val", "test": "id_test"},
            "middle": {"val": "val"},
            "": {"test": "test"},
        }[age]
        if split in named:
            expected[f"images/rgb_img_{i}.png"] = named[split]
        hidden = {"early": ("seq",)}.get(age, ("train", "seq"))
        if split in hidden:
            name = {"early": "train", "middle": "val", "": "test"}[age]
            unlabeled[f"images/rgb_img_{i}.png"] = f"{name}_unlabeled"
    root = tmp_path / "fmow_v1.1"
    dataset = load_wilds(root, size=8)
    assert dict(zip(dataset.keys, dataset.official_splits, strict=True)) == expected
    assert set(expected.values()) == {"train", "id_val", "id_test", "val", "test"}
    numbers = [int(key.removeprefix("images/rgb_img_").removesuffix(".png")) for key in expected]
    assert [shade_of(dataset, i) for i in range(len(dataset))] == [
        wilds_trees.shade(number) for number in numbers
    ]
    assert domains_of(dataset) == [rows[i]["timestamp"][:4] for i in numbers]
    assert list(dataset.metadata["region"]) == [
        regions.get(rows[i]["country_code"], "Other") for i in numbers
    ]
    classes = dataset.labels["class"]
    assert [classes.names[c] for c in classes.index] == [rows[i]["category"] for i in numbers]
    assert (len(classes.names), classes.names[0], classes.names[61]) == (62, "airport", "zoo")
    places = [rows[i]["img_path"].rpartition("/")[0] for i in numbers]
    assert (
        len(set(dataset.groups))
        == len(set(zip(places, dataset.official_splits, strict=True)))
        < len(dataset)
    )
    assert_groups_keep_to_splits(dataset)
    rest = load_wilds(root, unlabeled=True)
    assert dict(zip(rest.keys, rest.official_splits, strict=True)) == unlabeled
    assert rest.labels == {}
    assert rest.name == "fmow_v1.1, unlabeled"


def test_rxrx1(tmp_path):
    rows = wilds_trees.rxrx1(tmp_path)
    dataset = load_wilds(tmp_path / "rxrx1_v1.0", size=8)
    assert dataset.keys[3] == "images/HEPG2-01/Plate2/B03_s2.png"
    assert domains_of(dataset) == [row["experiment"] for row in rows]
    assert list(dataset.official_splits) == [
        "id_test" if row["dataset"] == "train" and row["site"] == 2 else row["dataset"]
        for row in rows
    ]
    assert list(dataset.labels["class"].index) == [row["sirna_id"] for row in rows]
    assert_groups_keep_to_splits(dataset)
    # Two sites of one well: together in val and test, apart in train and id_test.
    assert dataset.groups[0] != dataset.groups[1]
    assert dataset.groups[-2] == dataset.groups[-1]


@pytest.fixture(scope="module")
def poverty(tmp_path_factory):
    root = tmp_path_factory.mktemp("poverty")
    return root / "poverty_v1.1", wilds_trees.poverty(root)


def test_poverty(poverty):
    root, rows = poverty
    dataset = load_wilds(root, size=6)
    assert dataset.name == "poverty_v1.1, fold A"
    assert domains_of(dataset) == [row["country"] for row in rows]
    assert dataset.labels == {}
    assert list(dataset.metadata["y"]) == [row["wealthpooled"] for row in rows]
    assert list(dataset.metadata["urban"]) == [int(row["urban"]) for row in rows]
    counts = Counter(dataset.official_splits.tolist())
    assert counts == {"train": 15, "id_val": 1000, "id_test": 1000, "val": 775, "test": 775}
    of = dict(zip(domains_of(dataset), dataset.official_splits, strict=True))
    assert {c for c, split in of.items() if split == "test"} == {
        "angola", "cote_d_ivoire", "ethiopia", "mali", "rwanda"
    }  # fmt: skip
    with np.load(root / "images" / "landsat_poverty_img_0.npz") as file:
        bands = file["x"]
    image = dataset.read(0)
    assert image.dtype == np.float32 and image.shape == (6, 6, 8)
    signed = 2 * image.astype(np.float64) - 1
    # One-to-one, from the missing temperature to the lights of a city.
    assert np.allclose(2 * signed / (1 - np.abs(signed)), bands.transpose(1, 2, 0), rtol=1e-4)
    assert 0 < image.min() < image.max() < 1


def test_the_next_fold_tests_what_the_last_validated_on(tmp_path):
    wilds_trees.poverty(tmp_path, each=2)
    before = load_wilds(tmp_path / "poverty_v1.1", size=2, fold="E")
    for fold in "ABCDE":
        now = load_wilds(tmp_path / "poverty_v1.1", size=2, fold=fold)
        assert np.array_equal(before.official_splits == "val", now.official_splits == "test")
        before = now
    with pytest.raises(DdmError, match="fold='F': poverty has the folds A, B, C, D, E"):
        load_wilds(tmp_path / "poverty_v1.1", fold="F")


def test_poverty_unlabelled(tmp_path):
    wilds_trees.poverty(tmp_path, unlabeled=True, each=1)
    dataset = load_wilds(tmp_path / "poverty_unlabeled_v1.0", size=3, fold="B")
    assert Counter(dataset.official_splits.tolist()) == {
        "train_unlabeled": 14, "val_unlabeled": 4, "test_unlabeled": 5
    }  # fmt: skip
    assert dataset.read(22).shape == (3, 3, 8)
    assert set(dataset.metadata) == {"country"}
    assert dataset.enlarged == 0
    assert load_wilds(tmp_path / "poverty_unlabeled_v1.0", size=7).enlarged == 23


@pytest.mark.parametrize("channels", [8, 1])
def test_other_channels_from_end_to_end(tmp_path, channels):
    """Eight floats a pixel, and one byte: read, trained on, embedded, shown."""
    if channels == 8:
        wilds_trees.poverty(tmp_path, unlabeled=True, each=1)
        dataset = load_wilds(tmp_path / "poverty_unlabeled_v1.0", size=8)
    else:
        wilds_trees.rxrx1(tmp_path)
        dataset = load_wilds(tmp_path / "rxrx1_v1.0", size=8, channels=1)
    assert dataset.channels == channels
    images, _, _ = IndexedImages(dataset, np.arange(len(dataset))).__getitems__([0, 1])
    assert images.shape == (2, channels, 8, 8)
    config = PretrainConfig(
        images="given",
        output=str(tmp_path / "run"),
        size=8,
        channels=channels,
        epochs=1,
        batch_size=8,
        train_split="all",
        accelerator="cpu",
        workers=0,
    )
    run = pretrain(config, dataset)
    assert run.encoder_file.exists()
    encoder = build_encoder(EncoderSpec("small", channels, 8))[0]
    features = embed(encoder, dataset, 8, tmp_path / "features.npy", "untrained")
    assert len(features) == len(dataset)
    assert np.isfinite(features).all() and features.std(0).max() > 0
    assert strip([dataset.read(0), None, dataset.read(1)]).startswith("data:image/png")


def test_missing_and_damaged_images(tmp_path):
    wilds_trees.rxrx1(tmp_path)
    root = tmp_path / "rxrx1_v1.0"
    (root / "images/HEPG2-01/Plate1/B02_s1.png").unlink()
    damaged = root / "images/RPE-01/Plate1/B02_s1.png"
    damaged.write_bytes(damaged.read_bytes()[:30])
    dataset = load_wilds(root)
    assert len(dataset) == 58
    reasons = dict(dataset.skipped)
    assert reasons.pop("images/HEPG2-01/Plate1/B02_s1.png") == "no such file"
    assert list(reasons) == ["images/RPE-01/Plate1/B02_s1.png"]
    # Class and domain keep to their images.
    assert dataset.keys[0] == "images/HEPG2-01/Plate1/B02_s2.png"
    assert dataset.official_splits[0] == "id_test"
    assert len(dataset.labels["class"].index) == len(dataset.metadata["well"]) == 58
    with pytest.raises(DdmError, match=r"2 of 60 images .* 'images/HEPG2-01.*' \(no such file\)"):
        load_wilds(root, strict=True)


def test_damaged_arrays(tmp_path):
    wilds_trees.poverty(tmp_path, unlabeled=True, each=1)
    root = tmp_path / "poverty_unlabeled_v1.0"

    def replace(i, write):
        path = root / "images" / f"landsat_poverty_img_{i}.npz"
        path.unlink()
        if write is not None:
            write(path)
        return path

    whole = (root / "images" / "landsat_poverty_img_0.npz").read_bytes()
    replace(3, lambda path: path.write_bytes(whole[:200]))
    replace(4, lambda path: path.write_bytes(b""))
    replace(5, None)
    replace(6, lambda path: np.savez(path, x=np.zeros((3, 4, 4))))
    replace(7, lambda path: np.savez(path, x=np.full((8, 4, 4), np.nan)))
    replace(8, lambda path: np.savez(path, y=np.zeros((8, 4, 4))))
    replace(9, lambda path: np.savez(path, x=np.array([{}])))
    dataset = load_wilds(root, size=4)
    assert dataset.resized(6).read(0).shape == (6, 6, 8)
    reasons = [reason for _, reason in dataset.skipped]
    assert [key for key, _ in dataset.skipped] == [
        f"images/landsat_poverty_img_{i}.npz" for i in range(3, 10)
    ]
    assert reasons[:6] == [
        "not an .npz file, or cut off at its end",
        "the file is empty",
        "no such file",
        "the array has shape (3, 4, 4), not (8, H, W)",
        "some values are not finite",
        "it holds no array 'x'",
    ]
    assert "allow_pickle=False" in reasons[6]
    with pytest.raises(UnreadableImage, match="no such file"):
        read_array(root / "gone.npz", 4, 8)


def test_arrays_are_scaled_before_they_are_squashed(tmp_path):
    bands = np.zeros((2, 4, 6), np.float32)
    bands[0, :, 1:3], bands[0, :, 3:5] = -1, 1  # of which the central square begins at column 1
    np.savez(tmp_path / "a.npz", x=bands)
    image = read_array(tmp_path / "a.npz", 4, 2)
    assert np.allclose(image[:, :, 1], 0.5)
    assert np.allclose(image[:, :, 0], to_unit(bands[0, :, 1:5]))
    assert np.allclose(to_unit(np.array([0, 2, -2], np.float32)), [0.5, 0.75, 0.25])


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    root = tmp_path_factory.mktemp("wilds")
    for unlabeled in (False, True):
        wilds_trees.camelyon17(root, unlabeled)
        wilds_trees.iwildcam(root, unlabeled)
        wilds_trees.poverty(root, unlabeled, each=1)
    wilds_trees.fmow(root)
    wilds_trees.rxrx1(root)
    return root


def test_recognized_by_name_or_by_content(everything, tmp_path):
    for release in RELEASES.values():
        root = everything / release.folder
        assert recognize(root) == release.name
        assert recognize(root / release.images) == release.name
        if release.name != "poverty_unlabeled":  # whose table has nothing of its own
            renamed = tmp_path / f"copy of {release.name}"
            shutil.copytree(root, renamed)
            assert recognize(renamed) == release.name
            assert load_wilds(renamed, size=4).keys == load_wilds(root, size=4).keys
    assert recognize(everything) is not None
    (tmp_path / "photo" / "dog").mkdir(parents=True)
    assert recognize(tmp_path / "photo") is None
    assert recognize(tmp_path / "nowhere") is None
    (tmp_path / "photo" / "metadata.csv").write_bytes(b"\xff\xfe\x00")
    assert recognize(tmp_path / "photo") is None


def test_wrong_roots(everything, tmp_path):
    with pytest.raises(
        DdmError, match=r"too high, it holds camelyon17_unl.*, fmow_v1.1.*: give .*"
    ):
        load_wilds(everything)
    with pytest.raises(DdmError, match=r"patches is one folder too low: give .*camelyon17_v1.0$"):
        load_wilds(everything / "camelyon17_v1.0" / "patches")
    with pytest.raises(DdmError, match=r"nowhere does not exist: give the folder of a WILDS"):
        load_wilds(tmp_path / "nowhere")
    with pytest.raises(DdmError, match=r"holds no WILDS data set that is known here: expected cam"):
        load_wilds(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DdmError, match="file is not a folder"):
        load_wilds(tmp_path / "file")


@pytest.fixture
def tree(tmp_path):
    wilds_trees.fmow(tmp_path)
    return tmp_path / "fmow_v1.1"


def test_wrong_versions(tree):
    (tree / "RELEASE_v1.1.txt").rename(tree / "RELEASE_v1.0.txt")
    message = r"is version 1.0 of fmow \(it holds RELEASE_v1.0.txt\), but .* of 1.1: give fmow_v1.1"
    with pytest.raises(DdmError, match=message):
        load_wilds(tree)
    (tree / "RELEASE_v1.0.txt").unlink()
    assert len(load_wilds(tree)) > 0
    with pytest.raises(
        DdmError, match=r"fmow_v1.0 is version 1.0 of fmow, but the official splits"
    ):
        load_wilds(tree.rename(tree.parent / "fmow_v1.0"))


def test_truncated_downloads(tree):
    table = tree / "rgb_metadata.csv"
    whole = table.read_text()
    for cut, message in [
        ("", "rgb_metadata.csv is empty: the download stopped early"),
        (whole[: whole.index("\n") + 1], "lists no images: the download stopped early"),
        (
            whole[:2000].rpartition("\n")[0] + "\nval,a.tif,",
            "row 17: country_code is empty, not text",
        ),
        (whole[: whole.index("\n") + 1] + '"seq', "is no valid CSV"),
    ]:
        table.write_text(cut)
        with pytest.raises(DdmError, match=message) as raised:
            load_wilds(tree)
        assert "\n" not in str(raised.value)
    table.write_text(whole)
    shutil.move(tree / "images", tree / "elsewhere")
    with pytest.raises(
        DdmError, match=r"no folder images: the download stopped .*; download it an"
    ):
        load_wilds(tree)
    (tree / "archive.tar.gz").write_bytes(b"")
    with pytest.raises(DdmError, match=r"no folder images: .*; unpack its archive.tar.gz again"):
        load_wilds(tree)
    (tree / "images").mkdir()
    with pytest.raises(DdmError, match=r"none of the \d+ images that its rgb_metadata.csv lists"):
        load_wilds(tree)
    (tree / "country_code_mapping.csv").unlink()
    with pytest.raises(
        DdmError, match=r"country_code_mapping.csv is missing: the download stopped"
    ):
        load_wilds(tree)
    table.unlink()
    with pytest.raises(DdmError, match=r"has no rgb_metadata.csv: the download stopped early"):
        load_wilds(tree)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("camelyon17", {"center": None}, "has no column 'center', only 'patient', 'node', 'x_c"),
        ("camelyon17", {"tumor": 2}, r"row 3: tumor is 2, not one of 0, 1"),
        ("camelyon17", {"slide": "x"}, r"row 3: slide is 'x', not a whole number"),
        ("camelyon17", {"slide": 0.5}, r"row 3: slide is '0.5', not a whole number"),
        ("camelyon17", {"node": ""}, r"row 3: node is empty, not a whole number"),
        ("iwildcam", {"split": "trian"}, "row 3: split is 'trian', not one of train, val, test"),
        (
            "iwildcam",
            {"filename": "8a0000-21bc.jpg"},
            r"lists train/8a0.* twice \(images 1 and 3\)",
        ),
        ("iwildcam", {"y": 8}, "no image is of class 7 in column 'y', which counts from 0 to 8"),
        ("fmow", {"timestamp": "soon"}, "row 3: timestamp is 'soon', no date"),
        ("fmow", {"category": "moon"}, "row 3: category is 'moon', not one of airport, airport_h"),
        ("rxrx1", {"well": ""}, "row 3: well is empty, not text"),
        ("poverty", {"country": "atlantis"}, "row 3: country is 'atlantis', not one of angola"),
        ("poverty", {"wealthpooled": "rich"}, "row 3: wealthpooled is 'rich', not a number"),
        ("poverty", {"urban": ""}, "row 3: urban is empty, not a whole number"),
        ("poverty", {"urban": 3}, "row 3: urban is 3, not one of 0, 1"),
    ],
)
def test_damaged_tables(tmp_path, name, change, message):
    write = getattr(wilds_trees, name)
    rows = write(tmp_path, each=1) if name == "poverty" else write(tmp_path)
    release = RELEASES[name]
    table = tmp_path / release.folder / release.table
    ((column, value),) = change.items()
    for i, row in enumerate(rows):
        if value is None:
            del row[column]
        elif i == 2:
            row[column] = value
        elif isinstance(row[column], bool) and value != "":
            row[column] = int(row[column])
    wilds_trees.write_table(table, rows, indexed=name in ("camelyon17", "iwildcam"))
    with pytest.raises(DdmError, match=message) as raised:
        load_wilds(table.parent)
    assert str(table) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("folder", "arguments", "message"),
    [
        ("poverty_v1.1", {"channels": 3}, "channels=3: poverty's images have 8; set channels=8"),
        ("rxrx1_v1.0", {"channels": 8}, r"channels must be 3 \(colour\) or 1 \(grey\), not 8"),
        ("rxrx1_v1.0", {"unlabeled": True}, "rxrx1 has no unlabelled part"),
        ("camelyon17_v1.0", {"unlabeled": True}, "give the folder camelyon17_unlabeled_v1.0"),
        ("fmow_v1.1", {"fold": "A"}, "only poverty has folds, not fmow"),
    ],
)
def test_what_there_is_not(everything, folder, arguments, message):
    with pytest.raises(DdmError, match=message):
        load_wilds(everything / folder, **arguments)


def test_wrong_shapes_are_refused(everything):
    dataset = load_wilds(everything / "rxrx1_v1.0", size=4)
    fields = {name: getattr(dataset, name) for name in ImageDataset.__dataclass_fields__}
    for change in ({"official_splits": np.array(["val"])}, {"metadata": {"well": np.zeros(3)}}):
        with pytest.raises(ValueError, match=r"has shape .* but there are 60 keys"):
            ImageDataset(**{**fields, **change})


def test_paths_with_spaces_and_accents_and_links(tmp_path):
    root = tmp_path / "données à moi"
    wilds_trees.rxrx1(root)
    (tmp_path / "link").symlink_to(root / "rxrx1_v1.0", target_is_directory=True)
    assert recognize(tmp_path / "link") == "rxrx1"
    assert len(load_wilds(tmp_path / "link", size=4)) == 60
    Image.new("RGB", (4, 4)).save(root / "stray.png")
    assert recognize(root) == "rxrx1"
