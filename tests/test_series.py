"""A series is the end of a list, in less memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import ParseError
from collector.series import BLOCK, Series

numbers = st.integers(0, 2**32 - 1) | st.integers(0, 300) | st.integers(10**6, 10**6 + 70_000)
rows = st.lists(st.tuples(numbers, numbers), max_size=5 * BLOCK)


@given(rows, st.integers(1, 3 * BLOCK), st.integers(1, BLOCK))
def test_it_is_the_end_of_a_list(rows: list[tuple[int, int]], capacity: int, first_block: int) -> None:
    series = Series(columns=2, capacity=capacity, first_block=first_block)
    for row in rows:
        series.append(row)
    assert list(series.rows()) == rows[-capacity:]
    assert len(series) == len(rows[-capacity:])
    assert series.column(1) == [second for _, second in rows[-capacity:]]
    assert [tuple(row) for row in series.newest_first()] == rows[-capacity:][::-1]


@given(rows, rows, st.integers(1, 3 * BLOCK))
def test_what_is_read_back_goes_on_as_if_nothing_had_been(
    before: list[tuple[int, int]], after: list[tuple[int, int]], capacity: int
) -> None:
    series = Series(columns=2, capacity=capacity)
    for row in before:
        series.append(row)
    again = Series(columns=2, capacity=capacity)
    assert bytes(again.read(memoryview(series.to_bytes() + b"behind"))) == b"behind"
    for row in after:
        again.append(row)
    assert list(again.rows()) == [*before, *after][-capacity:]


@given(rows.filter(bool), st.tuples(numbers, numbers))
def test_the_last_row_can_be_replaced(rows: list[tuple[int, int]], row: tuple[int, int]) -> None:
    series = Series(columns=2, capacity=BLOCK)
    for one in rows:
        series.append(one)
    assert tuple(series.last or ()) == rows[-1]
    series.replace_last(row)
    assert list(series.rows()) == [*rows[:-1], row][-BLOCK:]


@pytest.mark.parametrize("number", [-1, 2**32], ids=["negative", "too large"])
def test_what_does_not_fit_changes_nothing(number: int) -> None:
    series = Series(columns=2, capacity=9)
    series.append((1, 2))
    with pytest.raises(OverflowError):
        series.append((3, number))
    assert list(series.rows()) == [(1, 2)]


@pytest.mark.parametrize(
    ("step", "bits"),
    [
        pytest.param(0, 0, id="what does not change costs nothing"),
        pytest.param(1, 6, id="what changes little costs little"),
        pytest.param(10**6, 26, id="what changes much costs more"),
        pytest.param((2**32 - 1) // (BLOCK - 1), 32, id="nothing costs more than 32 bits"),
    ],
)
def test_size(step: int, bits: int) -> None:
    series = Series(columns=1, capacity=BLOCK)
    for number in range(BLOCK):
        series.append((step * number,))
    head, block_head = 2, 1 + 1 + 4
    assert len(series.to_bytes()) == head + block_head + BLOCK * bits // 8


@given(st.binary(max_size=100))
def test_any_bytes_are_a_series_or_an_error(data: bytes) -> None:
    series = Series(columns=2, capacity=BLOCK)
    try:
        behind = series.read(memoryview(data))
    except ParseError:
        return
    assert data.endswith(behind)
    assert len(list(series.rows())) == len(series)
