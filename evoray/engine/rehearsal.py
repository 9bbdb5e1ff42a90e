"""A rehearsal of a run: its config on a few rows of its pool and target, and its selection at several sizes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from evoray.budget import Budget
from evoray.config import RunConfig
from evoray.engine.choose import choose_from, open_shards
from evoray.engine.remote import in_task
from evoray.engine.rundir import Rounds
from evoray.engine.session import Session
from evoray.engine.shards import ParquetTiles
from evoray.engine.stored import POOL, Features, read_features
from evoray.models.memory import peak_mb
from evoray.pool import Split, find_target, normalise, plan_units, read_span, read_target_split, rows_from_table
from evoray.records import Row
from evoray.selection.selector import Goal, Request
from evoray.storage import Storage

#: Rows that are read in one go: more files and places are seen with fewer.
_TOGETHER = 16
#: Rows of each split of the target at most: the cost of a row is known after as many.
_TARGET_ROWS = 48
#: Steps of each training at least: the first ones are slow.
_STEPS = 12
#: Units of each worker: with fewer, some wait for others at the end.
_UNITS = 8
_ROUNDS = 2  # later rounds are as the second
#: Rows that the selection is measured at, with noise of this size beside features of the rehearsal.
_SIZES = (2048, 8192)
_NOISE = 0.3

_POOL, _TARGET, RUN = "pool.jsonl", "target", "run"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What was drawn for a rehearsal, and of how many."""

    pool_rows: int
    drawn_rows: int  # usable ones
    read_rows: int  # of which they are the usable ones
    splits: dict[str, tuple[int, int]]  # (rows, rows drawn) of each split of the target


def draw(config: RunConfig, pool: str | Sequence[str], rows: int, storage: Storage) -> Drawn:
    """Write some rows of a run's pool and target below a storage. Raises PoolError and TargetError."""
    return in_task(_draw, config, pool, rows, storage)


def _draw(config: RunConfig, pool: str | Sequence[str], rows: int, storage: Storage) -> Drawn:
    spans = plan_units(pool, _TOGETHER)
    order = np.random.default_rng(config.seed).permutation(len(spans))
    found: list[Row] = []
    read = 0
    for place in order:
        if len(found) >= rows:
            break
        raw, broken = read_span(spans[place])
        table, _ = normalise(raw, spans[place], config.reading.max_chars)
        read += raw.num_rows + len(broken)
        found += rows_from_table(table)
    storage.write(_POOL, _lines(found))
    return Drawn(
        pool_rows=sum(span.rows for span in spans),
        drawn_rows=len(found),
        read_rows=read,
        splits={split: _draw_split(config, split, storage) for split in _splits_of(config.target)},
    )


def _splits_of(target: str) -> tuple[Split, ...]:
    return ("align", "validate", "test") if find_target(target).test else ("align", "validate")


def _draw_split(config: RunConfig, split: Split, storage: Storage) -> tuple[int, int]:
    rows, _ = read_target_split(config.target, split, config.seed)
    chosen = sorted(np.random.default_rng(config.seed).permutation(len(rows))[:_TARGET_ROWS].tolist())
    storage.write(f"{_TARGET}/{split}.jsonl", _lines(rows[place] for place in chosen))
    return len(rows), len(chosen)


def _lines(rows: Iterable[Row]) -> bytes:
    """JSON lines that are read as the same rows again."""
    lines = ({name: value for name, value in asdict(row).items() if value is not None} for row in rows)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def rehearsed_config(config: RunConfig, drawn: Drawn, storage: Storage, workers: int) -> RunConfig:
    """The config of the rehearsal: as the run's but for its size, and for where it lies.

    A round trains on as many rows as the run's, where they are not many, and else for some steps.
    """
    rounds = min(config.rounds, _ROUNDS)
    unit_rows = max(4, min(config.reading.unit_rows, drawn.drawn_rows // (_UNITS * workers)))
    update: dict[str, Any] = {
        "pool": storage.location(_POOL),
        "target": storage.location(_TARGET),
        "out": storage.location(RUN),
        "store": None,
        "labels": None,
        "rounds": rounds,
        "patience": None,
        "reading": config.reading.model_copy(update={"unit_rows": unit_rows, "max_quarantined": 1.0}),
    }
    if config.selection.selector != "all":
        enough = -(-_STEPS * config.training.batch_size // config.training.epochs)
        asked = Budget.of(config.selection.k).rows or enough
        k = max(1, min(asked, enough, drawn.drawn_rows // (2 * rounds)))
        update["selection"] = config.selection.model_copy(update={"k": k})
    return config.model_copy(update=update)


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A rehearsal that is done."""

    config: RunConfig  # its own
    storage: Storage  # of its run
    drawn: Drawn

    def tokens(self) -> float:
        """How many times more tokens features of the whole pool and target are of; 1 where there are none."""
        whole, part = 0.0, 0
        for name, features in self._features().items():
            tokens = _tokens_of(features)
            rows, drawn = self.rows(name)
            whole, part = whole + tokens * rows / drawn, part + tokens
        return whole / part if part else 1.0

    def mean_tokens(self) -> float | None:
        """Of a row of the pool; None without features."""
        features = self._features()
        return _tokens_of(features[POOL]) / features[POOL].rows if features else None

    def rows(self, name: str) -> tuple[int, int]:
        """(rows, rows drawn) of the pool or of a split."""
        if name != POOL:
            return self.drawn.splits[name]
        return round(self.drawn.pool_rows * self.drawn.drawn_rows / self.drawn.read_rows), self.drawn.drawn_rows

    def selections(self, session: Session, rows: int, k: int) -> list[tuple[int, float, float]]:
        """(rows, seconds, peak MB of a shard) of selections of a growing number of rows; none without features.

        Their features are those of the rehearsal, repeated with noise. k: picks from all `rows` of the run.
        """
        features = self._features()
        if not features:
            return []
        _, pool_ND = read_features(features[POOL])
        goal = self._goal(features)
        sizes = sorted({min(rows, size) for size in _SIZES})
        return [self._select(session, pool_ND, goal, size, max(1, min(k, size // 2))) for size in sizes]

    def _select(
        self, session: Session, pool_ND: np.ndarray[Any, Any], goal: Goal, rows: int, k: int
    ) -> tuple[int, float, float]:
        key = f"selection-{rows}.parquet"
        self.storage.write_table(key, _table(_repeated(pool_ND, rows)))
        source = ParquetTiles.open(self.storage.location(key))
        config = self.config.selection.model_copy(update={"k": k})
        request = Request(k=1, rows=1, seed=self.config.seed, goal=goal, looped=self.config.rounds > 1)
        started = time.monotonic()
        with open_shards(source, config, session) as shards:
            choose_from(shards, config, request)
            seconds = time.monotonic() - started
            peaks: Sequence[float] = shards.call("ask", _peak)
        return rows, seconds, max(peaks)

    def _goal(self, features: dict[str, Features]) -> Goal:
        """As many target rows as the run has."""
        align_MD, validate_MD = (
            _repeated(read_features(features[split])[1], self.drawn.splits[split][0]) for split in ("align", "validate")
        )
        return Goal(align_MD=align_MD, validate_MD=validate_MD)

    def _features(self) -> dict[str, Features]:
        key = f"{Rounds.prefix(1)}/featurised.json"
        if not self.storage.exists(key):
            return {}
        record = self.storage.read_json(key)
        return {name: Features.of(self.storage, record[name]) for name in (POOL, "align", "validate")}


def _tokens_of(features: Features) -> int:
    return sum(int(commit.facts["tokens"]) for commit in features.store.commits().values())


def picks_of(config: RunConfig, rows: int, mean_tokens: float | None) -> int:
    """Rows that a round of the run chooses."""
    return rows if config.selection.selector == "all" else Budget.of(config.selection.k).k(rows, mean_tokens)


def _repeated(rows_ND: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    """So many unit rows: those given, again and again, each time with other noise."""
    rng = np.random.default_rng(0)
    found_ND = rows_ND[np.arange(rows) % len(rows_ND)].astype(np.float32)
    noise_ND = rng.standard_normal(found_ND.shape, dtype=np.float32) * np.float32(_NOISE / np.sqrt(found_ND.shape[1]))
    noise_ND[: len(rows_ND)] = 0
    found_ND += noise_ND
    scaled_ND: np.ndarray[Any, Any] = found_ND / np.linalg.norm(found_ND, axis=1, keepdims=True)
    return scaled_ND


def _table(features_ND: np.ndarray[Any, Any]) -> pa.Table:
    """With all that a selector may ask for."""
    rows, dim = features_ND.shape
    return pa.table(
        {
            "id": pa.array([str(place) for place in range(rows)]),
            "feature": pa.FixedSizeListArray.from_arrays(pa.array(features_ND.ravel()), dim),
            "tokens": pa.array(np.full(rows, 64)),
            "norm": pa.array(np.ones(rows)),
            "source": pa.array([""] * rows),
            "quality": pa.array(np.linspace(0, 1, rows)),
        }
    )


def _peak(_shard: Any) -> float:
    return peak_mb()
