"""The compact names behave as the tuple of strings that they stand for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddm.data.keys import Keys

# Names of files that are no UTF-8 hold lone surrogates, as Python reads them.
names = st.lists(st.text() | st.just("caf\udce9.png"), max_size=20).map(
    lambda found: [n for n in found if _can_be_a_name(n)]
)


def _can_be_a_name(name: str) -> bool:
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


@given(names)
def test_it_is_the_sequence_that_it_was_made_of(found):
    keys, plain = Keys(found), tuple(found)
    assert keys == plain and tuple(keys) == plain and len(keys) == len(plain)
    assert [keys[i] for i in range(-len(plain), 0)] == list(plain)
    assert keys[1:-1] == plain[1:-1] and keys[::-2] == plain[::-2]
    assert Keys(iter(found)) == keys and hash(keys) == hash(plain)
    assert Keys(keys) == keys


def test_what_differs_is_not_equal():
    # The same bytes, parted elsewhere.
    assert Keys(["ab", "c"]) != Keys(["a", "bc"])
    assert Keys(["a"]) != ("b",) and Keys(["a"]) != ("a", "b")
    assert Keys(["a"]) != ["a"]


def test_an_index_out_of_range_is_an_error():
    with pytest.raises(IndexError):
        Keys(["a"])[1]
