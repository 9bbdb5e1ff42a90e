"""Progress of work that runs elsewhere: a small counting actor, and a thread here that watches it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray

from evoray.engine.events import Stage

_SECONDS = 0.5

Measured = Mapping[str, Any]


class Counter:
    """An actor that knows how many steps of a job are done, and what was measured in them."""

    def __init__(self) -> None:
        self._done = 0
        self._total = 0  # unknown so far
        self._measured: list[Measured] = []

    @staticmethod
    def start() -> Any:
        """A new counter actor; it needs no CPU of its own."""
        return ray.remote(num_cpus=0)(Counter).remote()

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


@contextlib.contextmanager
def watched(counter: Any, stage: Stage, on_measured: Callable[[Measured], None] = _ignore) -> Iterator[None]:
    """Pass a counter's progress on to a stage, and what was measured to a function, for the time of the block."""
    finished = threading.Event()

    def look() -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # a slow answer comes later; of a failure the job tells
            done, total, measured = ray.get(counter.state.remote(), timeout=5)
            stage.share(done, total)
            for one in measured:
                on_measured(one)

    def poll() -> None:
        while not finished.wait(_SECONDS):
            look()
        look()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
