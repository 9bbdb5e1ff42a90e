"""Progress of work that runs elsewhere: a small counting actor, and a thread here that watches it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import ray

from evoray.engine.events import Stage

_SECONDS = 0.5


class Counter:
    """An actor that knows how many steps of a job are done."""

    def __init__(self) -> None:
        self._done = 0
        self._total = 0  # unknown so far

    @staticmethod
    def start() -> Any:
        """A new counter actor; it needs no CPU of its own."""
        return ray.remote(num_cpus=0)(Counter).remote()

    def reach(self, done: int, total: int) -> None:
        """`done` of `total` steps are done."""
        self._done, self._total = done, total

    def state(self) -> tuple[int, int]:
        """(done, total)."""
        return self._done, self._total


@contextlib.contextmanager
def watched(counter: Any, stage: Stage) -> Iterator[None]:
    """Pass a counter's progress on to a stage for the time of the block."""
    finished = threading.Event()

    def poll() -> None:
        while not finished.wait(_SECONDS):
            try:
                stage.share(*ray.get(counter.state.remote(), timeout=5))
            except ray.exceptions.RayError:
                return  # the job's own failure is reported where it is waited for

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
