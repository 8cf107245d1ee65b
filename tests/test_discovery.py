"""Discovery of domains: on samples whose domains are known, and on what cannot have any."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.mixture import GaussianMixture

from ddm.discovery import (
    Discovery,
    _separation,
    damp_changes,
    discover_domains,
    match_domains,
)
from ddm.discovery_page import headline
from ddm.discovery_space import Palettes
from ddm.domains import DomainTable
from ddm.errors import DdmError
from ddm.style import StyleFeatures, style_features
from synthetic import make_dataset


def blobs(sizes: list[int], dim: int = 10, apart: float = 8, seed: int = 0):
    """Gaussian domains; shuffled."""
    rng = np.random.default_rng(seed)
    centres = apart * np.linalg.qr(rng.normal(size=(dim, dim)))[0][: len(sizes)]
    true = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return centres[true] + rng.normal(size=(len(true), dim)), true


def test_domains_and_their_number() -> None:
    x, true = blobs([200, 150, 100])
    found = discover_domains(x)
    assert found.num_domains == 3
    # Named by size.
    known = found.domains >= 0
    assert known.mean() > 0.98
    np.testing.assert_array_equal(found.domains[known], true[known])
    assert (found.confidence[known] > 0.9).all() and found.agreement > 0.95
    assert [c.num_domains for c in found.candidates] == list(range(2, 9))
    table = found.table()
    assert table.names == ("domain-0", "domain-1", "domain-2") and len(table) == 450


def test_more_domains_than_are_usually_tried() -> None:
    x, true = blobs([60] * 12, dim=14, apart=12)
    found = discover_domains(x)
    assert found.num_domains == 12 and adjusted_mutual_info_score(true, found.domains) > 0.98
    # Of the numbers above eight only those that a clustering found.
    assert [c.num_domains for c in found.candidates][:7] == [*range(2, 9)]
    assert all(c.support > 0 for c in found.candidates[7:])
    assert discover_domains(x, (3, None)).num_domains == 12
    # Where none of what was asked for is found, that is said.
    bounded = discover_domains(x, (2, 8))
    assert bounded.num_domains <= 8 and not any(c.support for c in bounded.candidates)
    said = " ".join(headline(bounded, len(x)))
    assert "None of the clusterings finds a number of this range by itself" in said
    assert "None of the clusterings" not in " ".join(headline(found, len(x)))


def test_what_is_said_of_one_domain_and_of_few_images() -> None:
    x, _ = blobs([400])
    strange = np.random.default_rng(1).normal(size=(20, 10)) * 60
    said = " ".join(headline(discover_domains(np.concatenate([x, strange])), 420))
    assert "the 400 images look alike" in said and "20 images fit none" in said
    assert "fewer than 1,000 images" in said
    assert "fewer than" not in " ".join(headline(discover_domains(x, 2), 400))


@pytest.mark.parametrize("styles", [False, True])
def test_samples_beyond_those_that_are_fitted_to(monkeypatch, styles: bool) -> None:
    """Every limit that keeps large data in bounds, made small: assigned in chunks, in any order."""
    x, true = blobs([250, 150, 100])
    x = x.astype(np.float32)
    features = x
    if styles:
        rng = np.random.default_rng(0)
        halves = x[:, None] + 0.1 * rng.normal(size=(500, 4, 10)).astype(np.float32)
        features = StyleFeatures(x, halves, np.full((500, 4, 8), -1, np.int32), {})
    limits = {"FIT_SAMPLES": 300, "ONE_FIT": 150, "NEIGHBOURS_AMONG": 150, "CHUNK": 64}
    for name, limit in limits.items():
        monkeypatch.setattr(f"ddm.discovery.{name}", limit)
    monkeypatch.setattr("ddm.discovery_space.CHUNK", 64)
    found = discover_domains(features, 3)
    known = found.domains >= 0
    assert known.mean() > 0.97
    assert adjusted_mutual_info_score(true[known], found.domains[known]) > 0.95
    order = np.random.default_rng(2).permutation(500)
    shuffled = features.subset(order) if styles else features[order]
    again = discover_domains(shuffled, 3)
    np.testing.assert_array_equal(again.domains, found.domains[order])
    np.testing.assert_array_equal(again.confidence, found.confidence[order])


def test_one_domain_is_one() -> None:
    x, _ = blobs([400])
    found = discover_domains(x)
    assert found.num_domains == 1
    assert (found.domains == 0).all() and (found.confidence == 1).all()
    # Who knows better gets what was asked for.
    assert discover_domains(x, 2).num_domains == 2
    assert discover_domains(x, (2, 4)).num_domains >= 2


def test_very_unequal_sizes() -> None:
    x, true = blobs([600, 100, 30])
    found = discover_domains(x, 3)
    assert adjusted_mutual_info_score(true, found.domains) > 0.95


@settings(max_examples=5, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_does_not_matter(random) -> None:
    x, _ = blobs([60, 40, 30], apart=4)
    order = list(range(len(x)))
    random.shuffle(order)
    one, other = discover_domains(x, 3), discover_domains(x[order], 3)
    np.testing.assert_array_equal(one.domains[order], other.domains)
    np.testing.assert_array_equal(one.confidence[order], other.confidence)


def test_foreign_samples_are_outliers() -> None:
    x, true = blobs([200, 200])
    strange = np.random.default_rng(1).normal(size=(20, 10)) * 60
    found = discover_domains(np.concatenate([x, strange]), 2)
    assert (found.domains[400:] == -1).mean() > 0.8
    assert (found.confidence[found.domains == -1] == 0).all()
    assert (found.domains[:400] == -1).mean() < 0.05
    assert adjusted_mutual_info_score(true, found.domains[:400]) > 0.9


@pytest.mark.parametrize("style", [False, True])
def test_many_foreign_samples_do_not_bend_the_domains(style: bool) -> None:
    x, true = blobs([300, 300])
    rng = np.random.default_rng(1)
    whole = np.concatenate([x, rng.normal(size=(30, 10)) * 40]).astype(np.float32)
    halves = whole[:, None] + rng.normal(size=(630, 4, 10)).astype(np.float32)
    colours = np.full((630, 4, 8), -1, np.int32)
    found = discover_domains(StyleFeatures(whole, halves, colours, {}) if style else whole)
    assert found.num_domains == 2
    assert (found.domains[600:] == -1).mean() > 0.8
    assert adjusted_mutual_info_score(true, found.domains[:600]) > 0.95


def test_a_handful_of_one_style_is_a_domain_if_asked_for() -> None:
    x, true = blobs([300, 300, 9])
    found = discover_domains(x, 3)
    assert (found.domains[true == 2] == 2).all()


def test_the_largest_domain_is_first_without_its_strangers() -> None:
    x, true = blobs([200, 195])
    # Foreign ones that lie nearer to the smaller domain.
    away = np.random.default_rng(1).normal(size=(20, 10)) * 20 + 6 * x[true == 1].mean(0)
    found = discover_domains(np.concatenate([x, away]), 2)
    counts = found.table().counts()
    assert (found.domains[395:] == -1).mean() > 0.5
    assert counts[0] >= counts[1]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_nor_do_its_outliers_count(seed: int) -> None:
    # Half of the larger domain's surplus lies far out.
    x, true = blobs([110, 100], seed=seed)
    x[np.flatnonzero(true == 0)[:20]] *= 2.5
    counts = discover_domains(x, 2).table().counts()
    assert counts[0] >= counts[1]


def styled(content_apart: float, style_apart: float, n: int = 400, dim: int = 12, seed: int = 0):
    """Images whose halves share their style and differ in content."""
    rng = np.random.default_rng(seed)
    style, content = rng.integers(0, 2, n), rng.integers(0, 2, (n, 2))
    halves = rng.normal(0, 0.3, (n, 2, dim))
    halves[:, :, 0] += style_apart * style[:, None]
    halves[:, :, 1] += content_apart * content
    # Left and right, and upper and lower, by the same rule.
    whole = halves.mean(1).astype(np.float32)
    colours = np.full((n, 4, 8), -1, np.int32)
    return StyleFeatures(whole, np.tile(halves, (1, 2, 1)).astype(np.float32), colours, {}), style


def test_what_varies_within_images_is_not_style() -> None:
    features, style = styled(content_apart=6, style_apart=2)
    found = discover_domains(features, 2)
    assert adjusted_mutual_info_score(style, found.domains) > 0.9
    assert found.halves > 0.9 and not found.follows_content
    # Without the halves, the larger difference wins.
    blind = KMeans(2, n_init=3, random_state=0).fit_predict(features.whole)
    assert adjusted_mutual_info_score(style, blind) < 0.5


@pytest.mark.parametrize(("style_apart", "several"), [(0, False), (6, True)])
def test_one_style_or_several(style_apart: float, several: bool) -> None:
    features, _ = styled(content_apart=3, style_apart=style_apart)
    found = discover_domains(features)
    assert (found.num_domains > 1) == several
    # In units that do not hang on the scale of the features.
    larger = replace(features, whole=4 * features.whole, halves=4 * features.halves)
    assert (discover_domains(larger).num_domains > 1) == several
    one, other = (_separation(f, found.space[:, 0]) for f in (features, larger))
    assert other == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_one_style_or_several_among_few_images(seed: int) -> None:
    """In more dimensions than there are images some direction parts any."""
    one, _ = styled(content_apart=3, style_apart=0, n=60, dim=400, seed=seed)
    found = discover_domains(one)
    assert found.num_domains == 1
    # In the direction that they give themselves they lie farther apart than in one from others.
    inside = found.space[found.domains >= 0, :1].astype(float)
    modes = GaussianMixture(2, n_init=3, random_state=0).fit(inside)
    apart = np.ptp(modes.means_) / np.sqrt(modes.covariances_.mean()) * inside.std()
    assert found.separation < 0.7 * apart
    two, style = styled(content_apart=3, style_apart=6, n=60, dim=400, seed=seed)
    found = discover_domains(two)
    assert found.num_domains == 2
    assert adjusted_mutual_info_score(style, found.domains) > 0.9


@pytest.mark.parametrize("count", [4, 7, 19])
def test_of_fewer_than_twenty_images_there_is_one_domain(count: int) -> None:
    features, _ = styled(content_apart=3, style_apart=6, n=count)
    found = discover_domains(features)
    assert found.num_domains == 1 and found.separation == 0
    assert discover_domains(features, 2).num_domains == 2


def test_a_handful_that_lies_apart_is_no_domain() -> None:
    features, style = styled(content_apart=3, style_apart=6)
    ones, others = np.flatnonzero(style == 0), np.flatnonzero(style == 1)
    handful = np.concatenate([ones[:100], others[:7]])
    assert discover_domains(features.subset(handful)).num_domains == 1
    more = np.concatenate([ones[:100], others[:20]])
    assert discover_domains(features.subset(more)).num_domains == 2


def test_clusters_of_content_are_told() -> None:
    features, _ = styled(content_apart=6, style_apart=0)
    assert discover_domains(features, 2).follows_content


def test_styles_of_drawings() -> None:
    dataset = make_dataset(each=40, size=64)
    night = dataset.domains.index == dataset.domains.names.index("night")
    found = discover_domains(style_features(dataset), 2).domains
    assert adjusted_mutual_info_score(night, found) > 0.9


def palettes_of(kinds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flat colours of images that draw a few of their kind's ten, and white, in every quarter."""
    own = 1000 * kinds[:, None, None] + rng.integers(1, 11, (len(kinds), 4, 3))
    white = np.full((len(kinds), 4, 1), 0xFFFFFF)
    none = np.full((len(kinds), 4, 4), -1)
    return np.concatenate([own, white, none], 2).astype(np.int32)


def test_palettes_part_what_else_looks_alike() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 300)
    whole = rng.normal(size=(300, 6)).astype(np.float32)
    halves = rng.normal(size=(300, 4, 6)).astype(np.float32)
    features = StyleFeatures(whole, halves, palettes_of(kind, rng), {})
    found = discover_domains(features)
    assert found.num_domains == 3
    assert adjusted_mutual_info_score(kind, found.domains) > 0.95
    # Colours that no other image has, such as those of photographs, say nothing.
    features.colours[:] = np.arange(features.colours.size).reshape(features.colours.shape)
    assert Palettes(features.colours)(features.colours).shape == (300, 0)
    assert discover_domains(features).num_domains == 1


def test_a_palette_by_hand() -> None:
    """Images of two palettes without a common colour lie in two places, parts of them too."""
    kind = np.repeat([0, 1], 20)
    rng = np.random.default_rng(0)
    colours = palettes_of(kind, rng)
    place = Palettes(colours)
    everywhere = place(colours)
    np.testing.assert_allclose(np.linalg.norm(everywhere, axis=1), 1)
    cosine = everywhere @ everywhere.T
    same = kind[:, None] == kind
    assert cosine[same].min() > 0.5 > cosine[~same].max()
    # To have no colours says nothing: the mean of all.
    nowhere = np.broadcast_to(everywhere.mean(0), everywhere.shape)
    np.testing.assert_allclose(place(np.full_like(colours, -1)), nowhere)
    one = place(colours[:, :1])
    assert ((one @ everywhere.T)[same].mean() > 0.5).all()


def test_previous_domains_say_where_to_look() -> None:
    """A difference that matters, in noise that is larger: the domains so far point to it."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 600)
    x = rng.normal(size=(600, 20))
    x[:, 0] += 5 * true
    x[:, 1:9] += 4 * rng.integers(0, 2, (600, 8))
    noisy = np.where(rng.random(600) < 0.2, 1 - true, true)
    found = discover_domains(x, 2, previous=noisy)
    mended = adjusted_mutual_info_score(true, found.domains)
    assert mended > 0.8 and mended > 2 * adjusted_mutual_info_score(true, noisy)


@pytest.mark.parametrize(
    ("features", "num_domains", "message"),
    [
        (np.zeros((1, 4)), None, "1 different image"),
        (np.zeros((5, 4)) + np.arange(5)[:, None], 3, "too few to find 3"),
        (np.ones((50, 4)), None, "1 different image"),
        (1 + 1e-9 * np.random.default_rng(0).normal(size=(50, 4)), None, "hardly differ"),
        (np.full((50, 4), np.nan), None, "not finite"),
        (np.zeros((50, 4, 2)), None, "shape"),
        (np.zeros((50, 4)), 1, "from 2 on"),
        (np.zeros((50, 4)), (5, 3), "least, most"),
    ],
)
def test_what_cannot_be_clustered(features, num_domains, message) -> None:
    with pytest.raises(DdmError, match=message):
        discover_domains(features, num_domains)


def test_a_seed_is_not_negative() -> None:
    with pytest.raises(DdmError, match="seed=-1 must not be negative"):
        discover_domains(np.zeros((50, 4)), seed=-1)


def test_copies_add_nothing() -> None:
    """Nine in ten images are copies of one."""
    x, true = blobs([60, 40])
    copies = np.concatenate([x, np.repeat(x[:1], 900, 0)])
    one, other = discover_domains(x, 2), discover_domains(copies, 2)
    assert adjusted_mutual_info_score(true, one.domains) > 0.9
    # The names go by size, and the sizes have changed.
    assert adjusted_mutual_info_score(one.domains, other.domains[:100]) > 0.95
    assert len(np.unique(other.domains[100:])) == 1


def test_a_handful_of_images() -> None:
    x, _ = blobs([3, 3], apart=50)
    found = discover_domains(x, 2)
    assert found.num_domains == 2 and len(found.domains) == 6
    assert discover_domains(x).num_domains in (1, 2)


# --- during pre-training -------------------------------------------------------------------------


def test_matching_against_all_permutations() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        new, old = rng.integers(-1, 4, (2, 60))
        match = match_domains(new, old, 4)
        both = (new >= 0) & (old >= 0)

        def common(p, new=new, old=old, both=both):
            return (np.asarray(p)[new[both]] == old[both]).sum()

        assert sorted(match) == [0, 1, 2, 3]
        assert common(match) == max(common(p) for p in itertools.permutations(range(4)))


def test_changes_are_damped() -> None:
    def found(domains, confidence) -> Discovery:
        sure = np.array(confidence, np.float32)
        space = np.zeros((len(domains), 2), np.float32)
        return Discovery(np.array(domains), sure, 2, (), 1.0, None, None, space)

    old = DomainTable(np.array([0, 0, 0, 1, 1, -1, -1]), ("a", "b"))
    # Domain 1 of the new ones is "a": most of its samples were there.
    new = found([1, 1, 0, 0, -1, 0, 1], [0.9, 0.9, 0.9, 0.9, 0, 0.5, 0.95])
    after = damp_changes(old, new)
    assert after.names == ("a", "b")
    # The third moved; the fifth, an outlier now, stays; the sixth is not sure enough.
    assert after.index.tolist() == [0, 0, 1, 1, 1, -1, 0]
    np.testing.assert_allclose(after.confidence, [0.9, 0.9, 0.9, 0.9, 1, 0, 0.95], atol=1e-6)


@pytest.mark.parametrize("features", [[[1.0, 2.0]] * 40, torch.rand(40, 2, requires_grad=True)])
def test_features_that_are_no_array(features):
    with pytest.raises(DdmError, match=r"features are a \w+: give a NumPy array"):
        discover_domains(features)


@pytest.mark.parametrize("number", [2.5, [2, 4], (2, 3.5)])
def test_numbers_that_are_none(number):
    with pytest.raises(DdmError, match="give a number from 2 on"):
        discover_domains(np.random.default_rng(0).random((40, 3)), number)
