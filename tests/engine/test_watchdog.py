"""Waiting: it is said what for, ever more seldom, and in the end given up."""

from __future__ import annotations

import pytest

from evoray.engine import watchdog
from evoray.engine.watchdog import Patience, each_within
from evoray.errors import StageError, StorageError


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(watchdog, "time", made)
    return made


def waited(clock: Clock, patience: Patience, seconds: float) -> None:
    """Look once a second for so long."""
    for _ in range(round(seconds)):
        clock.now += 1
        patience.check()


def test_what_is_waited_for_is_said_after_a_minute_and_then_after_twice_as_long_each(clock: Clock) -> None:
    said: list[tuple[float, str]] = []
    patience = Patience(3600.0, lambda: "Godot", lambda seconds, what: said.append((seconds, what)))
    waited(clock, patience, 59)
    assert said == []
    waited(clock, patience, 500)
    assert said == [(60.0, "Godot"), (120.0, "Godot"), (240.0, "Godot"), (480.0, "Godot")]


def test_whatever_is_done_begins_the_wait_anew(clock: Clock) -> None:
    said: list[float] = []
    patience = Patience(100.0, lambda: "Godot", lambda seconds, what: said.append(seconds))
    for _ in range(10):
        waited(clock, patience, 59)
        patience.moved()
    assert said == []
    assert patience.left == 60.0


def test_after_too_long_a_wait_it_is_given_up_and_says_for_what(clock: Clock) -> None:
    patience = Patience(90.0, lambda: "waiting for Godot")
    waited(clock, patience, 89)
    with pytest.raises(StageError, match=r"nothing done for 1\.5 minutes; waiting for Godot"):
        waited(clock, patience, 1)


def test_a_storage_that_cannot_say_what_is_waited_for_does_not_end_the_wait(clock: Clock) -> None:
    said: list[str] = []

    def silent() -> str:
        raise StorageError("a bucket that does not answer", "an answer", "ask again")

    waited(clock, Patience(100.0, silent, lambda seconds, what: said.append(what)), 70)
    assert said == ["unknown (a bucket that does not answer)"]


def test_rows_that_take_long_are_waited_for_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_FIRST_S", 0.01)
    said: list[str] = []
    released = watchdog.threading.Event()

    def hear(seconds: float, what: str) -> None:
        said.append(what)
        released.set()

    def rows():  # type: ignore[no-untyped-def]
        assert released.wait(60)
        yield 7

    assert [*each_within(rows(), 600.0, lambda: "the seventh", hear)] == [7]
    assert said[0] == "the seventh"
