"""PACS in the layouts it comes in, and what goes wrong with each."""

import pickle
import shutil
import sys
import unicodedata

import numpy as np
import pytest

from benchmark_trees import label_of, names_of, table, write_images, write_split_file
from ddm.data.base import split_by_group
from ddm.data.pacs import PACS, load_pacs, recognize
from ddm.errors import DdmError

NAMES = names_of(PACS, per_class=3)
SPLIT = {name: "val" if name.endswith(("2.jpg", "sketch_001.jpg")) else "train" for name in NAMES}
PRE_READ = "Train val splits and h5py files pre-read"


def write_splits(folder, first_label=1):
    """The official files: crossval is val, test is train and crossval together."""
    for domain in PACS.domains:
        mine = [name for name in NAMES if name.startswith(f"{domain}/")]
        train = [name for name in mine if SPLIT[name] == "train"]
        val = [name for name in mine if SPLIT[name] == "val"]
        for split, names in (("train", train), ("crossval", val), ("test", train + val)):
            write_split_file(folder / f"{domain}_{split}_kfold.txt", PACS, names, first_label)


def edit(path, change):
    path.write_text(change(path.read_text()))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("plain") / "PACS", NAMES)


@pytest.fixture
def root(plain, tmp_path):
    """A PACS that a test may damage, with the official split files in its root."""
    shutil.copytree(plain, tmp_path / "PACS")
    write_splits(tmp_path / "PACS")
    return tmp_path / "PACS"


def test_folders_alone(plain):
    dataset = load_pacs(plain, size=4)
    assert recognize(plain) == "PACS, folders"
    assert dataset.name == "PACS"
    assert dataset.keys == tuple(NAMES)
    assert dataset.domains.names == PACS.domains
    assert dataset.labels["class"].names == PACS.classes
    assert [row[1:3] for row in table(dataset)] == [tuple(n.split("/")[1::-1]) for n in NAMES]
    assert list(dataset.splits) == list(split_by_group(NAMES))
    assert len(set(dataset.groups)) == len(NAMES)
    assert dataset.read(3).shape == (4, 4, 3)
    assert dataset.enlarged == 0
    assert load_pacs(plain, size=9, channels=1).enlarged == len(NAMES)


@pytest.mark.parametrize(
    ("images", "splits"),
    [
        ("", ""),
        ("", "splits"),
        ("kfold", "kfold"),
        ("kfold", "pacs_label"),
        ("images", "splits"),
        ("images/kfold", "splits"),
        ("pacs_data", PRE_READ),
    ],
)
def test_every_layout_gives_the_same(plain, tmp_path, images, splits):
    (tmp_path / "PACS" / images).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(plain, tmp_path / "PACS" / images, dirs_exist_ok=True)
    write_splits(tmp_path / "PACS" / splits)
    dataset = load_pacs(tmp_path / "PACS", size=4)
    assert recognize(tmp_path / "PACS") == "PACS, folders with split files"
    assert table(dataset) == [(n, n.split("/")[1], n.split("/")[0], SPLIT[n]) for n in NAMES]
    assert dataset.skipped == ()


def test_drawn_splits_on_request(root, plain):
    assert set(load_pacs(root).splits) == {"train", "val"}
    assert table(load_pacs(root, splits="drawn")) == table(load_pacs(plain))
    with pytest.raises(DdmError, match=r"splits must be one of .* not 'random'"):
        load_pacs(root, splits="random")


def test_test_file_that_names_more_than_the_others(root):
    for split in ("train", "crossval"):
        edit(
            root / f"photo_{split}_kfold.txt", lambda t: t.replace("photo/dog/photo_003.jpg 1", "")
        )
    splits = {row[0]: row[3] for row in table(load_pacs(root))}
    assert [name for name, split in splits.items() if split == "test"] == [
        "photo/dog/photo_003.jpg"
    ]


def test_without_test_files(root):
    before = table(load_pacs(root))
    for path in root.glob("*_test_kfold.txt"):
        path.unlink()
    assert table(load_pacs(root)) == before


def test_images_in_no_split_file_are_told(root):
    write_images(root, ["photo/dog/new.jpg"])
    dataset = load_pacs(root, strict=True)
    assert dataset.keys == tuple(NAMES)
    assert dataset.skipped == (("photo/dog/new.jpg", "no split file names it"),)


def test_unreadable_images_are_skipped(root):
    (root / NAMES[5]).write_bytes(b"")
    dataset = load_pacs(root)
    assert dataset.skipped == ((NAMES[5], "the file is empty"),)
    assert table(dataset) == [row for row in table_of_all() if row[0] != NAMES[5]]
    with pytest.raises(DdmError, match="1 of 84 images cannot be read"):
        load_pacs(root, strict=True)


def table_of_all():
    return [(n, n.split("/")[1], n.split("/")[0], SPLIT[n]) for n in NAMES]


def test_split_file_names_a_missing_image(root):
    (root / "cartoon/dog/cartoon_003.jpg").unlink()
    (root / "cartoon/house/cartoon_001.jpg").unlink()
    with pytest.raises(DdmError) as error:
        load_pacs(root)
    assert str(error.value).startswith(
        f"{root / 'cartoon_train_kfold.txt'} names 2 images that {root} lacks, "
        "first 'cartoon/dog/cartoon_003.jpg': complete the download"
    )
    assert len(load_pacs(root, partial=True)) == len(NAMES) - 2


@pytest.mark.parametrize("split", ["train", "crossval", "test"])
def test_labels_that_count_from_0(root, split):
    name = f"photo_{split}_kfold.txt"
    mine = [n for n in NAMES if n.startswith("photo/")]
    write_split_file(root / name, PACS, mine, first_label=0)
    with pytest.raises(
        DdmError,
        match=rf"{name}, line 1: label 0 for 'photo/dog/photo_001.jpg', but class 'dog' is 1: "
        "all labels count from 0, those of PACS from 1; .* add 1 to each label",
    ):
        load_pacs(root, partial=True)


def test_label_that_contradicts_the_folder(root):
    edit(
        root / "photo_train_kfold.txt",
        lambda t: t.replace("horse/photo_003.jpg 5", "horse/photo_003.jpg 6"),
    )
    with pytest.raises(
        DdmError, match=r"line 10: label 6 for 'photo/horse/photo_003.jpg', .*'horse' is 5: 1 of 14"
    ):
        load_pacs(root)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("photo/dog/photo_001.jpg", r"is not an image's path and the number of its class"),
        ("photo/dog/photo_001.jpg one", r"is not an image's path and the number of its class"),
        ("sketch/dog/sketch_002.jpg 1", r"is no <domain>/<class>/<image> of domain 'photo'"),
        ("/home/me/PACS/photo/dog/photo_001.jpg 1", r"is no <domain>/<class>/<image>"),
        ("photo/wolf/photo_001.jpg 1", r"'photo/wolf/photo_001.jpg' is no .* a class of PACS"),
        ("photo/dog/photo_002.jpg 1", r"is in the train split too, by another file"),
    ],
)
def test_lines_that_cannot_be_right(root, line, message):
    edit(root / "photo_train_kfold.txt", lambda text: f"{line}\n{text}")
    with pytest.raises(DdmError, match=message) as error:
        load_pacs(root, partial=True)
    assert "\n" not in str(error.value)


def test_split_file_that_is_not_text(root):
    (root / "photo_train_kfold.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DdmError, match=r"photo_train_kfold.txt is not UTF-8 text: get"):
        load_pacs(root)
    (root / "photo_train_kfold.txt").write_text("\n")
    with pytest.raises(DdmError, match=r"photo_train_kfold.txt names no images: get"):
        load_pacs(root)


def test_split_file_that_is_missing(root):
    (root / "sketch_crossval_kfold.txt").unlink()
    with pytest.raises(DdmError, match=r"sketch_crossval_kfold.txt is missing beside the other"):
        load_pacs(root)


def test_windows_line_ends_and_blank_lines(root):
    path = root / "photo_train_kfold.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert table(load_pacs(root)) == table_of_all()


def test_suffixes_in_mixed_case(root):
    for name in NAMES[::3]:
        (root / name).rename((root / name).with_suffix(".JPG"))
    dataset = load_pacs(root)
    assert [row[3] for row in sorted(table(dataset), key=lambda r: r[0].lower())] == [
        SPLIT[name] for name in sorted(NAMES, key=str.lower)
    ]
    assert dataset.skipped == ()


def test_spaces_accents_and_other_scripts(root):
    for spelling, name in (("NFC", "un été.jpg"), ("NFD", "un été.jpg"), ("NFC", "犬 1.jpg")):
        write_images(root, [f"photo/dog/{unicodedata.normalize('NFD', name)}"])
        line = f"photo/dog/{unicodedata.normalize(spelling, name)} 1\n"
        edit(root / "photo_train_kfold.txt", lambda text, line=line: text + line)
    dataset = load_pacs(root)
    assert len(dataset) == len(NAMES) + 2
    assert dataset.skipped == ()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links(root, tmp_path):
    (root / "photo").rename(tmp_path / "elsewhere")
    (root / "photo").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "photo" / "dog" / "up").symlink_to(root, target_is_directory=True)
    image = root / NAMES[0]
    image.rename(tmp_path / "image.jpg")
    image.symlink_to(tmp_path / "image.jpg")
    assert table(load_pacs(root)) == table_of_all()
    (tmp_path / "image.jpg").unlink()
    assert load_pacs(root).skipped == ((NAMES[0], "no such file"),)


def test_domain_that_is_missing(root):
    shutil.rmtree(root / "sketch")
    with pytest.raises(
        DdmError, match=r"lacks 1 of PACS's 4 domains \(sketch\): complete the down"
    ):
        load_pacs(root)
    dataset = load_pacs(root, partial=True)
    assert dataset.domains.names == ("art_painting", "cartoon", "photo")
    assert table(dataset) == [row for row in table_of_all() if row[2] != "sketch"]


def test_most_domains_are_missing(root):
    """Split files tell what a folder is, and so does the user; two domains alone do not."""
    shutil.rmtree(root / "sketch")
    shutil.rmtree(root / "photo")
    assert recognize(root) == "PACS, folders with split files"
    for path in root.glob("*.txt"):
        path.unlink()
    assert recognize(root) is None
    with pytest.raises(DdmError, match=r"lacks 2 of PACS's 4 domains \(photo, sketch\): complete"):
        load_pacs(root)


def test_class_that_is_missing(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "PACS")
    shutil.rmtree(tmp_path / "PACS" / "sketch" / "person")
    with pytest.raises(DdmError, match=r"lacks images of 1 class.* \(sketch/person/\): complete"):
        load_pacs(tmp_path / "PACS")
    for domain in PACS.domains[:3]:
        shutil.rmtree(tmp_path / "PACS" / domain / "person")
    with pytest.raises(DdmError, match=r"lacks 1 of PACS's 7 classes \(person\): complete"):
        load_pacs(tmp_path / "PACS")
    dataset = load_pacs(tmp_path / "PACS", partial=True)
    assert dataset.labels["class"].names == PACS.classes
    assert set(dataset.labels["class"].index) == set(range(6))


def test_extra_folders(root):
    write_images(root, [".cache/x/1.jpg", "__MACOSX/photo/1.jpg", "splits/preview.jpg", "all.jpg"])
    (root / "notes").mkdir()
    assert table(load_pacs(root)) == table_of_all()
    write_images(root, ["watercolour/dog/1.jpg"])
    with pytest.raises(
        DdmError, match=r"watercolour holds images, but is no domain of PACS \(art_painting, carto"
    ):
        load_pacs(root, partial=True)
    shutil.rmtree(root / "watercolour")
    write_images(root, ["photo/dog (copy)/1.jpg"])
    with pytest.raises(DdmError, match=r"dog \(copy\) holds images, but is no class of PACS"):
        load_pacs(root)


def test_domain_in_two_folders(root):
    shutil.copytree(root / "photo", root / "Photo_")
    with pytest.raises(DdmError, match=r"Photo_/dog and .*photo/dog both hold class 'dog' of 'pho"):
        load_pacs(root)


def test_wrong_root(root):
    for given in (root.parent, root / "photo", root / "photo" / "dog"):
        with pytest.raises(DdmError, match=rf"is not the folder of PACS: .* it is, give {root}$"):
            load_pacs(given)
    with pytest.raises(DdmError, match=r"nowhere does not exist: give the folder that holds PACS"):
        load_pacs(root / "nowhere")
    with pytest.raises(DdmError, match=r"txt is not a folder: give the folder that holds PACS's"):
        load_pacs(root / "photo_train_kfold.txt")


def test_image_folder_given_without_its_splits(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "pacs" / "images")
    write_splits(tmp_path / "pacs" / "splits")
    with pytest.raises(DdmError, match=rf"its split files lie in .*splits: give {tmp_path}/pacs "):
        load_pacs(tmp_path / "pacs" / "images")
    assert len(load_pacs(tmp_path / "pacs" / "images", splits="drawn")) == len(NAMES)
    with pytest.raises(DdmError, match=rf"the one above it is, give {tmp_path}/pacs$"):
        load_pacs(tmp_path / "pacs" / "splits")


def test_other_folders_are_not_recognized(tmp_path):
    write_images(tmp_path, ["photo/dog/1.jpg", "sketch/dog/1.jpg", "mine/dog/1.jpg"])
    assert recognize(tmp_path) is None
    assert recognize(tmp_path / "photo" / "dog" / "1.jpg") is None
    write_images(tmp_path / "other", [f"{domain}/rose/1.jpg" for domain in PACS.domains])
    assert recognize(tmp_path / "other") is None
    with pytest.raises(DdmError, match="does not hold PACS: give the folder that holds PACS's"):
        load_pacs(tmp_path / "other")


def test_files_that_hold_the_rows(tmp_path):
    h5py = pytest.importorskip("h5py")
    pixels = write_hdf5(h5py, tmp_path)
    dataset = load_pacs(tmp_path, size=16)
    assert recognize(tmp_path) == "PACS, HDF5 files"
    assert len(dataset) == len(pixels) == 4 * 7 * 2
    assert dataset.keys[0] == "art_painting_train.hdf5/0"
    assert [row[1:] for row in table(dataset)] == [p[1:] for p in pixels]
    for i in (0, 9, len(pixels) - 1):
        assert np.array_equal(dataset.read(i), pixels[i][0][:, :, ::-1])
    again = pickle.loads(pickle.dumps(dataset.read))
    assert np.array_equal(again(5), dataset.read(5))
    assert load_pacs(tmp_path, size=4, channels=1).read(0).shape == (4, 4, 1)
    larger = dataset.resized(20)
    assert larger.size == 20
    assert np.array_equal(larger.read(5), load_pacs(tmp_path, size=20).read(5))
    assert load_pacs(tmp_path, size=17).enlarged == len(pixels)
    assert set(load_pacs(tmp_path, size=4, splits="drawn").splits) == {"train", "val", "test"}


def write_hdf5(h5py, folder, first_label=1, dtype=np.uint8):
    """Blue first, labels from 1; the test file holds train and val together."""
    pixels = []
    for d, domain in enumerate(PACS.domains):
        parts = {}
        for s, split in enumerate(("train", "val")):
            rng = np.random.default_rng([d, s])
            images = rng.integers(0, 256, (7, 16, 16, 3)).astype(dtype)
            labels = np.arange(7)[::-1] + first_label
            parts[split] = (images, labels)
            pixels += [(images[k], PACS.classes[6 - k], domain, split) for k in range(7)]
        parts["test"] = tuple(np.concatenate(both) for both in zip(*parts.values(), strict=True))
        for split, (images, labels) in parts.items():
            with h5py.File(folder / f"{domain}_{split}.hdf5", "w") as file:
                file["images"], file["labels"] = images, labels
    return pixels


def test_rows_of_floats(tmp_path):
    h5py = pytest.importorskip("h5py")
    pixels = write_hdf5(h5py, tmp_path, dtype=np.float64)
    with h5py.File(tmp_path / "cartoon_train.hdf5", "r+") as file:
        file["images"][3] = -117.0
    dataset = load_pacs(tmp_path, size=16)
    assert len(dataset) == len(pixels) - 1
    assert dataset.skipped[0][0] == "cartoon_train.hdf5/3"
    assert np.array_equal(dataset.read(0), pixels[0][0][:, :, ::-1].astype(np.uint8))


def test_damaged_hdf5_files(tmp_path):
    h5py = pytest.importorskip("h5py")

    def fails(message, partial=False):
        with pytest.raises(DdmError, match=message):
            load_pacs(tmp_path, size=4, partial=partial)
        write_hdf5(h5py, tmp_path)

    write_hdf5(h5py, tmp_path, first_label=0)
    fails(r"labels from 0 to 6, .* count from 1 to 7: they count from 0, add 1 to each, or get")
    (tmp_path / "photo_val.hdf5").write_bytes(b"not that")
    fails(r"photo_val.hdf5 is no readable HDF5 file")
    (tmp_path / "photo_val.hdf5").unlink()
    fails(r"lacks photo_val.hdf5: complete the download")
    with h5py.File(tmp_path / "photo_test.hdf5", "r+") as file:
        del file["images"], file["labels"]
        file["images"], file["labels"] = np.zeros((2, 16, 16, 3), "u1"), np.ones(2)
    fails(r"photo_test.hdf5 holds 2 images, but train and val of 'photo', which it repeats, 14")
    with h5py.File(tmp_path / "photo_val.hdf5", "r+") as file:
        del file["images"]
    fails(r"photo_val.hdf5 lacks 'images' or 'labels', it has \['labels'\]")
    with h5py.File(tmp_path / "photo_val.hdf5", "r+") as file:
        del file["images"]
        file["images"] = np.zeros((7, 3, 16, 16), "u1")
    fails(r"holds images of shape \(7, 3, 16, 16\) and 7 labels, not \(N, side, side, 3\) and N")


def test_hdf5_without_h5py(tmp_path, monkeypatch):
    (tmp_path / "photo_train.hdf5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DdmError, match=r"PACS as HDF5 files: install h5py .*pip install 'ddm-ssl"):
        load_pacs(tmp_path)


def test_label_numbers():
    assert [label_of(PACS, f"photo/{name}/1.jpg") for name in ("dog", "person")] == [0, 6]
