"""Workers that fail in the ways that workers do; in a module, so that actors import what they run."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from evoray.engine.units import UnitResult, UnitWorker
from evoray.errors import ModelError, PoolError
from evoray.records import Quarantined


@dataclass(frozen=True, kw_only=True)
class Job:
    """Squares unit numbers and leaves a mark in `folder` for each computation; some units misbehave."""

    folder: Path
    raises: int | None = None  # this unit is refused
    breaks: int | None = None  # this unit meets a programming error
    dies: int | None = None  # this unit ends its process, each time
    dies_once: int | None = None
    dies_unless_careful: int | None = None  # as one that needs more memory than there is
    is_careful: bool = False
    sleeps: int | None = None  # this unit does not end, the first time
    takes: float = 0.0  # seconds of each unit
    never_starts: bool = False
    quarantines: tuple[int, ...] = ()
    tokens: int = 0  # that each unit says it read

    def __call__(self) -> UnitWorker:
        if self.never_starts:
            raise ModelError("a model that is not there", "one that is", "name another")
        return _Worker(self)


class _Worker(UnitWorker):
    def __init__(self, job: Job) -> None:
        self.job = job

    def compute(self, unit: int) -> UnitResult:
        tries = len(list(self.job.folder.glob(f"unit-{unit}-*")))
        (self.job.folder / f"unit-{unit}-{tries}").touch()
        time.sleep(self.job.takes)
        if unit == self.job.raises:
            raise PoolError("a bad unit", "a good one", "mend it")
        if unit == self.job.breaks:
            raise ZeroDivisionError("by zero")
        if unit == self.job.sleeps and tries == 0:
            time.sleep(3600)
        if unit == self.job.dies or (unit == self.job.dies_once and tries == 0):
            os._exit(1)
        if unit == self.job.dies_unless_careful and not self.job.is_careful:
            os._exit(1)
        quarantined = [
            Quarantined(id=f"row-{unit}", stage="test", reason="odd", detail="d", file="f", row=unit)
            for _ in range(unit in self.job.quarantines)
        ]
        facts = {"unit": unit, "tokens": self.job.tokens}
        return UnitResult(
            table=pa.table({"square": [unit**2], "process": [os.getpid()]}), facts=facts, quarantined=quarantined
        )


def computations(folder: Path, unit: int) -> int:
    """How often a unit was begun."""
    return len(list(folder.glob(f"unit-{unit}-*")))
