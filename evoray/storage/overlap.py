"""Requests that do not wait for one another: a bucket takes milliseconds for each, and answers many at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")


def overlapped(call: Callable[[Item], Found], items: Iterable[Item], width: int) -> Iterator[Found]:
    """`map(call, items)` with at most `width` calls under way or waiting to be taken. width 1: no threads.

    Results come in order, and so does the first error. A thread of its own makes each call: it must be safe to make
    several at a time.
    """
    if width == 1:
        yield from map(call, items)
        return
    begun: deque[Future[Found]] = deque()
    with ThreadPoolExecutor(width) as threads:
        try:
            for item in items:
                begun.append(threads.submit(call, item))
                if len(begun) == width:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:  # after an error, or where no more are wanted
            for one in begun:
                one.cancel()
