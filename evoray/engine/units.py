"""Stream pending units through Ray Data; each worker commits its own results.

Only unit numbers and commit facts pass through Ray and the driver. One pool of workers takes the units of several
pieces of work in turn: a process that imports libraries of models takes many seconds to start. On a cluster, and where
there are GPUs, a stage has actors of its own, whose memory is free when it is done. This machine's own Ray runs units
as tasks instead: Ray gives them the same few processes stage after stage, and these import once.

Ray retries a unit whose process died without end, so each try first leaves a mark in storage: a unit that used up its
tries fails the stage instead of killing workers for ever.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import time
import traceback
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from evoray.engine import metrics
from evoray.engine.events import Stage
from evoray.engine.remote import fetch
from evoray.engine.session import Session, asked_and_free, limit_threads
from evoray.engine.watchdog import each_within
from evoray.errors import EvorayError, StageError
from evoray.models.memory import does_not_fit, forget_peak, is_out_of_memory, peak_mb
from evoray.pool import write_quarantine_table
from evoray.records import Quarantined
from evoray.storage import UnitStore


@dataclass(frozen=True, kw_only=True)
class UnitResult:
    """What a worker computed for one unit: the table to commit, JSON facts, and rows set aside."""

    table: Any  # pyarrow.Table
    facts: Mapping[str, Any]
    quarantined: Sequence[Quarantined] = ()
    flops: float | None = None  # operations of models on its tokens; None: not counted
    load_seconds: float = 0.0  # of its time, for models that were loaded now
    by_model: bool = True  # whether its tokens went through a model now

    @property
    def tokens(self) -> int:
        """Those that a model read or wrote for it, as its facts have them; none where that was done before."""
        counted = ("tokens", "prompt_tokens", "completion_tokens")
        done = not self.by_model or "reused" in self.facts
        return 0 if done else sum(int(self.facts.get(name, 0)) for name in counted)


class UnitWorker(ABC):
    """Computes units, one at a time; built once in each actor, so that a model is loaded once."""

    @abstractmethod
    def compute(self, unit: int) -> UnitResult:
        """The result of one unit: a pure function of the unit and of what the worker was built with."""


_NAMED = 4  # units of a stage that stands still
_ATTEMPT = "attempt-"  # how marks of tries at units begin
_COUNTS = ("rows", "tokens", "quarantined")  # of a unit, for metrics and the log
_SECONDS = "worker_seconds"  # of a unit, in its worker, without those that its models took to load
_LOADS = "load_seconds"  # those
_PEAK = "peak_mb"  # resident memory of that worker, at its highest so far
_NOTHING: dict[str, float] = dict.fromkeys((*_COUNTS, _SECONDS, _LOADS, _PEAK), 0)

WorkerFactory = Callable[[], UnitWorker]


@dataclass(frozen=True, kw_only=True)
class Work:
    """Units of one source, what computes them, and where results and rows set aside go."""

    stage: str  # read, featurise, score ...: what metrics are told apart by
    units: Sequence[int]
    factory: WorkerFactory
    store: UnitStore
    quarantine: str  # key prefix
    careful: WorkerFactory | None = (
        None  # for a unit's last try: with less memory, and the same results but for rounding
    )
    own_code: bool = False  # whether code of the user's takes part: a process that stays may have an older one of it


def run_units(works: Sequence[Work], session: Session, stage: Stage) -> None:
    """Compute and commit every unit that has no commit record yet; advances `stage` by one a unit.

    Raises the worker's EvorayError, or StageError for any other failure and for a unit whose actor died
    `session.attempts` times.
    """
    done = [set(work.store.committed()) for work in works]
    pending = [
        {"work": index, "unit": unit}
        for index, work in enumerate(works)
        for unit in work.units
        if unit not in done[index]
    ]
    stage.advance(sum(len(work.units) for work in works) - len(pending))
    if pending:
        _run_pending(works, pending, session, stage)
    clear_marks(works)


def clear_marks(works: Sequence[Work]) -> None:
    """Delete the marks of tries at works whose units are all committed, those of starts that were killed too."""
    for work in works:
        keys = work.store.storage.keys(work.store.prefix)
        work.store.storage.delete_each(key for key in keys if key.startswith(f"{work.store.prefix}/{_ATTEMPT}"))


def _run_pending(works: Sequence[Work], pending: list[dict[str, int]], session: Session, stage: Stage) -> None:
    marks, workers = f"{_ATTEMPT}{uuid.uuid4().hex[:8]}", min(session.workers, len(pending))
    stay = session.keeps_processes and not any(work.own_code for work in works)
    import ray
    import ray.data  # for the driver alone: a solver's shard does without, and starts a second sooner

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # which its import has set to tell of each execution

    arguments = (works, marks, session.attempts, session.threads)
    if stay:
        how = {"fn": _in_a_process_that_stays, "fn_args": arguments, "compute": ray.data.TaskPoolStrategy(size=workers)}
    else:
        pool = ray.data.ActorPoolStrategy(size=workers)
        how = {"fn": _UnitActor, "fn_constructor_args": arguments, "compute": pool}
    units = ray.data.from_items(pending, override_num_blocks=len(pending))
    dataset = units.map_batches(batch_size=1, **how, **session.actor_options)
    # Ray Data's clock does not say what was waited for: tries are counted here, and `each_within` has its own.
    dataset.context.execution_no_progress_timeout_s = -1
    rows = each_within(dataset.iter_rows(), session.stall, lambda: _waited_for(works, marks, session), stage.waits)
    stage.highest(actors=workers)
    with closing(rows) as records:  # after an error no further unit is begun
        for record in records:
            _take(works[int(record["work"])], record, stage)
    if stay:
        # Ray gives a task the process that was at work last: the models that these hold make room for what comes next.
        fetch([ray.remote(num_cpus=1)(_let_go).remote(marks) for _ in range(workers)])


def _take(work: Work, record: Mapping[str, Any], stage: Stage) -> None:
    """Count a unit that was committed; raise the error of one that was not."""
    if record["error"] is not None:
        error = record["error"]
        stage.report("unit failed", unit=int(record["unit"]), store=work.store.prefix, error=error.received)
        raise error
    # Counted here and not by the worker: what a process counts in its last seconds Ray does not export.
    counts = {name: int(record[name]) for name in _COUNTS}
    metrics.count(work.stage, units=1, **counts)
    stage.count(units=1, **counts, **{name: float(record[name]) for name in (_SECONDS, _LOADS)})
    stage.highest(**{_PEAK: float(record[_PEAK])})
    stage.advance(1)


def _waited_for(works: Sequence[Work], marks: str, session: Session) -> str:
    """Units that were begun and are not done, and by whom; where none was, what workers ask for."""
    begun = []
    for work in works:
        storage, start = work.store.storage, f"{work.store.prefix}/{marks}-"
        for key in storage.keys(work.store.prefix):
            unit = key.removeprefix(start).partition(".")[0]
            if key.startswith(start) and not storage.exists(f"{work.store.prefix}/{unit}.json"):
                begun.append(f"{unit} of {work.store.prefix}, begun by {storage.read(key).decode()}")
    if begun:
        return "waiting for " + "; ".join(begun[:_NAMED]) + (f" and {len(begun) - _NAMED} more" * (len(begun) > _NAMED))
    return f"no worker has begun: {asked_and_free(session.actor_options)}"


#: In a process that stays: what the stage that it works for, or worked for last, has there.
_kept: _UnitActor | None = None


def _in_a_process_that_stays(
    batch: Mapping[str, Any], works: Sequence[Work], marks: str, attempts: int, threads: int
) -> dict[str, list[Any]]:
    global _kept  # noqa: PLW0603 - a task has nothing else that outlives it
    if _kept is None or _kept.marks != marks:
        _kept = None  # before the next models are loaded, those of the last stage are let go
        forget_peak()
        _kept = _UnitActor(works, marks, attempts, threads)
    return _kept(batch)


def _let_go(marks: str) -> bool:
    """Drop what a stage has in this process; whether there was something."""
    global _kept  # noqa: PLW0603
    if _kept is None or _kept.marks != marks:
        return False
    _kept = None
    gc.collect()
    return True


class _UnitActor:
    """The Ray Data callable around UnitWorkers: marks tries, commits, and turns errors into values."""

    def __init__(self, works: Sequence[Work], marks: str, attempts: int, threads: int) -> None:
        limit_threads(threads)
        self.works, self.marks, self.attempts = works, marks, attempts
        self.at: tuple[int, bool] | None = None  # index of the work that `worker` is for, and whether it is careful
        self.worker: UnitWorker | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        (index,), (unit,) = batch["work"], batch["unit"]
        counts, error = self._run(int(index), int(unit))
        return {"work": [int(index)], "unit": [int(unit)], "error": [error], **{key: [n] for key, n in counts.items()}}

    def _run(self, index: int, unit: int) -> tuple[dict[str, float], EvorayError | None]:
        """What was committed, and what was wrong."""
        work = self.works[index]
        storage = work.store.storage
        marks = [f"{work.store.prefix}/{self.marks}-unit-{unit:06d}.{attempt}" for attempt in range(self.attempts)]
        # Of its own for each attempt: put-if-absent tells writers apart by what they write.
        me = f"process {os.getpid()} on {socket.gethostname()}, {uuid.uuid4().hex}".encode()
        attempt = next((number for number, mark in enumerate(marks, 1) if storage.create(mark, me)), None)
        if attempt is None:
            return _NOTHING, StageError(
                f"unit {unit} of {work.store.prefix} ended its worker {self.attempts} times",
                "units that a worker survives",
                "give workers more memory (fewer cluster.workers, lower batch_tokens), or look for extreme rows",
            )
        try:
            begun = time.monotonic()
            worker, started = self._worker(index, careful=1 < attempt == self.attempts), time.monotonic()
            result = worker.compute(unit)
            metrics.utilised(work.stage, result.flops, time.monotonic() - started - result.load_seconds)
            if result.quarantined:
                table = write_quarantine_table(result.quarantined)
                storage.write_table(f"{work.quarantine}/unit-{unit:06d}.parquet", table)
            work.store.commit(unit, result.table, result.facts)
        except Exception as error:  # noqa: BLE001 - reported by the driver as the stage's failure
            return _NOTHING, _as_evoray_error(error)
        counts = (result.table.num_rows, result.tokens, len(result.quarantined))
        used = {
            _SECONDS: time.monotonic() - started - result.load_seconds,
            _LOADS: started - begun + result.load_seconds,
            _PEAK: peak_mb(),
        }
        return {**dict(zip(_COUNTS, counts, strict=True)), **used}, None

    def _worker(self, index: int, careful: bool) -> UnitWorker:
        """The worker of a work; the one before is let go first, for its memory.

        careful: of a unit whose processes ended again and again, for want of memory most likely.
        """
        work = self.works[index]
        careful = careful and work.careful is not None
        if self.worker is None or self.at != (index, careful):
            self.worker = None
            self.worker, self.at = (work.careful if careful and work.careful else work.factory)(), (index, careful)
        return self.worker


def _as_evoray_error(error: Exception) -> EvorayError:
    if isinstance(error, EvorayError):
        return error
    if is_out_of_memory(error):
        return does_not_fit("a row", error)
    return StageError(
        f"{type(error).__name__}: {error}",
        "a unit that computes",
        "this is a fault of evoray; please report it with this trace:\n" + "".join(traceback.format_exception(error)),
    )
