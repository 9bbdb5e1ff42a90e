"""The models of a comparison: equal trainings are one, and several share a launch of workers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from evoray.config import TrainingConfig
from evoray.engine.bench import Bench
from evoray.engine.cell_selections import Wanted, rows_at
from evoray.engine.site import fingerprint
from evoray.engine.trainer import TrainJob, train
from evoray.models.folder import Folder
from evoray.training.order import steps_of

Key = TypeVar("Key")
Job = TypeVar("Job")


@dataclass(frozen=True, kw_only=True)
class CellModel:
    """What was trained for a cell."""

    facts: Mapping[str, Any]  # rows, row_tokens, steps, tokens, seconds
    weights: Folder | None  # None: a loop went back to the untrained model
    identity: str


def jobs_of(
    bench: Bench, selections: Mapping[Wanted, Mapping[str, Any]], loops: Mapping[Wanted, int]
) -> dict[Wanted, TrainJob]:
    """The training of each selection; equal ones have the same folder. loops: steps that models of loops took."""
    planned = {one: _steps(one.entry.training, len(record["ids"])) for one, record in selections.items()} | dict(loops)
    steps = {(one.entry.name, one.target, one.budget, one.seed): count for one, count in planned.items()}
    found: dict[Wanted, TrainJob] = {}
    for one, record in selections.items():
        matched = one.entry.tokens_of
        fixed = None if matched is None else steps[matched, one.target, one.budget, one.seed]
        found[one] = job_of(bench, one, record, fixed)
    return found


def _steps(training: TrainingConfig, rows: int) -> int:
    return steps_of(rows, training.batch_size, training.epochs)


def job_of(bench: Bench, one: Wanted, record: Mapping[str, Any], steps: int | None = None) -> TrainJob:
    """The training of one selection. steps: as many as another's; None: what its rows and epochs take."""
    config, site = bench.config, bench.site
    training = site.session.settled(one.entry.training)
    looked = bench.target(one.target, "validate", one.seed).source if training.early_stop else None
    job = TrainJob(
        name=one.shown,
        data=rows_at(bench, record),
        model=config.model,
        start=None,
        out=Folder(storage=site.storage, prefix="models"),
        inputs={
            "data": fingerprint(rows=record["digest"], pool=bench.pool.fingerprint),
            "model": bench.model_identity,
            "start": None,
            "validate": None if looked is None else looked.identity,
        },
        lora=config.lora,
        config=training,
        max_tokens=config.features.max_tokens,
        max_chars=config.reading.max_chars,
        steps=steps,
        seed=one.seed,
        threads=site.session.threads,
        validate=looked,
    )
    return replace(job, out=Folder(storage=site.storage, prefix=f"models/{job.identity}"))


def train_all(bench: Bench, jobs: Mapping[Key, TrainJob]) -> dict[Key, CellModel]:
    """The model of every training; those that are done are read."""
    distinct = {job.identity: job for job in jobs.values()}
    pending = [job for job in distinct.values() if job.outcome() is None]
    if pending:
        parallel = bench.config.parallel or max(1, bench.site.session.workers // bench.config.training.workers)
        _train_batches(bench, launches(pending, bench.config.launch, parallel), parallel)
    facts = {identity: job.outcome() or {} for identity, job in distinct.items()}
    return {
        one: CellModel(facts=facts[job.identity], weights=job.out, identity=job.identity) for one, job in jobs.items()
    }


def launches(jobs: Sequence[Job], size: int, parallel: int) -> list[list[Job]]:
    """The jobs in launches of at most `size`, of like lengths, as many as keep `parallel` of them busy to the end."""
    count = min(len(jobs), -(-len(jobs) // (size * parallel)) * parallel)
    return [list(jobs[place::count]) for place in range(count)]


def _train_batches(bench: Bench, batches: Sequence[Sequence[TrainJob]], parallel: int) -> None:
    site, total = bench.site, sum(map(len, batches))
    if min(parallel, len(batches)) == 1:
        for batch in batches:
            train(batch, site.session, site.events)
        return
    title, quiet = f"train {total} models, {parallel} launches at a time", site.events.unseen()
    given_up = threading.Event()
    with site.events.stage(title, total) as stage, ThreadPoolExecutor(parallel) as threads:
        waiting = [(threads.submit(train, batch, site.session, quiet, given_up), len(batch)) for batch in batches]
        try:
            for one, count in waiting:
                one.result()
                stage.advance(count)
        except BaseException:  # Ctrl-C as well: where Ray ends with it, nobody waits until models are trained
            if site.session.owned:
                given_up.set()
            for one, _ in waiting:
                one.cancel()
            raise
