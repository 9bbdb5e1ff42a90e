"""Stream pending units through a Ray Data actor pool; each worker commits its own results.

Only unit numbers and commit facts pass through Ray and the driver. Ray retries a unit whose actor died
without end, so each try first leaves a mark in storage: a unit that used up its tries fails the stage
instead of killing workers for ever.
"""

from __future__ import annotations

import traceback
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.data

from evoray.engine.events import Stage
from evoray.engine.session import Session
from evoray.errors import EvorayError, StageError
from evoray.pool import write_quarantine_table
from evoray.records import Quarantined
from evoray.storage import UnitStore


@dataclass(frozen=True, kw_only=True)
class UnitResult:
    """What a worker computed for one unit: the table to commit, JSON facts, and rows set aside."""

    table: Any  # pyarrow.Table
    facts: Mapping[str, Any]
    quarantined: Sequence[Quarantined] = ()


class UnitWorker(ABC):
    """Computes units, one at a time; built once in each actor, so that a model is loaded once."""

    @abstractmethod
    def compute(self, unit: int) -> UnitResult:
        """The result of one unit: a pure function of the unit and of what the worker was built with."""


WorkerFactory = Callable[[], UnitWorker]


def run_units(
    units: Sequence[int],
    factory: WorkerFactory,
    store: UnitStore,
    quarantine: str,
    session: Session,
    stage: Stage,
) -> None:
    """Compute and commit every unit that has no commit record yet; advances `stage` by one a unit.

    quarantine: key prefix for the rows set aside. Raises the worker's EvorayError, or StageError for any
    other failure and for a unit whose actor died `session.attempts` times.
    """
    done = store.commits()
    stage.advance(sum(unit in done for unit in units))
    pending = [unit for unit in units if unit not in done]
    if not pending:
        return
    marks = f"{store.prefix}/attempt-{uuid.uuid4().hex[:8]}"
    dataset = ray.data.from_items([{"unit": unit} for unit in pending], override_num_blocks=len(pending)).map_batches(
        _UnitActor,
        fn_constructor_args=(factory, store, quarantine, marks, session.attempts, session.threads),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(session.workers, len(pending))),
        **session.actor_options,
    )
    for record in dataset.iter_rows():
        if record["error"] is not None:
            raise record["error"]
        stage.advance(1)
    for key in list(store.storage.keys(store.prefix)):
        if key.startswith(marks):
            store.storage.delete(key)


class _UnitActor:
    """The Ray Data callable around a UnitWorker: marks tries, commits, and turns errors into values."""

    def __init__(
        self, factory: WorkerFactory, store: UnitStore, quarantine: str, marks: str, attempts: int, threads: int
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.store, self.quarantine, self.marks, self.attempts = store, quarantine, marks, attempts
        self.failure: EvorayError | None = None
        try:
            self.worker = factory()
        except Exception as error:  # noqa: BLE001 - an actor that fails to start is restarted for ever by Ray
            self.failure = _as_evoray_error(error)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        (unit,) = (int(value) for value in batch["unit"])
        error = self.failure or self._run(unit)
        return {"unit": [unit], "error": [error]}

    def _run(self, unit: int) -> EvorayError | None:
        storage = self.store.storage
        marks = (f"{self.marks}-unit-{unit:06d}.{attempt}" for attempt in range(self.attempts))
        if not any(storage.create(mark, b"") for mark in marks):
            return StageError(
                f"unit {unit} of {self.store.prefix} ended its worker {self.attempts} times",
                "units that a worker survives",
                "look for rows of extreme size in this unit, or lower batch_tokens; then run the same command again",
            )
        try:
            result = self.worker.compute(unit)
            if result.quarantined:
                table = write_quarantine_table(result.quarantined)
                storage.write_table(f"{self.quarantine}/unit-{unit:06d}.parquet", table)
            self.store.commit(unit, result.table, result.facts)
        except Exception as error:  # noqa: BLE001 - reported by the driver as the stage's failure
            return _as_evoray_error(error)
        return None


def _as_evoray_error(error: Exception) -> EvorayError:
    if isinstance(error, EvorayError):
        return error
    return StageError(
        f"{type(error).__name__}: {error}",
        "a unit that computes",
        "this is a fault of evoray; please report it with this trace:\n" + "".join(traceback.format_exception(error)),
    )
