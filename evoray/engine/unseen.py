"""Scores of candidates that no solve has seen: the potentials of one, extended to any rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from evoray.config import PoolConfig
from evoray.engine.external import open_features
from evoray.engine.featurise import featurise
from evoray.engine.pools import read_pool
from evoray.engine.potentials import PotentialsFile, Recipe
from evoray.engine.remote import in_task
from evoray.engine.shards import ParquetTiles, StoredTiles, matrix_of
from evoray.engine.site import Site, fingerprint
from evoray.engine.stored import POOL
from evoray.engine.units import UnitResult, UnitWorker, Work, run_units
from evoray.errors import ConfigError, SelectionError
from evoray.pool.files import open_native
from evoray.report.shown import fields_view, shown
from evoray.storage import Storage, UnitStore

SCORES = "scores.parquet"

#: Of one unit; the merged table has a column `rank` beside these.
SCORE_SCHEMA = pa.schema(
    [("id", pa.string()), ("potential", pa.float64()), ("similarity", pa.float64()), ("nearest", pa.string())]
)


@shown(fields_view)
@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of unseen candidates."""

    path: str  # of scores.parquet
    rows: int
    quarantined: int


@dataclass(frozen=True, kw_only=True)
class NewPool:
    """Candidates whose features are not computed yet."""

    path: str | tuple[str, ...]
    recipe: Recipe
    reading: PoolConfig  # what is set there goes before what was recorded


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """Candidates, and what they are scored by."""

    potentials: PotentialsFile
    candidates: NewPool | str  # a path: of their features

    @classmethod
    def of(
        cls, potentials: str, pool: str | Sequence[str] | None, features_path: str | None, reading: PoolConfig
    ) -> Unseen:
        """Look at the potentials. Raises ConfigError where they are none, or the candidates cannot be featurised."""
        found = PotentialsFile.at(potentials)
        recipe = found.read().recipe
        if features_path is not None:
            return cls(potentials=found, candidates=features_path)
        if pool is None:
            raise ConfigError("no candidates", "a new pool, or features of it", "add --pool or --features")
        path = pool if isinstance(pool, str) else tuple(pool)
        return cls(potentials=found, candidates=NewPool(path=path, recipe=_applicable(recipe), reading=reading))


def score_unseen(unseen: Unseen, site: Site) -> Scored:
    """Write `scores.parquet`, lowest potential first. Resumable: units that are computed are kept.

    Raises PoolError and ModelError for a pool that cannot be featurised, SelectionError where features cannot be used
    or have another dimension than the target's.
    """
    source: StoredTiles | ParquetTiles
    if isinstance(unseen.candidates, str):
        source, quarantined = open_features(unseen.candidates), 0
    else:
        source, quarantined = _featurise(unseen.candidates, site)
    identity = fingerprint(potentials=unseen.potentials.sha256, source=in_task(_content, source))
    store = UnitStore(site.storage, f"potentials/{identity}")
    units = tuple(range(source.count()))
    job = ExtendJob(source=source, potentials=unseen.potentials)
    quarantine = f"quarantine/potentials-{identity}"
    work = Work(stage="extend", units=units, factory=job, store=store, quarantine=quarantine)
    with site.events.stage("score candidates", len(units)) as stage:
        run_units([work], site.session, stage)
    rows = in_task(_merge, store, units, site.storage)
    return Scored(path=site.storage.location(SCORES), rows=rows, quarantined=quarantined)


@dataclass(frozen=True, kw_only=True)
class ExtendJob:
    """Potentials of the rows of every tile."""

    source: StoredTiles | ParquetTiles
    potentials: PotentialsFile

    def __call__(self) -> UnitWorker:
        return _Extender(self)


class _Extender(UnitWorker):
    def __init__(self, job: ExtendJob) -> None:
        self.source = job.source
        self.solved = job.potentials.read()

    def compute(self, unit: int) -> UnitResult:
        import torch

        from evoray.alignment.kernels import similarity
        from evoray.alignment.potentials import extend

        table, solved = self.source.read(unit), self.solved
        if not table.num_rows:
            return UnitResult(table=SCORE_SCHEMA.empty_table(), facts={})
        features = matrix_of(table)
        if features.shape[1] != solved.target_MD.shape[1]:
            raise SelectionError(
                f"features of {features.shape[1]} dimensions, potentials over features of {solved.target_MD.shape[1]}",
                "features of one proxy and one dim for both",
                "compute them with the model, adapter, seed and features.dim of the selection",
            )
        features_ND, target_MD = torch.from_numpy(features).double(), torch.from_numpy(solved.target_MD).double()
        similarity_NM = similarity(features_ND, target_MD).numpy()
        columns = [
            table["id"].combine_chunks(),
            pa.array(extend(features_ND, target_MD, solved.weights_M, solved.g_M, solved.eps)),
            pa.array(similarity_NM.max(axis=1)),
            pa.array([solved.ids[index] for index in similarity_NM.argmax(axis=1)], pa.string()),
        ]
        return UnitResult(table=pa.Table.from_arrays(columns, schema=SCORE_SCHEMA), facts={})


def _applicable(recipe: Recipe | None) -> Recipe:
    """The recipe of features that a pool has on its own. Raises ConfigError where there is none."""
    if recipe is None:
        raise ConfigError(
            "potentials over features that were made elsewhere, and no --features",
            "features of the candidates, made in the same way",
            "add --features",
        )
    if recipe.config.centred:
        raise ConfigError(
            "potentials over centred features (features.centred), and no --features",
            "features of the candidates without the mean of the pool that was selected from",
            "centre them in the same way and add --features, or select again with features.centred: false",
        )
    return recipe


def _featurise(pool: NewPool, site: Site) -> tuple[StoredTiles, int]:
    """Tiles of the pool's features as the recipe has them, and the number of rows set aside."""
    recipe = pool.recipe
    proxy = recipe.proxy(site.events)
    reading = PoolConfig(**{"max_chars": recipe.max_chars, **pool.reading.model_dump(exclude_unset=True)})
    read = read_pool(pool.path, reading, site)
    found = featurise({POOL: read.source}, proxy, recipe.config, recipe.seed, site)[POOL]
    lost = sum(int(commit.facts["quarantined"]) for commit in found.store.commits().values())
    return StoredTiles(store=found.store, units=found.units), read.quarantined + lost


def _content(source: StoredTiles | ParquetTiles) -> list[str]:
    """Hashes of what the tiles are read from, in their order."""
    if isinstance(source, StoredTiles):
        return [source.store.find(unit).sha256 for unit in source.units]
    with open_native(source.path) as stream:
        return [hashlib.file_digest(stream, "sha256").hexdigest()]


def _merge(store: UnitStore, units: Sequence[int], storage: Storage) -> int:
    table = pa.concat_tables(store.tables(units))
    table = table.sort_by([("potential", "ascending"), ("id", "ascending")])
    rows: int = table.num_rows
    storage.write_table(SCORES, table.append_column("rank", pa.array(range(rows), pa.int64())))
    return rows
