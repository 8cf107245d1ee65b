"""The table of domains, and splits by group."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddm.data.base import Labels, split_by_group
from ddm.domains import DomainTable
from ddm.errors import DdmError


@given(st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=30))
def test_names_come_back(names):
    table = DomainTable.from_names(names)
    back = [table.names[i] if i >= 0 else None for i in table.index]
    assert back == [name or None for name in names]
    assert table.counts().sum() == sum(bool(name) for name in names)
    assert list(table.names) == sorted(set(table.names))


def test_confidence_is_whole_where_the_domain_was_given():
    table = DomainTable.from_names(["a", None, "b"])
    assert table.confidence.tolist() == [1, 0, 1]
    assert table.subset(np.array([2, 1])).names == ("a", "b")


@pytest.mark.parametrize(
    ("index", "names", "message"),
    [
        ([0, 2], ("a", "b"), r"must lie in \[-1, 2\), found 0 to 2"),
        ([-2], ("a",), "found -2 to -2"),
        ([0], ("a", "a"), "repeat"),
        ([0.5, 1.0], ("a", "b"), "index must hold integers, not float64"),
        ([True, False], ("a", "b"), "not bool"),
        (["a"], ("a",), r"use DomainTable\.from_names"),
        ([[0]], ("a",), "shape"),
    ],
)
def test_bad_tables_are_refused(index, names, message):
    with pytest.raises(ValueError, match=message):
        DomainTable(np.array(index), names)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=50), st.text(max_size=5))
def test_splits_keep_groups_whole_and_do_not_move(groups, another):
    split = split_by_group(groups)
    assert all(len({s for s, h in zip(split, groups, strict=True) if h == g}) == 1 for g in groups)
    assert (split_by_group([*groups, another])[:-1] == split).all()


def test_splits_come_near_their_shares():
    split = split_by_group([str(i) for i in range(5000)], (0.6, 0.1, 0.3))
    for name, share in (("train", 0.6), ("val", 0.1), ("test", 0.3)):
        assert abs((split == name).mean() - share) < 0.025
    with pytest.raises(ValueError, match="sum to 1"):
        split_by_group(["a"], (0.5, 0.1, 0.1))


def test_empty_cells_of_pandas_are_unknown_and_numbers_are_no_names():
    column = pd.Series(["b", None, float("nan"), "", "a", pd.NA, pd.NaT], dtype=object)
    table = DomainTable.from_names(column)
    assert table.names == ("a", "b")
    np.testing.assert_array_equal(table.index, [1, -1, -1, -1, 0, -1, -1])
    with pytest.raises(DdmError, match=r"the name 3 is no text: give names, such as str\(3\)"):
        DomainTable.from_names(["a", 3])


def test_empty_cells_of_pandas_own_types_are_unknown():
    for kind in ("string", "category"):
        table = DomainTable.from_names(pd.Series(["b", pd.NA, "a"], dtype=kind))
        np.testing.assert_array_equal(table.index, [1, -1, 0])


@pytest.mark.parametrize("confidence", [[0.5, 1.5], [-0.1, 1], [0.5, float("nan")]])
def test_confidence_lies_between_0_and_1(confidence):
    with pytest.raises(ValueError, match=r"confidence must lie in \[0, 1\], found"):
        DomainTable(np.array([0, 1]), ("a", "b"), np.array(confidence, np.float32))
    # A list will do, and a sum of shares that rounding lifts over 1.
    assert len(DomainTable(np.array([0, 1]), ("a", "b"), [0.5, np.float32(1 + 2e-7)])) == 2


@pytest.mark.parametrize("name", ["mean", "pooled", "worst"])
def test_domains_are_not_called_as_summaries_are(name):
    with pytest.raises(DdmError, match=rf"'{name}' stands for a summary .*rename it"):
        DomainTable.from_names(["a", name])
    with pytest.raises(DdmError, match="rename it"):
        DomainTable(np.array([0]), (name,))
    assert DomainTable.from_names([f"{name} domain"]).names == (f"{name} domain",)


def test_tables_are_updated_under_the_same_names_alone():
    table = DomainTable.from_names(["a", None, "b"])
    other = table.updated(np.array([1]), DomainTable(np.array([1]), table.names))
    assert other.index.tolist() == [0, 1, 1] and table.index.tolist() == [0, -1, 1]
    with pytest.raises(ValueError, match="names differ"):
        table.updated(np.array([1]), DomainTable.from_names(["c"]))


def test_classes_may_have_any_name() -> None:
    assert Labels.from_names(["worst", "mean", ""]).names == ("mean", "worst")
