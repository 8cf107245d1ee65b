"""The metrics of WILDS against figures worked out by hand or by another formula."""

import numpy as np
import pytest
from scipy.stats import pearsonr

from ddm.data.wilds.metrics import wilds_score
from ddm.errors import DdmError

RNG = np.random.default_rng(0)


def test_camelyon17():
    true, predicted = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 0, 0])
    score = wilds_score("camelyon17", predicted, true, {"slide": np.array([20, 20, 21, 21, 21])})
    assert score.official == "accuracy"
    assert score.value == pytest.approx(3 / 5)
    assert score.values["accuracy of slide 20"] == 1
    assert score.values["accuracy of the worst slide"] == pytest.approx(1 / 3)


def test_iwildcam_counts_the_classes_that_occur():
    # Class 3 is predicted but never true: its own F1, which is 0, is not counted.
    true, predicted = np.array([0, 0, 0, 1, 2]), np.array([0, 0, 3, 1, 1])
    score = wilds_score("iwildcam", predicted, true, {})
    f1 = [2 * 1 * (2 / 3) / (1 + 2 / 3), 2 * (1 / 2) * 1 / (1 / 2 + 1), 0]
    assert score.official == "macro F1"
    assert score.value == pytest.approx(np.mean(f1))
    assert score.values["macro recall"] == pytest.approx(np.mean([2 / 3, 1, 0]))
    assert score.values["accuracy"] == pytest.approx(3 / 5)


def test_fmow_leaves_out_other():
    true = np.array([5, 5, 5, 5, 5, 5])
    predicted = np.array([5, 5, 1, 5, 1, 1])
    metadata = {
        "region": np.array(["Asia", "Asia", "Asia", "Africa", "Africa", "Other"]),
        "year": np.array([2016, 2017, 2017, 2016, 2016, 2017]),
    }
    score = wilds_score("fmow", predicted, true, metadata)
    assert score.official == "accuracy of the worst region"
    assert score.value == pytest.approx(1 / 2)
    assert score.values["accuracy of region Other"] == 0
    assert score.values["accuracy of the worst year"] == pytest.approx(1 / 3)
    with pytest.raises(DdmError, match="all images are of region 'Other'"):
        wilds_score("fmow", predicted, true, {**metadata, "region": np.array(["Other"] * 6)})


def test_rxrx1():
    true, predicted = np.arange(6), np.array([0, 1, 2, 0, 0, 0])
    cells = np.array(["RPE", "RPE", "U2OS", "U2OS", "U2OS", "U2OS"])
    score = wilds_score("rxrx1", predicted, true, {"cell_type": cells, "site": np.ones(6)})
    assert score.official == "accuracy"
    assert score.value == pytest.approx(1 / 2)
    assert score.values["accuracy of cell_type U2OS"] == pytest.approx(1 / 4)


def test_poverty():
    true, urban = RNG.normal(size=200), RNG.random(200) < 0.4
    predicted = true + np.where(urban, 3, 0.5) * RNG.normal(size=200)
    score = wilds_score("poverty", predicted, true, {"urban": urban})
    expected = {
        place: pearsonr(predicted[c], true[c])[0] for place, c in [("u", urban), ("r", ~urban)]
    }
    assert expected["u"] < expected["r"]
    assert score.value == pytest.approx(expected["u"])
    assert score.values["r, rural"] == pytest.approx(expected["r"])
    assert score.values["r, all"] == pytest.approx(pearsonr(predicted, true)[0])
    assert score.values["squared error, urban"] == pytest.approx(
        np.mean((predicted - true)[urban] ** 2)
    )


def test_a_correlation_that_is_not_defined_is_refused():
    true, urban = RNG.normal(size=20), np.arange(20) < 10
    predicted = np.where(urban, true, 0.1)
    with pytest.raises(DdmError, match=r"r is not defined on rural images \(10\), the pred"):
        wilds_score("poverty", predicted, true, {"urban": urban})
    with pytest.raises(DdmError, match="not finite"):
        wilds_score("poverty", np.where(urban, np.nan, true), true, {"urban": urban})
    with pytest.raises(DdmError, match="neither 0 nor 1"):
        wilds_score("poverty", true + 1, true, {"urban": np.full(20, -100)})


@pytest.mark.parametrize(
    ("name", "predicted", "true", "metadata", "message"),
    [
        ("civilcomments", [1], [1], {}, "no metric of WILDS is known for 'civilcomments'; use cam"),
        ("rxrx1", [1, 2], [1], {}, r"predictions of shape \(2,\) for targets of shape \(1,\)"),
        ("rxrx1", [[1]], [[1]], {}, r"both must have shape \(N,\)"),
        ("iwildcam", [], [], {}, "there is nothing to score"),
        ("iwildcam", [0.2], [0], {}, "predictions are float64 .* classes are whole numbers"),
        ("rxrx1", [1], [1], {}, r"the metric needs metadata\['cell_type'\]"),
        ("rxrx1", [1], [1], {"cell_type": ["a", "b"]}, "but the targets have .* the same images"),
    ],
)
def test_bad_input(name, predicted, true, metadata, message):
    with pytest.raises(DdmError, match=message):
        wilds_score(name, np.array(predicted), np.array(true), metadata)
