"""Read a pool into units: normalised rows in storage, unusable ones in quarantine, duplicates set aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from evoray.config import PoolConfig
from evoray.engine.remote import in_task
from evoray.engine.site import Site, Source, fingerprint
from evoray.engine.units import Work, run_units
from evoray.engine.workers import DUPLICATES, PoolRows, ReadJob
from evoray.errors import PoolError
from evoray.pool import find_duplicates, plan_units, pool_fingerprint
from evoray.records import HASH_COLUMN, Quarantined, UnitSpan
from evoray.storage import UnitStore


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A pool that was read: its identity, its units in storage, and how many rows it has."""

    fingerprint: str
    store: UnitStore
    units: tuple[int, ...]
    read: int
    usable: int
    quarantined: int
    duplicates: int

    @property
    def rows(self) -> PoolRows:
        """Reads the usable rows of a unit."""
        return PoolRows(store=self.store)

    @property
    def source(self) -> Source:
        """The usable rows."""
        return Source(rows=self.rows, units=self.units, identity=self.fingerprint)


def read_pool(path: str | Sequence[str], config: PoolConfig, site: Site) -> Pool:
    """Read, validate and normalise the pool, set unusable rows aside, find duplicates.

    Raises PoolError for a pool that cannot be read, is empty, or of which too much is unusable.
    """
    spans, content = in_task(_plan, path, config.unit_rows)
    identity = fingerprint(content=content, unit_rows=config.unit_rows, max_chars=config.max_chars)
    storage = site.storage
    store = UnitStore(storage, f"pool/{identity}")
    units = tuple(span.unit for span in spans)
    with site.events.stage("read pool", len(units)) as stage:
        job = ReadJob(spans=tuple(spans), max_chars=config.max_chars)
        quarantine = f"quarantine/pool-{identity}"
        work = Work(stage="read", units=units, factory=job, store=store, quarantine=quarantine)
        run_units([work], site.session, stage)
        if not storage.exists(f"{store.prefix}/{DUPLICATES}"):
            in_task(_write_duplicates, store, quarantine)
    commits = store.commits().values()
    read = sum(int(commit.facts["read"]) for commit in commits)
    quarantined = sum(int(commit.facts["quarantined"]) for commit in commits)
    found = storage.read_table(f"{store.prefix}/{DUPLICATES}", ["reason"])
    duplicates = found.num_rows
    usable = read - quarantined - duplicates
    site.events.write("pool", read=read, usable=usable, quarantined=quarantined, duplicates=duplicates)
    same_id = pc.sum(pc.equal(found["reason"], "duplicate id")).as_py() or 0
    if quarantined + same_id > config.max_quarantined * read or usable == 0:
        ids = f", {same_id} of them for an id that another row has" if same_id else ""
        raise PoolError(
            f"{quarantined + same_id} of {read} rows cannot be used{ids}",
            f"at most {config.max_quarantined:.0%} unusable rows, and at least one usable",
            f"see the reasons in {storage.location('quarantine')}; mend the pool (rows without an id get one), or "
            "raise reading.max_quarantined",
        )
    return Pool(
        fingerprint=identity,
        store=store,
        units=units,
        read=read,
        usable=usable,
        quarantined=quarantined,
        duplicates=duplicates,
    )


def _plan(path: str | Sequence[str], unit_rows: int) -> tuple[list[UnitSpan], str]:
    spans = plan_units(path, unit_rows)
    return spans, pool_fingerprint(spans)


def _write_duplicates(store: UnitStore, quarantine: str) -> None:
    units = store.committed()
    tables = store.tables(units, ["id", HASH_COLUMN])
    found = find_duplicates((unit, table["id"], table[HASH_COLUMN]) for unit, table in zip(units, tables, strict=True))
    records = [
        asdict(
            Quarantined(
                id=row["id"],
                stage="duplicates",
                reason=row["reason"],
                detail=f"kept: {row['first_id']}",
                file="",
                row=-1,
            )
        )
        for row in found.to_pylist()
    ]
    if records:
        store.storage.write_table(f"{quarantine}/duplicates.parquet", pa.Table.from_pylist(records))
    store.storage.write_table(f"{store.prefix}/{DUPLICATES}", found)
