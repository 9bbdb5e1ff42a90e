"""From what a rehearsal of a run took to what the run will take.

A stage has a start, which costs the same for any number of rows (processes, models), and work, which its workers share.
The log tells them apart: what all workers together spent on rows is the work, what they spent on models is known too,
and what is left of the stage's time is its start. A selection is measured apart, at several sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from evoray.report.costs import kind_of


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """A stage of the rehearsal, as its line in the log has it."""

    name: str
    seconds: float
    round: int | None = None  # None: of no round
    units: int = 0
    worker_seconds: float = 0.0  # of all workers together, on rows
    load_seconds: float = 0.0  # of all workers together, on models
    peak_mb: float | None = None

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Rehearsed:
        """From an event of the log."""
        names = ("seconds", "round", "units", "worker_seconds", "load_seconds", "peak_mb")
        return cls(name=event["stage"], **{name: event[name] for name in names if name in event})


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How many times the run is larger than its rehearsal."""

    read: float  # rows of the pool
    warm_up: float  # rows that the proxy is warmed up on
    featurise: float  # tokens of pool and target
    train: float  # rows that a round trains on
    evaluate: Mapping[str, float]  # rows of a split
    tested: float  # models that are scored on test rows
    rounds: int  # of the run
    workers: int
    files: float = 0.0  # seconds of reading the pool's own files: those of the rehearsal are others, drawn from them
    unit: float = 1.0  # rows of a unit of the rehearsal over those of the run's
    cumulative: bool = False  # whether a round trains on the rows of all rounds before it as well

    def of(self, stage: str) -> float:
        """Of the work of one stage."""
        kind, split = kind_of(stage), stage.rpartition(" on ")[2]
        if kind == "evaluate":
            return self.evaluate.get(split, 1.0) * self.loads(stage)
        known = {"read": self.read, "featurise": self.featurise, "train": self.train, "feedback": self.train}
        return known.get(kind, 1.0)

    def loads(self, stage: str) -> float:
        """Of the models that each worker loads in one stage: those of all rounds are scored on test rows at once."""
        return self.tested if kind_of(stage) == "evaluate" and stage.endswith(" on test") else 1.0

    def repeated(self, stage: Rehearsed, rehearsed: int) -> list[float]:
        """The work of a stage of the rehearsal in each round of the run that is like it, over that in its own.

        Rounds after the last one that was rehearsed are as that one.
        """
        if stage.round != rehearsed:
            return [1.0]
        grows = self.cumulative and kind_of(stage.name) == "train"
        return [number / rehearsed if grows else 1.0 for number in range(rehearsed, max(self.rounds, rehearsed) + 1)]


def seconds_of(stage: Rehearsed, growth: Growth, work: float = 1.0) -> float:
    """What a stage will take once. work: over that of the rehearsal, beside what grows with rows."""
    if kind_of(stage.name) == "warm up":  # in one process, which says nothing of its start
        return stage.seconds * growth.warm_up
    grown = work * growth.of(stage.name)
    shared = max(1, min(growth.workers, stage.units))
    sharing = max(1, min(growth.workers, math.ceil(stage.units * grown * growth.unit)))
    start = max(0.0, stage.seconds - (stage.worker_seconds + stage.load_seconds) / shared)
    loads = stage.load_seconds * growth.loads(stage.name) / shared
    files = growth.files if kind_of(stage.name) == "read" else 0.0
    return start + loads + stage.worker_seconds * grown / sharing + files


def by_kind(stages: Iterable[Rehearsed], growth: Growth) -> dict[str, tuple[float, float | None]]:
    """(seconds, peak MB of a process) of each kind of stage in the run; selections are left out."""
    found: dict[str, tuple[float, float | None]] = {}
    kept = [stage for stage in stages if kind_of(stage.name) != "select"]
    rehearsed = max((stage.round or 0 for stage in kept), default=0)
    for stage in kept:
        kind = kind_of(stage.name)
        seconds, peak = found.get(kind, (0.0, None))
        known = [one for one in (peak, stage.peak_mb) if one is not None]
        took = sum(seconds_of(stage, growth, work) for work in growth.repeated(stage, rehearsed))
        found[kind] = seconds + took, max(known, default=None)
    return found


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A selection that was measured."""

    rows: int  # of each shard
    k: int
    seconds: float
    peak_mb: float  # of the largest shard


def selection_seconds(probes: Sequence[Probe], rows: int, k: int) -> float:
    """What a selection of k from so many rows a shard takes: a sum of a constant and of terms in rows, k and their
    product, none of them negative, that is nearest to what was measured.
    """
    return _fitted([probe.seconds for probe in probes], probes, rows, k)


def selection_peak_mb(probes: Sequence[Probe], rows: int, k: int) -> float:
    """The memory of a shard in it, as `selection_seconds`."""
    return _fitted([probe.peak_mb for probe in probes], probes, rows, k)


def _fitted(values: Sequence[float], probes: Sequence[Probe], rows: int, k: int) -> float:
    terms_PT = np.array([_terms(probe.rows, probe.k) for probe in probes])
    scale_T = terms_PT.max(axis=0)
    weights_T, _ = nnls(terms_PT / scale_T, np.array(values, dtype=float))
    at_T = np.array(_terms(rows, k))
    return float(at_T / scale_T @ weights_T)


def _terms(rows: int, k: int) -> tuple[float, ...]:
    return 1.0, float(rows), float(k), float(rows) * k
