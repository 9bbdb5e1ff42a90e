"""Work that runs elsewhere and counts its steps: shown here as it goes on, and given up where it stands still."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, wait
from typing import Any, TypeVar

import ray

from evoray.engine.events import Stage
from evoray.engine.watchdog import Patience, beside

_SECONDS = 0.5
_ANSWER_S = 5.0
#: Of work that somebody waits for to its end: never set.
NEVER = threading.Event()

Measured = Mapping[str, Any]
Result = TypeVar("Result")


class Counter:
    """An actor that knows how many steps of a job are done, and what was measured in them."""

    def __init__(self) -> None:
        self._done = 0
        self._total = 0  # unknown so far
        self._measured: list[Measured] = []

    def reach(self, done: int, total: int) -> None:
        """`done` of `total` steps are done."""
        self._done, self._total = done, total

    def note(self, measured: Measured) -> None:
        """Something was measured."""
        self._measured.append(measured)

    def state(self) -> tuple[int, int, list[Measured]]:
        """(done, total, what was measured since the last look)."""
        measured, self._measured = self._measured, []
        return self._done, self._total, measured


def _ignore(_measured: Measured) -> None:
    """Nobody asked."""


def counted(
    work: Callable[[Any], Result],
    stage: Stage,
    stall: float,
    waiting: Callable[[], str],
    on_measured: Callable[[Measured], None] = _ignore,
    given_up: threading.Event = NEVER,
) -> Result:
    """The result of work that runs elsewhere and reports to the `Counter` actor that it is given.

    Its steps are passed on to the stage, and what it measures to a function. waiting: what for, before the first step.
    given_up: set where nobody waits for the result any more. Raises StageError after `stall` seconds without one more
    step, CancelledError where it was given up, and whatever the work raises. Work that stands still or was given up is
    left alone: it ends with the connection to Ray.
    """
    counter = ray.remote(num_cpus=0)(Counter).remote()
    reader = _Reader(counter, stage, on_measured)
    result = beside(lambda: work(counter))
    patience = Patience(
        stall,
        lambda: f"step {reader.done} of {reader.total} was the last" if reader.total else waiting(),
        stage.waits,
    )
    try:
        while not wait([result], timeout=_SECONDS).done:
            if given_up.is_set():
                raise CancelledError
            if reader.look():
                patience.moved()
            patience.check()
        reader.end()
        return result.result()
    finally:
        ray.kill(counter)


class _Reader:
    """Passes on what a counter knows. An answer that is late is taken at the next look: what it holds is told once."""

    def __init__(self, counter: Any, stage: Stage, on_measured: Callable[[Measured], None]) -> None:
        self._counter, self._stage, self._on_measured = counter, stage, on_measured
        self._asked: Any = None
        self.done, self.total = 0, 0

    def look(self) -> bool:
        """Whether a step was done since the last look. Where no answer comes, of a failure the work tells."""
        before = (self.done, self.total)
        self._asked = self._asked or self._counter.state.remote()
        with contextlib.suppress(ray.exceptions.RayError):
            self.done, self.total, measured = ray.get(self._asked, timeout=_ANSWER_S)
            self._asked = None
            self._stage.share(self.done, self.total)
            for one in measured:
                self._on_measured(one)
        return before != (self.done, self.total)

    def end(self) -> None:
        """The last look, after the answer to an earlier one."""
        if self._asked is not None:
            self.look()
        self.look()
