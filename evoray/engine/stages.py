"""The stages of a run, each resumable by its own store: read, warm up, featurise, select, gather, score.

Every function takes what it works on by fingerprint and returns a small record. Rows and features stay with
the workers and in storage.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from evoray.config import EvaluationConfig, FeatureConfig, LoraConfig, PoolConfig
from evoray.engine.events import Events
from evoray.engine.progress import Counter, watched
from evoray.engine.remote import in_process, in_task
from evoray.engine.session import Session
from evoray.engine.shards import matrix_of
from evoray.engine.units import run_units
from evoray.engine.workers import DUPLICATES, FeatureJob, PoolRows, ReadJob, ScoreJob, TargetRows
from evoray.errors import ModelError, PoolError
from evoray.models.folder import Folder
from evoray.pool import Split, find_duplicates, plan_units, pool_fingerprint, read_target_split
from evoray.records import HASH_COLUMN, Quarantined, UnitSpan
from evoray.storage import Storage, UnitStore


def fingerprint(**parts: Any) -> str:
    """16 hex digits over JSON values: equal inputs have equal names, in every process."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a stage works: the storage of its results, the actors it may use, and whom it tells."""

    storage: Storage
    session: Session
    events: Events


@dataclass(frozen=True, kw_only=True)
class Source:
    """Rows in units, read by whoever needs them, with the fingerprint of their content."""

    rows: PoolRows | TargetRows
    units: tuple[int, ...]
    identity: str


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
        run_units(units, job, store, f"quarantine/pool-{identity}", site.session, stage)
        if not storage.exists(f"{store.prefix}/{DUPLICATES}"):
            in_task(_write_duplicates, store, f"quarantine/pool-{identity}")
    commits = store.commits().values()
    read = sum(int(commit.facts["read"]) for commit in commits)
    quarantined = sum(int(commit.facts["quarantined"]) for commit in commits)
    duplicates = storage.read_table(f"{store.prefix}/{DUPLICATES}", ["row"]).num_rows
    usable = read - quarantined - duplicates
    site.events.write("pool", read=read, usable=usable, quarantined=quarantined, duplicates=duplicates)
    if quarantined > config.max_quarantined * read or usable == 0:
        raise PoolError(
            f"{quarantined} of {read} rows cannot be used",
            f"at most {config.max_quarantined:.0%} unusable rows, and at least one usable",
            f"see the reasons in {storage.location('quarantine')}; mend the pool, or raise reading.max_quarantined",
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
    commits = store.commits()

    def units() -> Any:
        for unit, commit in commits.items():
            table = store.read(commit, ["id", HASH_COLUMN])
            yield unit, table["id"], table[HASH_COLUMN]

    found = find_duplicates(units())
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


def identify_model(reference: str, events: Events) -> str:
    """The fingerprint of a model's weights; converts the embedded one first. Raises ModelError."""
    with events.stage(f"prepare model {reference}", 1) as stage:
        identity = in_process(_identify_model, reference)
        stage.advance()
    return identity


def _identify_model(reference: str) -> str:
    from evoray.models.loading import load_tokenizer, model_fingerprint

    load_tokenizer(reference)  # a model that does not exist is found here, before any work
    return model_fingerprint(reference)


def warm_up_adapter(
    pool: Pool,
    model: str,
    model_identity: str,
    lora: LoraConfig,
    config: FeatureConfig,
    seed: int,
    site: Site,
) -> Folder:
    """The proxy's adapter after a short fine-tune on random pool rows; made once for equal inputs."""
    identity = fingerprint(
        pool=pool.fingerprint,
        model=model_identity,
        lora=lora.model_dump(),
        warmup=config.warmup.model_dump(),
        max_tokens=config.max_tokens,
        precision=config.precision,
        seed=seed,
    )
    storage = site.storage
    folder = Folder(storage=storage, prefix=f"warmup/{identity}")
    steps = -(-config.warmup.rows // config.warmup.batch_size)
    with site.events.stage("warm up proxy", steps) as stage:
        if storage.exists(f"{folder.prefix}/done.json"):
            stage.advance(steps)
            return folder
        counter = Counter.start()
        with watched(counter, stage):
            loss = in_process(
                _warm_up, pool.rows, pool.units, model, lora, config, seed, folder, counter, cpus=config.warmup.threads
            )
        storage.write_json(f"{folder.prefix}/done.json", {"loss": loss})
        ray.kill(counter)
    return folder


def _warm_up(
    rows: PoolRows,
    units: Sequence[int],
    model: str,
    lora: LoraConfig,
    config: FeatureConfig,
    seed: int,
    folder: Folder,
    counter: Any,
) -> float:
    import torch

    from evoray.models.loading import autocast_dtype, load_model, load_tokenizer, new_adapter, to_device
    from evoray.training.warmup import warm_up

    torch.set_num_threads(config.warmup.threads)
    chosen = _random_rows(rows, units, config.warmup.rows, seed)
    scratch = Path(tempfile.mkdtemp(prefix="evoray-warmup-"))
    try:
        loss = warm_up(
            to_device(new_adapter(load_model(model), lora, seed)),
            load_tokenizer(model),
            chosen,
            scratch,
            config.warmup,
            seed=seed,
            max_tokens=config.max_tokens,
            batch_tokens=config.batch_tokens,
            precision=autocast_dtype(config.precision),
            progress=counter.reach.remote,
        )
        folder.upload(scratch)
    finally:
        shutil.rmtree(scratch)
    return loss


def _random_rows(rows: PoolRows, units: Sequence[int], count: int, seed: int) -> list[Any]:
    """`count` rows of the pool, first in the random order of the seed: the same for any unit size."""
    from evoray.selection.picks import random_key

    best: list[tuple[int, str, Any]] = []
    for unit in units:
        best += [(random_key(row.id, seed), row.id, row) for row in rows.read(unit)]
        best = sorted(best, key=lambda entry: entry[:2])[:count]
    return [row for _, _, row in best]


@dataclass(frozen=True, kw_only=True)
class Features:
    """Committed features of a pool or of a target split."""

    fingerprint: str
    store: UnitStore
    units: tuple[int, ...]

    @classmethod
    def of(cls, storage: Storage, record: Mapping[str, Any]) -> Features:
        """The features that a round's record names."""
        identity = record["fingerprint"]
        return cls(fingerprint=identity, store=UnitStore(storage, f"features/{identity}"), units=tuple(record["units"]))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model with an adapter (or none), and the fingerprint of their weights."""

    model: str
    adapter: Folder | None
    identity: str

    @classmethod
    def of(cls, model: str, model_identity: str, adapter: Folder | None = None) -> Checkpoint:
        """Read the adapter's weights for their fingerprint."""
        parts = (
            {"model": model_identity}
            if adapter is None
            else {"model": model_identity, "adapter": adapter.fingerprint()}
        )
        return cls(model=model, adapter=adapter, identity=fingerprint(**parts))


def featurise(name: str, source: Source, proxy: Checkpoint, config: FeatureConfig, seed: int, site: Site) -> Features:
    """Features of every unit of a source; only what is not committed yet is computed."""
    if proxy.adapter is None:
        raise ModelError("a proxy without an adapter", "LoRA weights to take gradients of", "warm one up first")
    identity = fingerprint(
        source=source.identity,
        proxy=proxy.identity,
        config=config.model_dump(exclude={"warmup", "adapter", "model", "refresh", "seed"}),
        seed=seed,
    )
    store = UnitStore(site.storage, f"features/{identity}")
    with site.events.stage(f"featurise {name}", len(source.units), fingerprint=identity) as stage:
        job = FeatureJob(source=source.rows, model=proxy.model, adapter=proxy.adapter, config=config, seed=seed)
        run_units(source.units, job, store, f"quarantine/features-{identity}", site.session, stage)
    return Features(fingerprint=identity, store=store, units=source.units)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One split of the target: its rows, their number and their weights."""

    split: Split
    source: Source
    weights: Mapping[str, float]  # of rows that have another weight than 1
    rows: int

    def weights_of(self, ids: Sequence[str]) -> npt.NDArray[np.float64] | None:
        """Weights of some rows; None where all are equal."""
        return np.array([self.weights.get(row_id, 1.0) for row_id in ids]) if self.weights else None


def open_target(path: str, split: Split, seed: int, unit_rows: int, list_options: bool = False) -> Target:
    """Look at one split of a target (the driver sees counts and weights, no rows). Raises TargetError."""
    count, content, weights = in_task(_describe_target, path, split, seed)
    return Target(
        split=split,
        source=Source(
            rows=TargetRows(path=path, split=split, seed=seed, unit_rows=unit_rows, list_options=list_options),
            units=tuple(range(-(-count // unit_rows))),
            identity=fingerprint(content=content, unit_rows=unit_rows, list_options=list_options),
        ),
        weights=weights,
        rows=count,
    )


def _describe_target(path: str, split: Split, seed: int) -> tuple[int, str, dict[str, float]]:
    rows, _ = read_target_split(path, split, seed)
    weights = {row.id: row.weight for row in rows if row.weight != 1.0}
    return len(rows), fingerprint(rows=[asdict(row) for row in rows]), weights


def read_features(features: Features) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Ids and unit rows [M, D] of a target's features: small enough for the driver."""
    commits = features.store.commits()
    tables = [features.store.read(commits[unit], ["id", "feature"]) for unit in features.units]
    table = pa.concat_tables(table for table in tables if table.num_rows)
    return table["id"].to_pylist(), matrix_of(table)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one model on one split, in the rows' order."""

    ids: tuple[str, ...]
    loss: tuple[float, ...]
    correct: tuple[bool | None, ...]


def score(
    name: str, target: Target, model: Checkpoint, config: EvaluationConfig, max_tokens: int, site: Site
) -> Scores:
    """Score a model on a split; equal (model, adapter, rows, settings) are scored once."""
    source = target.source
    identity = fingerprint(
        source=source.identity, model=model.identity, config=config.model_dump(), max_tokens=max_tokens
    )
    store = UnitStore(site.storage, f"scores/{identity}")
    with site.events.stage(f"evaluate {name}", len(source.units), fingerprint=identity) as stage:
        job = ScoreJob(
            source=source.rows, model=model.model, adapter=model.adapter, config=config, max_tokens=max_tokens
        )
        run_units(source.units, job, store, f"quarantine/scores-{identity}", site.session, stage)
    commits = store.commits()
    table = pa.concat_tables([store.read(commits[unit], ["id", "loss", "correct"]) for unit in source.units])
    columns: Mapping[str, list[Any]] = table.to_pydict()
    return Scores(ids=tuple(columns["id"]), loss=tuple(columns["loss"]), correct=tuple(columns["correct"]))
