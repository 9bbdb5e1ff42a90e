"""A rehearsal of a run: its config on a few rows of its pool and target, and its selection at several sizes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa

from evoray.budget import Budget
from evoray.config import RunConfig, SelectionConfig
from evoray.engine.choose import check_picks, choose_from, open_shards
from evoray.engine.events import Display
from evoray.engine.extrapolation import Probe
from evoray.engine.remote import in_task
from evoray.engine.rundir import Rounds
from evoray.engine.session import Session
from evoray.engine.shards import TileSource
from evoray.engine.stored import POOL, Features, read_features
from evoray.errors import SelectionError
from evoray.models.memory import peak_mb
from evoray.pool import Split, find_target, normalise, plan_units, read_span, read_target_split, rows_from_table
from evoray.records import Row
from evoray.selection.selector import Goal, Request
from evoray.storage import Storage

#: Rows that are drawn from one unit of the run at least: more files and places are seen with fewer.
_TOGETHER = 16
#: Rows of each split of the target at most: the cost of a row is known after as many.
_TARGET_ROWS = 48
#: Steps of each training at least: the first ones are slow.
_STEPS = 12
#: Units of each worker at least: with fewer, some wait for others at the end.
_UNITS = 2
_CHARACTERS = 4  # of a token, about
_ROUNDS = 2  # later rounds are as the second
#: Rows of each shard, and picks, that the selection is measured at; with noise of this size beside real features.
_ROWS, _PICKS = (512, 2048), (16, 128)
_NOISE = 0.3

_POOL, _TARGET, RUN = "pool.jsonl", "target", "run"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What was drawn for a rehearsal, and of how many."""

    pool_rows: int
    drawn_rows: int  # usable ones
    read_rows: float  # of which they are the usable ones
    units: int  # of the pool, as the run reads it
    unit_seconds: float  # for reading one of them out of the pool's own files, in the mean
    characters: float  # of a usable row, in the mean
    splits: dict[str, tuple[int, int]]  # (rows, rows drawn) of each split of the target


def draw(config: RunConfig, pool: str | Sequence[str], rows: int, storage: Storage) -> Drawn:
    """Write some rows of a run's pool and target below a storage. Raises PoolError and TargetError."""
    return in_task(draw_here, config, pool, rows, storage)


def draw_here(config: RunConfig, pool: str | Sequence[str], rows: int, storage: Storage) -> Drawn:
    """As `draw`, in this process."""
    spans = plan_units(pool, config.reading.unit_rows)
    each = max(_TOGETHER, -(-rows // len(spans)))
    rng = np.random.default_rng(config.seed)
    found: list[Row] = []
    read, seconds, units = 0.0, 0.0, 0
    for place in rng.permutation(len(spans)):
        if len(found) >= rows:
            break
        started = time.monotonic()
        raw, broken = read_span(spans[place])
        seconds, units = seconds + time.monotonic() - started, units + 1
        chosen = raw.take(np.sort(rng.permutation(raw.num_rows)[:each]))
        found += rows_from_table(normalise(chosen, spans[place], config.reading.max_chars)[0])
        read += chosen.num_rows + len(broken) * (chosen.num_rows / raw.num_rows if raw.num_rows else 1)
    storage.write(_POOL, _lines(found))
    return Drawn(
        pool_rows=sum(span.rows for span in spans),
        drawn_rows=len(found),
        read_rows=read,
        units=len(spans),
        unit_seconds=seconds / max(1, units),
        characters=sum(len(message.content) for row in found for message in row.messages) / max(1, len(found)),
        splits={split: _draw_split(config, split, storage) for split in _splits_of(config.target)},
    )


def _splits_of(target: str) -> tuple[Split, ...]:
    return ("align", "validate", "test") if find_target(target).test else ("align", "validate")


def _draw_split(config: RunConfig, split: Split, storage: Storage) -> tuple[int, int]:
    """(rows, rows drawn). Test rows are counted alone: rows of validate stand for them, as others, so that they are
    scored too.
    """
    rows, _ = read_target_split(config.target, split, config.seed)
    shown = rows
    if split == "test":
        stand_ins, _ = read_target_split(config.target, "validate", config.seed)
        shown = [replace(row, id=f"test:{row.id}") for row in stand_ins]
    chosen = sorted(np.random.default_rng(config.seed).permutation(len(shown))[:_TARGET_ROWS].tolist())
    storage.write(f"{_TARGET}/{split}.jsonl", _lines(shown[place] for place in chosen))
    return len(rows), len(chosen)


def _lines(rows: Iterable[Row]) -> bytes:
    """JSON lines that are read as the same rows again."""
    lines = ({name: value for name, value in asdict(row).items() if value is not None} for row in rows)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def rehearsed_config(config: RunConfig, drawn: Drawn, storage: Storage, workers: int) -> RunConfig:
    """The config of the rehearsal: as the run's but for its size, and for where it lies.

    A round trains on as many rows as the run's, where they are not many, and else for some steps. What ends a run by
    what it learnt is left out: a rehearsal learns little. (`training.early_stop` stays, for the cost of its looks.)
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
        "training": config.training.model_copy(update={"on_harm": "flag"}),
    }
    if config.selection.selector != "all":
        smaller: dict[str, Any] = {"k": _smaller_budget(config, drawn, rounds), "shares": {}, "max_share": None}
        update["selection"] = config.selection.model_copy(update=smaller)
    return config.model_copy(update=update)


def _smaller_budget(config: RunConfig, drawn: Drawn, rounds: int) -> int | str:
    """For a round: half of the rows that were drawn are left to choose from in the last one."""
    enough = -(-_STEPS * config.training.batch_size // config.training.epochs)
    budget = Budget.of(config.selection.k)
    rows = max(1, min(budget.rows or enough, enough, drawn.drawn_rows // (2 * rounds)))
    if budget.tokens is None:
        return rows
    return f"{max(1, min(budget.tokens, round(rows * drawn.characters / _CHARACTERS)))}tok"


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A rehearsal that is done."""

    config: RunConfig  # its own
    storage: Storage  # of its run
    drawn: Drawn

    def check(self, config: RunConfig, display: Display) -> None:
        """Raise SelectionError where the run asks for more rows than its pool has; of a part of it, it is only said."""
        if config.selection.selector == "all":
            return
        try:
            check_picks(config.selection.k, config.rounds, self.rows(POOL)[0])
        except SelectionError as error:
            if self.drawn.read_rows >= self.drawn.pool_rows:
                raise
            display.note(f"by the rows that were drawn, a run may be refused: {error.received}")

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

    @property
    def sources(self) -> tuple[str, ...]:
        """What features are of: the pool, and what the selection looks at of the target."""
        return (POOL, "align", "validate")

    def rows(self, name: str) -> tuple[int, int]:
        """(rows, rows drawn) of the pool or of a split."""
        if name != POOL:
            return self.drawn.splits[name]
        return round(self.drawn.pool_rows * self.drawn.drawn_rows / self.drawn.read_rows), self.drawn.drawn_rows

    def probes(self, session: Session, shards: int, rows: int, tile_rows: int, k: int) -> list[Probe]:
        """Selections of a growing number of rows and picks by so many shards; none without features.

        Their features are those of the rehearsal, repeated with noise. rows (of a shard), tile_rows, k: of the run.
        """
        features = self._features()
        if not features:
            return []
        _, pool_ND = read_features(features[POOL])
        goal = self._goal(features)
        found = []
        for each, picks in sorted(product({min(rows, each) for each in _ROWS}, {min(k, picks) for picks in _PICKS})):
            tiles = RepeatedTiles(rows_ND=pool_ND, rows=each * shards, tile_rows=min(each, tile_rows))
            config = self.config.selection.model_copy(update={"k": min(picks, tiles.rows), "shards": shards})
            found.append(self._probe(session, tiles, goal, config, each))
        return found

    def _probe(self, session: Session, tiles: TileSource, goal: Goal, config: SelectionConfig, rows: int) -> Probe:
        request = Request(k=1, rows=1, seed=self.config.seed, goal=goal, looped=self.config.rounds > 1)
        started = time.monotonic()
        with open_shards(tiles, config, session) as shards:
            choice = choose_from(shards, config, request)
            seconds = time.monotonic() - started
            peaks: Sequence[float] = shards.call("ask", _peak)
        return Probe(rows=rows, k=len(choice.picks), seconds=seconds, peak_mb=max(peaks))

    def _goal(self, features: dict[str, Features]) -> Goal:
        """As many target rows as the run has."""
        align_MD, validate_MD = (
            _repeated(read_features(features[split])[1], 0, self.drawn.splits[split][0])
            for split in ("align", "validate")
        )
        return Goal(align_MD=align_MD, validate_MD=validate_MD)

    def _features(self) -> dict[str, Features]:
        key = f"{Rounds.prefix(1)}/featurised.json"
        if not self.storage.exists(key):
            return {}
        record = self.storage.read_json(key)
        return {name: Features.of(self.storage, record[name]) for name in self.sources}


def _tokens_of(features: Features) -> int:
    return sum(int(commit.facts["tokens"]) for commit in features.store.commits().values())


def picks_of(config: RunConfig, rows: int, mean_tokens: float | None) -> int:
    """Rows that a round of the run chooses."""
    return rows if config.selection.selector == "all" else Budget.of(config.selection.k).k(rows, mean_tokens)


@dataclass(frozen=True, kw_only=True)
class RepeatedTiles:
    """Tiles of any number of rows out of few: those given, again and again, each time with other noise."""

    rows_ND: np.ndarray[Any, Any]
    rows: int
    tile_rows: int

    def count(self) -> int:
        """Tiles in all."""
        return -(-self.rows // self.tile_rows)

    def identity(self) -> str:
        """What the tiles hold, in words."""
        return f"{self.rows} rows out of {len(self.rows_ND)}"

    def read(self, tile: int, extra: Sequence[str] = ()) -> pa.Table:
        """One tile, with all that a selector may ask for."""
        first = tile * self.tile_rows
        count = min(self.tile_rows, self.rows - first)
        features_ND = _repeated(self.rows_ND, first, count)
        known = {
            "tokens": np.full(count, 64),
            "norm": np.ones(count),
            "source": [""] * count,
            "quality": np.linspace(0, 1, count),
        }
        ids = [str(first + place) for place in range(count)]
        feature = pa.FixedSizeListArray.from_arrays(pa.array(features_ND.ravel()), features_ND.shape[1])
        return pa.table({"id": ids, "feature": feature, **{name: known[name] for name in extra}})


def _repeated(rows_ND: np.ndarray[Any, Any], first: int, count: int) -> np.ndarray[Any, Any]:
    """Unit rows from the first on: those given as they are, and after them with noise."""
    places = np.arange(first, first + count)
    found_ND = rows_ND[places % len(rows_ND)].astype(np.float32)
    noise_ND = np.random.default_rng(first).standard_normal(found_ND.shape, dtype=np.float32)
    found_ND += np.where(places < len(rows_ND), 0, _NOISE / np.sqrt(found_ND.shape[1]))[:, None] * noise_ND
    scaled_ND: np.ndarray[Any, Any] = found_ND / np.linalg.norm(found_ND, axis=1, keepdims=True)
    return scaled_ND.astype(np.float32)


def _peak(_shard: Any) -> float:
    return peak_mb()
