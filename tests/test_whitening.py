"""Whitened features against scikit-learn's, and what must not enter them."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.decomposition import PCA

from ddm import whitening
from ddm.errors import DdmError
from ddm.whitening import Whitening


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 6)) + 5
    return mixed.astype(np.float32)


def test_distances_are_those_of_whitened_principal_components(features, monkeypatch):
    """Of training rows alone; the ridge, which scikit-learn has not, is taken out."""
    monkeypatch.setattr(whitening, "_RIDGE", 0.0)
    monkeypatch.setattr(whitening, "_CHUNK", 64)
    training = np.arange(0, 300, 2)
    theirs = PCA(whiten=True).fit(features[training].astype(np.float64)).transform(features)
    mine = Whitening.fit(features, training)(features)
    assert mine.dtype == np.float32
    # scikit-learn divides by one less than the number of samples.
    np.testing.assert_allclose(mine @ mine.T, theirs @ theirs.T * 150 / 149, atol=1e-3)


def test_what_hardly_varies_is_not_blown_up(features):
    features[:, 0] = 3 + 1e-5 * np.random.default_rng(1).standard_normal(300)
    features[:, 1] = 7
    found = Whitening.fit(features, np.arange(300))
    whitened = found(features)
    assert whitened.std(0)[:2].max() < 1e-3
    # The ridge is a hundredth of the mean variance, so that ten times the deviation is the most.
    variance = np.linalg.eigvalsh(np.cov(features.T, bias=True)).mean()
    assert np.linalg.eigvalsh(found.matrix).max() <= 10.01 / variance**0.5


def test_rows_may_be_given_as_a_mask(features):
    mask = np.arange(300) % 3 == 0
    for one, other in (
        (Whitening.fit(features, mask), Whitening.fit(features, np.flatnonzero(mask))),
        (Whitening.fit(features), Whitening.fit(features, np.arange(300))),
    ):
        np.testing.assert_array_equal(one.mean, other.mean)
        np.testing.assert_array_equal(one.matrix, other.matrix)


def test_what_is_refused(features, tmp_path):
    with pytest.raises(DdmError, match=r"mask of shape \(200,\), but there are 300"):
        Whitening.fit(features, np.ones(200, bool))
    with pytest.raises(DdmError, match="not finite"):
        Whitening.fit(np.where(features > 0, features, np.nan))
    with pytest.raises(DdmError, match=r"shape \(N, D\), not \(300,\)"):
        Whitening.fit(features[:, 0])
    with pytest.raises(DdmError, match=r"shape \(N, 6\), not \(300, 5\)"):
        Whitening.fit(features)(features[:, 1:])
    with pytest.raises(DdmError, match=r"nowhere is no whitening that `ddm evaluate` wrote"):
        Whitening.load(tmp_path / "nowhere")


def test_rows_that_are_not_for_training_change_nothing(features):
    training = np.arange(200)
    before = Whitening.fit(features, training)
    features[200:] *= 1000
    after = Whitening.fit(features, training)
    np.testing.assert_array_equal(before.matrix, after.matrix)


@pytest.mark.parametrize("training", [[], [4], [4, 4, 4]])
def test_features_that_do_not_vary_have_no_map(features, training):
    assert Whitening.fit(features, np.array(training, np.int64)) is None
    assert Whitening.fit(np.full_like(features, 0.1), np.arange(300)) is None
    assert Whitening.fit(np.zeros_like(features), np.arange(300)) is None


def test_the_file_holds_the_map(features, tmp_path):
    found = Whitening.fit(features, np.arange(300))
    found.save(tmp_path / "whitening.safetensors")
    again = Whitening.load(tmp_path / "whitening.safetensors")
    np.testing.assert_array_equal(again(features), found(features))
    read = load_file(tmp_path / "whitening.safetensors")
    np.testing.assert_array_equal((features - read["mean"]) @ read["matrix"], found(features))


def test_too_few_images_are_told_of_wherever_it_is_used(tmp_path, features):
    few = Whitening.fit(features, np.arange(2 * features.shape[1] - 1))
    few.save(tmp_path / "whitening.safetensors")
    assert f"fitted to {2 * features.shape[1] - 1} images" in few.doubt
    assert Whitening.load(tmp_path / "whitening.safetensors").doubt == few.doubt
    assert Whitening.fit(features, np.arange(2 * features.shape[1])).doubt == ""
    # Files of earlier versions do not say.
    assert Whitening(few.mean, few.matrix).doubt == ""
