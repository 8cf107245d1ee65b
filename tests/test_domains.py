"""The table of domains, and splits by group."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddm.data.base import split_by_group
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
    column = pd.Series(["b", None, float("nan"), "", "a"])
    table = DomainTable.from_names(column)
    assert table.names == ("a", "b")
    np.testing.assert_array_equal(table.index, [1, -1, -1, -1, 0])
    with pytest.raises(DdmError, match=r"domain 3 is no text: give names, such as str\(3\)"):
        DomainTable.from_names(["a", 3])
