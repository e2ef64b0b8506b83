"""Cursors are opaque, survive a round trip and are refused when made up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.pages import InvalidCursor, PageRequest, decode, encode


@given(st.lists(st.one_of(st.text(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)), max_size=3))
def test_a_cursor_gives_back_its_sort_key(key: list[object]) -> None:
    assert decode(encode(tuple(key))) == tuple(key)


@pytest.mark.parametrize("made_up", ["x", "%", "eyJhIjoxfQ", "é", "bnVsbA", "=", "W10" * 100])
def test_a_made_up_cursor_is_refused(made_up: str) -> None:
    with pytest.raises(InvalidCursor):
        decode(made_up)


@given(st.integers(0, 40), st.integers(1, 10))
def test_pages_laid_side_by_side_are_the_list(length: int, limit: int) -> None:
    rows = list(range(length))
    seen: list[int] = []
    after: tuple[object, ...] | None = None
    while True:
        start = rows.index(after[0]) + 1 if after else 0  # type: ignore[arg-type]
        page = PageRequest(limit, after).page(rows[start : start + limit + 1], lambda row: (row,), lambda row: row)
        seen += page.items
        if page.next is None:
            break
        after = decode(page.next)
    assert seen == rows
