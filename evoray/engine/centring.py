"""Centred features: stores of their own, made from those of a pool and its targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from evoray.engine.remote import in_task
from evoray.engine.site import Site, fingerprint
from evoray.engine.stored import POOL, Features
from evoray.engine.units import UnitResult, UnitWorker, Work, run_units
from evoray.features.centring import centre, row_sum
from evoray.records import Quarantined
from evoray.storage import UnitStore

_MEAN = "mean.parquet"


def centred(found: Mapping[str, Features], site: Site) -> dict[str, Features]:
    """The features without the mean of the pool's rows, for the pool and all targets."""
    pool = found[POOL]
    results, works = {}, []
    for name, one in found.items():
        identity = fingerprint(centred=one.fingerprint, on=pool.fingerprint)
        store = UnitStore(site.storage, f"features/{identity}")
        results[name] = Features(fingerprint=identity, raw=one.raw, store=store, units=one.units)
        job = CentreJob(source=one.store, mean_of=pool.store)
        quarantine = f"quarantine/features-{identity}"
        works.append(Work(stage="centre", units=one.units, factory=job, store=store, quarantine=quarantine))
    with site.events.stage("centre features", sum(len(work.units) for work in works)) as stage:
        if not site.storage.exists(f"{pool.store.prefix}/{_MEAN}"):
            in_task(_write_mean, pool.store, pool.units)
        run_units(works, site.session, stage)
    return results


def _write_mean(store: UnitStore, units: Sequence[int]) -> None:
    """The mean of all rows, summed unit by unit in their order."""
    rows, total = 0, np.zeros(())
    for table in store.tables(units, ["feature"]):
        if table.num_rows:
            rows, total = rows + table.num_rows, total + row_sum(table)
    store.storage.write_table(f"{store.prefix}/{_MEAN}", pa.table({"mean": total / rows}))


@dataclass(frozen=True, kw_only=True)
class CentreJob:
    """Take the mean of one store's rows off the units of another."""

    source: UnitStore
    mean_of: UnitStore

    def __call__(self) -> UnitWorker:
        return _Centrer(self)


class _Centrer(UnitWorker):
    def __init__(self, job: CentreJob) -> None:
        self.source = job.source
        self.mean_D = job.mean_of.storage.read_table(f"{job.mean_of.prefix}/{_MEAN}")["mean"].to_numpy()

    def compute(self, unit: int) -> UnitResult:
        commit = self.source.find(unit)
        table, lost = centre(self.source.read(commit), self.mean_D)
        quarantined = [
            Quarantined(
                id=row_id, stage="centre", reason="no centred feature", detail="the row is the mean", file="", row=-1
            )
            for row_id in lost
        ]
        facts = {**commit.facts, "quarantined": int(commit.facts["quarantined"]) + len(lost)}
        return UnitResult(table=table, facts=facts, quarantined=quarantined, by_model=False)
