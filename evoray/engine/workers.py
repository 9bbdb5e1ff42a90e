"""The unit workers: what each actor of a streamed stage does with one unit.

Each worker is built inside its actor from the picklable description that `*Job` records hold, so that models
are loaded once an actor and nothing but unit numbers travels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from evoray.config import EvaluationConfig, FeatureConfig
from evoray.engine.reuse import Known
from evoray.engine.units import UnitResult, UnitWorker
from evoray.pool import Split, drop_rows, load_rows, normalise, read_span, read_target_split, rows_from_table
from evoray.pool.parquet import ParquetReader
from evoray.records import FLAG_NORM_OUTLIER, FLAG_TRUNCATED, Row, UnitSpan
from evoray.storage import UnitStore

if TYPE_CHECKING:
    from evoray.evaluation.scoring import Scoring
    from evoray.features.representations import Featuriser
    from evoray.models.folder import Folder

DUPLICATES = "duplicates.parquet"
#: Batches of a careful worker are so many times smaller.
_SMALLER = 4

_Batched = TypeVar("_Batched", FeatureConfig, EvaluationConfig)


def _with_smaller_batches(config: _Batched) -> _Batched:
    return config.model_copy(update={"batch_tokens": max(1, config.pass_tokens // _SMALLER)})


@dataclass(frozen=True, kw_only=True)
class ReadJob:
    """Read and normalise the spans of a pool."""

    spans: tuple[UnitSpan, ...]
    max_chars: int

    def __call__(self) -> UnitWorker:
        return _Reader(self)


class _Reader(UnitWorker):
    def __init__(self, job: ReadJob) -> None:
        self.job, self.parquet = job, ParquetReader()

    def compute(self, unit: int) -> UnitResult:
        span = self.job.spans[unit]
        raw, broken = read_span(span, self.parquet)
        table, refused = normalise(raw, span, self.job.max_chars)
        quarantined = [*broken, *refused]
        facts = {"read": table.num_rows + len(quarantined), "quarantined": len(quarantined)}
        return UnitResult(table=table, facts=facts, quarantined=quarantined)


@dataclass(frozen=True, kw_only=True)
class PoolRows:
    """Rows of a pool unit, without the duplicates that were found."""

    store: UnitStore

    def read(self, unit: int) -> list[Row]:
        """The usable rows of one unit, in order."""
        return rows_from_table(self.table(unit))

    def table(self, unit: int) -> pa.Table:
        """The usable rows of one unit with all their columns."""
        return self._usable(unit, self.store.read(self.store.find(unit)))

    def tables(self, units: Sequence[int]) -> Iterator[pa.Table]:
        """As `table`, of one unit after the other; several are read at a time."""
        for unit, table in zip(units, self.store.tables(units), strict=True):
            yield self._usable(unit, table)

    def _usable(self, unit: int, table: pa.Table) -> pa.Table:
        return drop_rows(table, self._duplicates.get(unit, []))

    @property
    def _duplicates(self) -> dict[int, list[int]]:
        found = self.__dict__.get("_cached")
        if found is None:
            key = f"{self.store.prefix}/{DUPLICATES}"
            found = {}
            rows = self.store.storage.read_table(key, ["unit", "row"])
            for unit, row in zip(rows["unit"].to_pylist(), rows["row"].to_pylist(), strict=True):
                found.setdefault(unit, []).append(row)
            object.__setattr__(self, "_cached", found)
        return found


@dataclass(frozen=True, kw_only=True)
class KeptRows:
    """Some of the usable rows of a pool, in the pool's own units."""

    rows: PoolRows
    key: str  # of a table with the column `id`, in the storage of the pool

    def read(self, unit: int) -> list[Row]:
        """The rows of one unit that were kept, in their order."""
        return [row for row in self.rows.read(unit) if row.id in self._ids]

    @cached_property
    def _ids(self) -> set[str]:
        return set(self.rows.store.storage.read_table(self.key, ["id"])["id"].to_pylist())


@dataclass(frozen=True, kw_only=True)
class FileRows:
    """Rows of a small file, in units of `unit_rows`."""

    path: str
    unit_rows: int
    max_chars: int

    def read(self, unit: int) -> list[Row]:
        """The rows of one unit, in the order of the file."""
        return self._rows[unit * self.unit_rows : (unit + 1) * self.unit_rows]

    @cached_property
    def _rows(self) -> list[Row]:
        return load_rows(self.path, self.max_chars)[0]


@dataclass(frozen=True, kw_only=True)
class TargetRows:
    """Rows of one split of a target, in units of `unit_rows`."""

    path: str
    split: Split
    seed: int
    unit_rows: int
    list_options: bool = False
    _cache: list[Row] = field(default_factory=list, compare=False, repr=False)

    def read(self, unit: int) -> list[Row]:
        """The rows of one unit, in the order of the file."""
        if not self._cache:
            rows, _ = read_target_split(self.path, self.split, self.seed)
            self._cache.extend(rows)
        rows = self._cache[unit * self.unit_rows : (unit + 1) * self.unit_rows]
        if self.list_options:
            from evoray.models.chat import list_options

            return [list_options(row) for row in rows]
        return rows


@dataclass(frozen=True, kw_only=True)
class FeatureJob:
    """Features of the rows of a source."""

    source: PoolRows | KeptRows | TargetRows
    model: str
    adapters: tuple[Folder, ...]
    weights: tuple[float, ...]
    config: FeatureConfig
    seed: int
    candidates: bool  # rows of the pool, not of the target
    known: Known

    def __call__(self) -> UnitWorker:
        return _Featuriser(self)

    def careful(self) -> FeatureJob:
        """The same with smaller batches."""
        return replace(self, config=_with_smaller_batches(self.config))


class _Featuriser(UnitWorker):
    def __init__(self, job: FeatureJob) -> None:
        self.job = job

    @cached_property
    def _features_of(self) -> Featuriser:
        """Loads models: not before a unit needs them."""
        from evoray.features.representations import open_featuriser

        job = self.job
        adapters = [adapter.fetch() for adapter in job.adapters]
        return open_featuriser(job.config, job.model, adapters, job.weights, job.seed, candidates=job.candidates)

    def compute(self, unit: int) -> UnitResult:
        rows = self.job.source.read(unit)
        known = self.job.known.find(rows, unit)
        if known is not None:
            return known
        started = time.monotonic()
        features_of = self._features_of
        loaded = time.monotonic() - started
        result = features_of(rows)
        flags = result.table["flags"].to_numpy()
        tokens = int(sum(result.table["tokens"].to_pylist()))
        facts = {
            "quarantined": len(result.quarantined),
            "truncated": int((flags & FLAG_TRUNCATED != 0).sum()),
            "norm_outliers": int((flags & FLAG_NORM_OUTLIER != 0).sum()),
            "tokens": tokens,
            "halvings": result.halvings,
        }
        flops = tokens * features_of.extractor.flops_per_token
        return UnitResult(
            table=result.table, facts=facts, quarantined=result.quarantined, flops=flops, load_seconds=loaded
        )


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """Loss and verdict of every row of a target split under one model."""

    source: PoolRows | KeptRows | TargetRows
    model: str
    adapter: Folder | None
    scoring: Scoring
    max_tokens: int

    def __call__(self) -> UnitWorker:
        return _Scorer(self)

    def careful(self) -> ScoreJob:
        """The same with smaller batches."""
        return replace(self, scoring=replace(self.scoring, config=_with_smaller_batches(self.scoring.config)))


class _Scorer(UnitWorker):
    def __init__(self, job: ScoreJob) -> None:
        from evoray.models.loading import autocast_dtype, load_for_inference, load_tokenizer

        folder = None if job.adapter is None else job.adapter.fetch()
        self.job = job
        model = load_for_inference(job.model, folder, autocast_dtype(job.scoring.config.precision), merge=True)
        self.score = job.scoring.open(model, load_tokenizer(job.model), job.max_tokens)

    def compute(self, unit: int) -> UnitResult:
        scores = self.score(self.job.source.read(unit))
        table = pa.table(
            {
                "id": pa.array([score.id for score in scores], pa.string()),
                "loss": pa.array([score.loss for score in scores], pa.float64()),
                "correct": pa.array([score.correct for score in scores], pa.float64()),
                "choice_scores": pa.array([score.choice_scores for score in scores], pa.list_(pa.float64())),
                "response": pa.array([score.response for score in scores], pa.string()),
            }
        )
        return UnitResult(table=table, facts={})
