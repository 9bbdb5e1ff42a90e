"""A limit on waiting: whatever hangs, a stage says what it is waiting for, and in the end stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from evoray.errors import EvorayError, StageError

T = TypeVar("T")

#: Seconds without progress after which it is first said what is waited for; then after twice as many, and so on.
_FIRST_S = 60.0


def _nothing(_seconds: float, _waiting: str) -> None:
    """Nobody listens."""


class Patience:
    """How long nothing was done.

    seconds: after which the wait is given up. waiting: what is waited for, in words. tell: takes how long it took so
    far and these words, where it takes long.
    """

    def __init__(
        self,
        seconds: float,
        waiting: Callable[[], str],
        tell: Callable[[float, str], None] = _nothing,
    ) -> None:
        self._seconds, self._waiting, self._tell = seconds, waiting, tell
        self.moved()

    def moved(self) -> None:
        """Something was done just now."""
        self._since, self._next = time.monotonic(), _FIRST_S

    @property
    def left(self) -> float:
        """Seconds until there is something to say."""
        return max(0.0, self._since + min(self._next, self._seconds) - time.monotonic())

    def check(self) -> None:
        """Say what is waited for, where it is time to. Raises StageError after too long a wait."""
        waited = time.monotonic() - self._since
        if waited >= self._seconds:
            raise stalled(self._seconds, self._waiting())
        if waited >= self._next:
            self._next *= 2
            try:
                waiting = self._waiting()
            except EvorayError as error:  # of a storage that does not answer: no reason to end the work
                waiting = f"unknown ({error.received})"
            self._tell(waited, waiting)


def each_within(
    rows: Iterable[T], seconds: float, waiting: Callable[[], str], tell: Callable[[float, str], None] = _nothing
) -> Generator[T]:
    """The rows as they come, each at most so many seconds after the one before it.

    waiting, tell: as of `Patience`. Where it is closed early, no more than one further row is made.
    Raises StageError after a longer wait, and whatever the rows raise.
    """
    patience = Patience(seconds, waiting, tell)
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
                kind, value = queue.get(timeout=patience.left)
            except Empty:
                patience.check()
                continue
            if kind == "end":
                return
            if kind == "error":
                raise value  # type: ignore[misc]
            yield value  # type: ignore[misc]
            patience.moved()
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
