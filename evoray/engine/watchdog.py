"""A limit on waiting: whatever hangs, a stage ends and says what it was waiting for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from evoray.errors import StageError

T = TypeVar("T")


def each_within(rows: Iterable[T], seconds: float, waiting: Callable[[], str]) -> Generator[T]:
    """The rows as they come, each at most so many seconds after the one before it.

    waiting: what is waited for, in words. Where it is closed early, no more than one further row is made.
    Raises StageError after a longer wait, and whatever the rows raise.
    """
    queue: SimpleQueue[tuple[str, T | BaseException | None]] = SimpleQueue()
    left = threading.Event()

    def pull() -> None:
        try:
            for row in rows:
                queue.put(("row", row))
                if left.is_set():
                    return  # and what makes the rows is let go
        except BaseException as error:  # noqa: BLE001 - raised where the rows are read
            queue.put(("error", error))
        else:
            queue.put(("end", None))

    threading.Thread(target=pull, daemon=True).start()
    try:
        while True:
            try:
                kind, value = queue.get(timeout=seconds)
            except Empty:
                raise stalled(seconds, waiting()) from None
            if kind == "end":
                return
            if kind == "error":
                raise value  # type: ignore[misc]
            yield value  # type: ignore[misc]
    finally:
        left.set()


def beside(work: Callable[[], T]) -> Future[T]:
    """The result of work in a thread that does not outlive the process, and is left alone where it hangs; Ctrl-C stays
    with the main thread."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def stalled(seconds: float, waiting: str) -> StageError:
    """What to raise after so long a wait. waiting: what was waited for, in words."""
    return StageError(
        f"nothing done for {seconds / 60:g} minutes; {waiting}",
        "a stage that goes on",
        "look at what it waits for (`ray status`, the worker's log), or raise cluster.stall_minutes; the same"
        " command goes on from what is done",
    )
