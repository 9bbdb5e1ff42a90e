"""Features and scores, each resumable by its own store.

Every function takes what it works on by fingerprint and returns a small record. Rows and features stay with
the workers and in storage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evoray.config import EvaluationConfig, FeatureConfig
from evoray.engine.proxy import Checkpoint, Proxy
from evoray.engine.remote import in_task
from evoray.engine.shards import matrix_of
from evoray.engine.site import Site, Source, fingerprint
from evoray.engine.units import Work, run_units
from evoray.engine.workers import FeatureJob, ScoreJob, TargetRows
from evoray.pool import Split, read_target_split, write_quarantine_table
from evoray.storage import Storage, UnitStore

#: The source of candidates; all other sources of features are rows of the target.
POOL = "pool"


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


def featurise(
    sources: Mapping[str, Source], proxy: Proxy, config: FeatureConfig, seed: int, site: Site
) -> dict[str, Features]:
    """Features of every unit of some sources, by name; only what is not committed yet is computed.

    The source named `pool` holds candidates, all others hold rows of the target.
    """
    found: dict[str, Features] = {}
    works: list[Work] = []
    for name, source in sources.items():
        identity = fingerprint(
            source=source.identity,
            proxy=proxy.identity,
            config=config.model_dump(exclude={"warmup", "adapter", "adapter_weights", "model", "refresh", "seed"}),
            candidates=name == POOL,
            seed=seed,
        )
        store = UnitStore(site.storage, f"features/{identity}")
        found[name] = Features(fingerprint=identity, store=store, units=source.units)
        job = FeatureJob(
            source=source.rows, model=proxy.model, adapters=proxy.adapters, weights=proxy.weights, config=config,
            seed=seed, candidates=name == POOL,
        )  # fmt: skip
        works.append(Work(units=source.units, factory=job, store=store, quarantine=f"quarantine/features-{identity}"))
    names = {name: one.fingerprint for name, one in found.items()}
    title = f"featurise {', '.join(sources)}"
    with site.events.stage(title, sum(len(work.units) for work in works), fingerprints=names) as stage:
        run_units(works, site.session, stage)
    return found


@dataclass(frozen=True, kw_only=True)
class Target:
    """One split of the target: its rows, their number and their weights."""

    split: Split
    source: Source
    weights: Mapping[str, float]  # of rows that have another weight than 1
    rows: int
    quarantine: str | None  # where the unusable rows of its file are; None where there are none

    def weights_of(self, ids: Sequence[str]) -> npt.NDArray[np.float64] | None:
        """Weights of some rows; None where all are equal."""
        return np.array([self.weights.get(row_id, 1.0) for row_id in ids]) if self.weights else None


def open_target(path: str, split: Split, seed: int, unit_rows: int, site: Site, list_options: bool = False) -> Target:
    """Look at one split of a target (the driver sees counts and weights, no rows). Raises TargetError.

    Rows of its file that cannot be used go to quarantine with their reasons.
    """
    count, content, weights, quarantine = in_task(_describe_target, path, split, seed, site.storage)
    if quarantine is not None:
        site.events.display.note(f"unusable {split} rows of the target: see {site.storage.location(quarantine)}")
    return Target(
        split=split,
        source=Source(
            rows=TargetRows(path=path, split=split, seed=seed, unit_rows=unit_rows, list_options=list_options),
            units=tuple(range(-(-count // unit_rows))),
            identity=fingerprint(content=content, unit_rows=unit_rows, list_options=list_options),
        ),
        weights=weights,
        rows=count,
        quarantine=quarantine,
    )


def _describe_target(
    path: str, split: Split, seed: int, storage: Storage
) -> tuple[int, str, dict[str, float], str | None]:
    rows, refused = read_target_split(path, split, seed)
    weights = {row.id: row.weight for row in rows if row.weight != 1.0}
    quarantine = None
    if refused:  # align and validate cut from one dev file name the same object: its content is its name
        quarantine = f"quarantine/target-{fingerprint(rows=[asdict(record) for record in refused])}.parquet"
        storage.write_table(quarantine, write_quarantine_table(refused))
    return len(rows), fingerprint(rows=[asdict(row) for row in rows]), weights, quarantine


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
    models: Mapping[str, Checkpoint], target: Target, config: EvaluationConfig, max_tokens: int, site: Site
) -> dict[str, Scores]:
    """Score models on a split, by name; equal (model, adapter, rows, settings) are scored once."""
    source = target.source
    names: dict[str, str] = {}
    works: dict[str, Work] = {}  # by fingerprint: models of equal weights share one
    for name, model in models.items():
        identity = fingerprint(
            source=source.identity, model=model.identity, config=config.model_dump(), max_tokens=max_tokens
        )
        names[name] = identity
        works[identity] = Work(
            units=source.units,
            factory=ScoreJob(
                source=source.rows, model=model.model, adapter=model.adapter, config=config, max_tokens=max_tokens
            ),
            store=UnitStore(site.storage, f"scores/{identity}"),
            quarantine=f"quarantine/scores-{identity}",
        )
    shown = ", ".join(models) if len(models) < 3 else f"{len(models)} models"
    total = len(works) * len(source.units)
    with site.events.stage(f"evaluate {shown} on {target.split}", total, fingerprints=names) as stage:
        run_units(list(works.values()), site.session, stage)
    return {name: _read_scores(works[identity]) for name, identity in names.items()}


def _read_scores(work: Work) -> Scores:
    commits = work.store.commits()
    table = pa.concat_tables([work.store.read(commits[unit], ["id", "loss", "correct"]) for unit in work.units])
    columns: Mapping[str, list[Any]] = table.to_pydict()
    return Scores(ids=tuple(columns["id"]), loss=tuple(columns["loss"]), correct=tuple(columns["correct"]))
