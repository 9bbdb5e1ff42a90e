"""Units through real actors: each computed and committed once, and no failure goes on for ever."""

from __future__ import annotations

import os
import re
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from evoray.engine import units
from evoray.engine.events import Silent, Stage
from evoray.engine.session import Session
from evoray.engine.units import Work, run_units
from evoray.engine.watchdog import each_within
from evoray.errors import ModelError, PoolError, StageError
from evoray.storage import Storage, UnitStore
from tests.engine.unit_workers import Job, computations

pytestmark = pytest.mark.ray


class Steps(Silent):
    """A display that counts."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, steps: int) -> None:
        self.done += steps


@pytest.fixture
def store(tmp_path: Path) -> UnitStore:
    return UnitStore(Storage(tmp_path / "run"), "squares/abc")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    marks = tmp_path / "marks"
    marks.mkdir()
    return marks


def run(job: Job, store: UnitStore, session: Session, units: int) -> int:
    """Run units 0 .. units - 1; the steps that the stage showed."""
    steps = Steps()
    work = Work(stage="square", units=range(units), factory=job, store=store, quarantine="quarantine/squares")
    run_units([work], session, Stage(steps))
    return steps.done


def squares(store: UnitStore) -> dict[int, int]:
    return {unit: store.read(commit)["square"][0].as_py() for unit, commit in store.commits().items()}


def test_only_pending_units_are_computed_and_rows_set_aside_are_kept(
    store: UnitStore, folder: Path, ray_session: Session
) -> None:
    first = Job(folder=folder, quarantines=(1,))
    assert run(first, store, ray_session, 3) == 3
    assert run(Job(folder=folder, quarantines=(4,)), store, ray_session, 5) == 5
    assert squares(store) == {unit: unit**2 for unit in range(5)}
    assert [computations(folder, unit) for unit in range(5)] == [1] * 5
    kept = [store.storage.read_table(key).to_pylist()[0] for key in store.storage.keys("quarantine/squares")]
    assert [(row["id"], row["reason"], row["row"]) for row in kept] == [("row-1", "odd", 1), ("row-4", "odd", 4)]
    assert not [key for key in store.storage.keys(store.prefix) if "attempt" in key]


def processes(job: Job, storage: Storage, session: Session, *, own_code: bool = False) -> set[int]:
    """Those in which three units of a stage of its own were computed."""
    store = UnitStore(storage, f"squares/{uuid.uuid4().hex}")
    work = Work(stage="s", units=range(3), factory=job, store=store, quarantine="quarantine/s", own_code=own_code)
    run_units([work], session, Stage(Silent()))
    return {store.read(commit)["process"][0].as_py() for commit in store.commits().values()}


def held() -> tuple[int, bool]:
    """A process, and whether it still has what a stage had there."""
    return os.getpid(), units._kept is not None


def test_stages_share_processes_where_none_has_to_make_room(tmp_path: Path, folder: Path, ray_session: Session) -> None:
    storage, job, alone = Storage(tmp_path / "run"), Job(folder=folder), replace(ray_session, workers=1)
    kept = processes(job, storage, alone)
    assert len(kept) == 1
    assert processes(job, storage, alone) == kept
    assert ray.get(ray.remote(num_cpus=1)(held).remote()) == (*kept, False), "models make room for what comes next"
    # An older version of the user's code may be there; a cluster gives machines back; with a GPU memory is held.
    apart = [
        processes(job, storage, alone, own_code=True),
        processes(job, storage, replace(alone, slots=None)),
    ]
    assert len({kept.pop(), *apart[0], *apart[1]}) == 3
    assert not replace(alone, gpus=1).keeps_processes


def test_finished_units_need_no_actor(store: UnitStore, folder: Path, ray_session: Session) -> None:
    for unit in range(2):
        store.commit(unit, pa.table({"square": [unit**2]}))
    assert run(Job(folder=folder, never_starts=True), store, ray_session, 2) == 2


def test_an_error_of_a_worker_reaches_the_driver_as_it_was_raised(
    store: UnitStore, folder: Path, ray_session: Session
) -> None:
    with pytest.raises(PoolError) as caught:
        run(Job(folder=folder, raises=0), store, ray_session, 1)
    assert (caught.value.received, caught.value.expected, caught.value.remedy) == (
        "a bad unit",
        "a good one",
        "mend it",
    )
    assert store.commits() == {}


def test_after_an_error_no_further_unit_is_begun(store: UnitStore, folder: Path, ray_session: Session) -> None:
    with pytest.raises(PoolError):
        run(Job(folder=folder, raises=0, takes=0.2), store, replace(ray_session, workers=1), 40)
    time.sleep(3)
    assert len(list(folder.iterdir())) < 20


def test_a_worker_that_cannot_be_built_fails_the_stage_with_its_own_error(
    store: UnitStore, folder: Path, ray_session: Session
) -> None:
    with pytest.raises(ModelError, match="a model that is not there"):
        run(Job(folder=folder, never_starts=True), store, ray_session, 2)


def test_a_programming_error_is_reported_with_its_trace(store: UnitStore, folder: Path, ray_session: Session) -> None:
    with pytest.raises(StageError) as caught:
        run(Job(folder=folder, breaks=0), store, ray_session, 1)
    assert "ZeroDivisionError: by zero" in caught.value.received
    assert "compute" in caught.value.remedy


@pytest.mark.slow
def test_the_last_try_of_a_unit_that_ends_its_workers_is_one_with_less_memory(
    store: UnitStore, folder: Path, ray_session: Session
) -> None:
    job = Job(folder=folder, dies_unless_careful=1)
    work = Work(
        stage="square", units=range(3), factory=job, store=store, quarantine="quarantine/squares",
        careful=replace(job, is_careful=True),
    )  # fmt: skip
    run_units([work], replace(ray_session, attempts=3), Stage(Silent()))
    assert squares(store) == {0: 0, 1: 1, 2: 4}
    assert [computations(folder, unit) for unit in range(3)] == [1, 3, 1]


@pytest.mark.slow
def test_a_unit_that_ends_its_worker_each_time_fails_the_stage_by_name(
    store: UnitStore, folder: Path, ray_session: Session
) -> None:
    with pytest.raises(StageError) as caught:
        run(Job(folder=folder, dies=1), store, replace(ray_session, attempts=2), 3)
    assert "unit 1 of squares/abc ended its worker 2 times" in caught.value.received
    assert computations(folder, 1) == 2
    assert run(Job(folder=folder), store, ray_session, 3) == 3, "the next start tries again"


@pytest.mark.slow
def test_a_unit_whose_worker_dies_once_is_computed_again(store: UnitStore, folder: Path, ray_session: Session) -> None:
    assert run(Job(folder=folder, dies_once=1), store, ray_session, 3) == 3
    assert squares(store) == {0: 0, 1: 1, 2: 4}
    assert computations(folder, 1) == 2


def test_several_works_share_one_pool_of_actors(tmp_path: Path, ray_session: Session) -> None:
    works, folders = [], []
    for name in ("first", "second"):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        store = UnitStore(Storage(tmp_path / "run"), f"squares/{name}")
        job = Job(folder=folders[-1])
        works.append(Work(stage=name, units=(0, 1), factory=job, store=store, quarantine=f"quarantine/{name}"))
    works[0].store.commit(0, pa.table({"square": [0]}))
    steps = Steps()
    run_units(works, replace(ray_session, workers=1), Stage(steps))
    assert steps.done == 4
    assert [squares(work.store) for work in works] == [{0: 0, 1: 1}] * 2
    assert [[computations(folder, unit) for unit in range(2)] for folder in folders] == [[0, 1], [1, 1]]


@pytest.mark.slow
def test_a_stage_that_stands_still_ends_and_says_what_it_waited_for(
    store: UnitStore, folder: Path, ray_session: Session
) -> None:
    """The worker is left behind: a run's driver ends now, and its workers with it. Here its actor is killed."""
    with pytest.raises(StageError, match=r"unit-000001 of squares/abc, begun by process (\d+) on") as caught:
        run(Job(folder=folder, sleeps=1), store, replace(ray_session, workers=2, stall=30.0), 3)
    assert 0 in squares(store) and 1 not in squares(store)
    process = re.search(r"process (\d+)", str(caught.value))
    assert process is not None
    os.kill(int(process[1]), signal.SIGKILL)
    deadline = time.monotonic() + 300
    while 1 not in squares(store):  # what is left behind ends before the next test begins
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_rows_that_nobody_reads_are_not_made() -> None:
    made: list[int] = []

    def slow() -> Iterator[int]:
        for number in range(100):
            time.sleep(0.01)
            made.append(number)
            yield number

    rows = each_within(slow(), 30.0, lambda: "nothing")
    next(rows)
    rows.close()
    time.sleep(0.5)
    assert len(made) < 20


def test_rows_within_their_time_come_through_and_errors_too() -> None:
    assert [*each_within(iter([1, 2, 3]), 30.0, lambda: "nothing")] == [1, 2, 3]

    def broken() -> Iterator[int]:
        yield 1
        raise PoolError("a", "b", "c")

    rows = each_within(broken(), 30.0, lambda: "nothing")
    assert next(rows) == 1
    with pytest.raises(PoolError):
        next(rows)
