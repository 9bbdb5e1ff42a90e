"""Work that counts its steps elsewhere: what it measured is passed on, and work that stands still is given up."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import CancelledError
from typing import Any

import pytest
import ray

from evoray.engine import progress
from evoray.engine.events import Silent, Stage
from evoray.engine.progress import Measured, counted
from evoray.engine.session import Session
from evoray.errors import SelectionError, StageError

pytestmark = pytest.mark.ray


class Shares(Silent):
    def __init__(self) -> None:
        self.shares: list[tuple[int, int]] = []

    def share(self, done: int, total: int) -> None:
        self.shares.append((done, total))


def run(work: Any, stall: float = 600.0, on_measured: Any = lambda measured: None) -> Any:
    return counted(work, Stage(Silent()), stall, lambda: "waiting for Godot", on_measured)


def test_steps_and_measures_are_all_passed_on(ray_session: Session) -> None:
    display, measured = Shares(), list[Measured]()

    def work(counter: Any) -> str:
        for step in range(1, 6):
            counter.reach.remote(step, 5)
            counter.note.remote({"step": step})
            time.sleep(0.3)
        return "done"

    assert counted(work, Stage(display), 600.0, str, measured.append) == "done"
    assert [one["step"] for one in measured] == [1, 2, 3, 4, 5]
    assert display.shares[-1] == (5, 5)
    assert display.shares == sorted(display.shares)


def test_what_a_late_answer_holds_is_not_lost(ray_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter stands still for longer than a look waits."""
    monkeypatch.setattr(progress, "_ANSWER_S", 1.0)
    measured = list[Measured]()

    def work(counter: Any) -> None:
        counter.note.remote({"step": 1})
        process = ray.get(counter.__ray_call__.remote(lambda _: os.getpid()))
        os.kill(process, signal.SIGSTOP)
        time.sleep(3.0)
        os.kill(process, signal.SIGCONT)
        counter.note.remote({"step": 2})
        time.sleep(1.0)

    run(work, on_measured=measured.append)
    assert [one["step"] for one in measured] == [1, 2]


def test_steps_in_time_keep_slow_work_alive(ray_session: Session) -> None:
    def work(counter: Any) -> int:
        for step in range(5):
            ray.get(counter.reach.remote(step + 1, 5))
            time.sleep(2)
        return 7

    assert run(work, stall=6.0) == 7


def test_work_that_stands_still_is_given_up_and_says_where(ray_session: Session) -> None:
    def begun(counter: Any) -> None:
        counter.reach.remote(3, 9)
        time.sleep(600)

    with pytest.raises(StageError, match=r"nothing done for 0\.05 minutes; step 3 of 9 was the last"):
        run(begun, stall=3.0)
    with pytest.raises(StageError, match=r"nothing done for 0\.05 minutes; waiting for Godot"):
        run(lambda counter: time.sleep(600), stall=3.0)


def test_what_the_work_raises_is_raised_here(ray_session: Session) -> None:
    def work(counter: Any) -> None:
        raise SelectionError("a", "b", "c")

    with pytest.raises(SelectionError, match="a"):
        run(work)


def test_work_that_nobody_waits_for_any_more_is_left_alone(ray_session: Session) -> None:
    given_up = threading.Event()

    def work(_counter: Any) -> None:
        given_up.set()
        time.sleep(600)

    with pytest.raises(CancelledError):
        counted(work, Stage(Silent()), 3600.0, lambda: "waiting for Godot", given_up=given_up)
