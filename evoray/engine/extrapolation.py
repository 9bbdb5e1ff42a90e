"""From what a rehearsal of a run took to what the run will take.

A stage has a start, which costs the same for any number of rows (processes, models), and work, which its workers share.
The log tells them apart: what all workers together spent on rows is the work, and what is left of the stage's time is
its start. A selection is measured apart, at several sizes: its time is a line in the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evoray.report.costs import kind_of


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """A stage of the rehearsal, as its line in the log has it."""

    name: str
    seconds: float
    round: int | None = None  # None: of no round
    units: int = 0
    worker_seconds: float = 0.0  # of all workers together
    peak_mb: float | None = None

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Rehearsed:
        """From an event of the log."""
        names = ("seconds", "round", "units", "worker_seconds", "peak_mb")
        return cls(name=event["stage"], **{name: event[name] for name in names if name in event})


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How many times the run is larger than its rehearsal."""

    read: float  # rows of the pool
    featurise: float  # tokens of pool and target
    train: float  # rows that a round trains on
    evaluate: Mapping[str, float]  # rows of a split, times the models that are scored at once
    rounds: int  # of the run
    workers: int

    def of(self, stage: str) -> float:
        """Of the work of one stage."""
        kind = kind_of(stage)
        if kind == "evaluate":
            return self.evaluate.get(stage.rpartition(" on ")[2], 1.0)
        return {"read": self.read, "featurise": self.featurise, "train": self.train, "feedback": self.train}.get(
            kind, 1
        )

    def times(self, stage: Rehearsed, rehearsed: int) -> int:
        """How often a stage of the rehearsal is in the run: later rounds are as the last one that was rehearsed."""
        return 1 + max(0, self.rounds - rehearsed) if stage.round == rehearsed else 1


def seconds_of(stage: Rehearsed, growth: Growth) -> float:
    """What a stage will take once."""
    sharing = max(1, min(growth.workers, stage.units))
    start = max(0.0, stage.seconds - stage.worker_seconds / sharing)
    return start + stage.worker_seconds * growth.of(stage.name) / (growth.workers if stage.units else 1)


def by_kind(stages: Iterable[Rehearsed], growth: Growth) -> dict[str, tuple[float, float | None]]:
    """(seconds, peak MB of a process) of each kind of stage in the run; selections are left out."""
    found: dict[str, tuple[float, float | None]] = {}
    kept = [stage for stage in stages if kind_of(stage.name) != "select"]
    rehearsed = max((stage.round or 0 for stage in kept), default=0)
    for stage in kept:
        kind = kind_of(stage.name)
        seconds, peak = found.get(kind, (0.0, None))
        known = [one for one in (peak, stage.peak_mb) if one is not None]
        took = seconds_of(stage, growth) * growth.times(stage, rehearsed)
        found[kind] = seconds + took, max(known, default=None)
    return found


def on_a_line(points: Sequence[tuple[float, float]], at: float) -> float:
    """What a line through measured points says at a place; of one point, or where it would fall, their mean."""
    places, values = np.array(points, dtype=float).T
    if len(set(places.tolist())) == 1:
        return float(values.mean())
    slope, start = np.polyfit(places, values, 1)
    return float(start + slope * at) if slope > 0 else float(values.mean())
