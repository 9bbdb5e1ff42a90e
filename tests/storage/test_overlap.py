"""Calls that do not wait for one another give what they give one by one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from evoray.storage.overlap import overlapped


@pytest.mark.parametrize("width", [1, 3, 100])
def test_results_come_in_order(width: int) -> None:
    assert list(overlapped(lambda item: item * 2, range(20), width)) == [item * 2 for item in range(20)]
    assert list(overlapped(str, [], width)) == []


def test_as_many_calls_as_asked_for_are_under_way() -> None:
    """Each waits for two others: one after another they would never end."""
    together = threading.Barrier(3, timeout=60)

    def call(item: int) -> int:
        together.wait()
        return item

    assert list(overlapped(call, range(9), 3)) == list(range(9))


@pytest.mark.parametrize("width", [1, 3])
def test_no_more_is_begun_than_that(width: int) -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for item in range(20):
            begun.append(item)
            yield item

    results = overlapped(str, items(), width)
    assert next(results) == "0" and len(begun) == width
    assert next(results) == "1" and len(begun) == width + 1


@pytest.mark.parametrize("width", [1, 3])
def test_the_first_error_is_raised_in_its_place_and_nothing_begins_after_it(width: int) -> None:
    called: list[int] = []

    def call(item: int) -> int:
        called.append(item)
        if item in (4, 5):
            raise ValueError(str(item))
        return item

    found: list[int] = []
    with pytest.raises(ValueError, match="4"):
        found.extend(overlapped(call, range(100), width))
    assert max(called) < 4 + width
