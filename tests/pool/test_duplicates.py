from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoray.pool import DUPLICATE_SCHEMA, drop_rows, find_duplicates

Unit = tuple[int, list[str], list[str]]


def oracle(units: list[Unit]) -> list[tuple[int, int, str, str, str]]:
    """One pass in order with two dictionaries."""
    by_hash: dict[str, str] = {}
    seen: set[str] = set()
    dropped = []
    for unit, ids, hashes in sorted(units):
        for row, (name, content) in enumerate(zip(ids, hashes, strict=True)):
            if content in by_hash:
                dropped.append((unit, row, name, "duplicate content", by_hash[content]))
                continue
            by_hash[content] = name
            if name in seen:
                dropped.append((unit, row, name, "duplicate id", name))
            seen.add(name)
    return dropped


PAIRS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("uvwxyz")), max_size=8)


@settings(deadline=None)
@given(parts=st.lists(PAIRS, max_size=4), data=st.data())
def test_duplicates_are_those_of_a_plain_pass_in_order(parts: list[list[tuple[str, str]]], data: st.DataObject) -> None:
    units = [
        (number * 3, [name for name, _ in pairs], [content for _, content in pairs])
        for number, pairs in enumerate(parts)
    ]
    shuffled = data.draw(st.permutations(units))
    table = find_duplicates(shuffled)
    assert table.schema == DUPLICATE_SCHEMA
    assert [tuple(row.values()) for row in table.to_pylist()] == oracle(units)


def test_arrow_numpy_and_lists_are_all_accepted() -> None:
    table = find_duplicates(
        [
            (0, pa.chunked_array([["a"], ["b"]]), np.array(["h", "i"])),
            (1, pa.array(["c"]), ["h"]),
        ]
    )
    assert table.to_pylist() == [{"unit": 1, "row": 0, "id": "c", "reason": "duplicate content", "first_id": "a"}]


def test_a_pool_without_repeats_or_without_rows_has_no_duplicates() -> None:
    assert find_duplicates([]).num_rows == 0
    assert find_duplicates([(0, ["a", "b"], ["h", "i"]), (1, [], [])]).num_rows == 0


@pytest.mark.parametrize("units", [[(0, ["a"], ["h", "i"])], [(0, ["a"], ["h"]), (0, ["b"], ["i"])]])
def test_units_that_do_not_add_up_are_refused(units: list[Unit]) -> None:
    with pytest.raises(ValueError, match="each unit"):
        find_duplicates(units)


def test_dropping_rows_keeps_the_others_in_order() -> None:
    table = pa.table({"x": [0, 1, 2, 3]})
    assert drop_rows(table, [2, 0]).column("x").to_pylist() == [1, 3]
    assert drop_rows(table, []).equals(table)
    for row in (4, -1):
        with pytest.raises(IndexError):
            drop_rows(table, [row])
