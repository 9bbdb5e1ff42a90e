"""What a run will cost: a rehearsal of it on a few of its rows, and what that says of all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from evoray.config import RunConfig
from evoray.engine.events import Display, Silent, logged
from evoray.engine.extrapolation import Growth, Rehearsed, by_kind, selection_peak_mb, selection_seconds
from evoray.engine.lock import run_lock
from evoray.engine.rehearsal import RUN, Drawn, Rehearsal, draw, picks_of, rehearsed_config
from evoray.engine.rundir import PLAN, REHEARSAL, identity_of
from evoray.engine.selectors import is_featured, with_representation
from evoray.engine.session import Session, session
from evoray.engine.shard_actors import shard_count
from evoray.engine.shards import units_per_tile
from evoray.engine.trackers import untracked
from evoray.errors import ConfigError
from evoray.pipeline import run
from evoray.report.costs import KINDS, Forecast, MachinePrice, StageCost
from evoray.report.shown import shown
from evoray.report.views import plan_view
from evoray.storage import Storage

shown(plan_view)(Forecast)

#: Where what a kind of stage leaves lies in a run directory; of rounds, beside what was chosen.
_KEPT = {
    "read": ("pool",),
    "warm up": ("warmup",),
    "featurise": ("features", "known"),
    "evaluate": ("scores",),
    "train": ("rounds", "best"),
}


def plan(config: RunConfig, *, rows: int = 256, display: Display | None = None) -> Forecast:
    """Predict time, storage, memory and price of a run, from a rehearsal on `rows` rows of its pool.

    The plan is kept in the run directory, whose report then sets it beside what the run took. The rehearsal runs where
    the run will: on the cluster of the config, with as many workers. Of test rows it takes the number alone. Raises
    ConfigError for a config that it cannot predict, LockError while another process works in the run directory, and
    what `run` raises.
    """
    pool = _checked_pool(config)
    config = config.model_copy(update={"features": with_representation(config.features, config.selection)})
    display = display or Silent()
    storage = Storage(config.out)
    started = time.monotonic()
    with run_lock(storage):
        storage.clear(REHEARSAL)  # of a call that was killed
        place = storage.child(REHEARSAL)
        display.note(f"rehearsing on {rows} rows of the pool in {place.uri}")
        try:
            with session(config.cluster) as workers, untracked():
                drawn = draw(config, pool, rows, place)
                rehearsal, k = _rehearse(config, drawn, place, workers, display)
                found = _forecast(config, rehearsal, workers, k, started)
        finally:  # of Ray: nobody writes there any more
            storage.clear(REHEARSAL)
        storage.write_json(PLAN, found.to_json(), sort_keys=False)
    return found


def _checked_pool(config: RunConfig) -> str | Sequence[str]:
    """The pool. Raises ConfigError for what a rehearsal on a few of its rows says nothing of."""
    unknown = {"generation": config.generation is not None, "features.cascade": config.features.cascade is not None}
    found = [name for name, applies in unknown.items() if applies]
    if found or config.pool is None:
        raise ConfigError(
            f"a config with {found[0] if found else 'no pool'}",
            "a pool whose rows all go through the same stages",
            "plan it without, and add what you know of the rest",
        )
    return config.pool


def _rehearse(
    config: RunConfig, drawn: Drawn, place: Storage, workers: Session, display: Display
) -> tuple[Rehearsal, int]:
    """Run the rehearsal; and how many rows a round of the run will choose."""
    small = rehearsed_config(config, drawn, place, workers.workers)
    rehearsal = Rehearsal(config=small, storage=place.child(RUN), drawn=drawn)
    rehearsal.check(config, display)
    run(small, display=display)
    rows, _ = rehearsal.rows("pool")
    return rehearsal, picks_of(config, rows, rehearsal.mean_tokens())


def _forecast(config: RunConfig, rehearsal: Rehearsal, workers: Session, k: int, started: float) -> Forecast:
    stages = [Rehearsed.of(event) for event in logged(rehearsal.storage) if event["event"] == "stage"]
    growth = _growth(config, rehearsal, workers, k)
    costs = by_kind(stages, growth)
    costs["select"] = _selection(config, rehearsal, workers, k, stages)
    rows, drawn = rehearsal.rows("pool")
    kept = _kept(config, rehearsal, growth)
    through = {"read": rehearsal.drawn.pool_rows, "featurise": rows, "select": rows, "train": k * config.rounds}
    costs_of = [
        StageCost(
            kind=kind, seconds=costs[kind][0], rows=through.get(kind), bytes=kept.get(kind), peak_mb=costs[kind][1]
        )
        for kind in KINDS
        if kind in costs
    ]
    total = sum(one.seconds for one in costs_of)
    return Forecast(
        config=identity_of(config.model_dump(by_alias=True, mode="json")),
        workers=workers.workers,
        pool_rows=rehearsal.drawn.pool_rows,
        rehearsed_rows=drawn,
        rehearsal_seconds=time.monotonic() - started,
        stages=tuple(costs_of),
        prices=tuple(_prices(config, max(workers.workers, config.training.workers), total)),
    )


def _growth(config: RunConfig, rehearsal: Rehearsal, workers: Session, k: int) -> Growth:
    rows, drawn = rehearsal.rows("pool")
    files, small = rehearsal.drawn, rehearsal.config
    arms = 2 if config.evaluation.control and is_featured(config.selection) else 1
    asked = config.features.warmup.rows
    return Growth(
        read=files.pool_rows / files.drawn_rows,
        warm_up=min(asked, rows) / min(asked, drawn),
        featurise=rehearsal.tokens(),
        train=k / picks_of(small, drawn, rehearsal.mean_tokens()),
        evaluate={split: all_rows / some for split, (all_rows, some) in files.splits.items()},
        tested=(1 + arms * config.rounds) / (1 + arms * small.rounds),
        rounds=config.rounds,
        workers=workers.workers,
        files=files.unit_seconds * files.units / min(workers.workers, files.units),
        unit=small.reading.unit_rows / config.reading.unit_rows,
        cumulative=config.training.start_from == "base",
    )


def _selection(
    config: RunConfig, rehearsal: Rehearsal, workers: Session, k: int, stages: Sequence[Rehearsed]
) -> tuple[float, float | None]:
    """(seconds, peak MB of a shard) of the selections of all rounds."""
    rows, _ = rehearsal.rows("pool")
    units = math.ceil(rows / config.reading.unit_rows)
    tile_rows = config.reading.unit_rows * units_per_tile(units)
    shards = min(shard_count(config.selection.shards, workers), math.ceil(rows / tile_rows))
    each = math.ceil(rows / shards)
    probes = rehearsal.probes(workers, shards, each, tile_rows, k)
    if not probes:  # without features: as in the rehearsal
        took = [stage.seconds for stage in stages if stage.name.startswith("align")]
        return config.rounds * sum(took) / max(1, len(took)), None
    return config.rounds * selection_seconds(probes, each, k), selection_peak_mb(probes, each, k)


def _kept(config: RunConfig, rehearsal: Rehearsal, growth: Growth) -> dict[str, int]:
    """Bytes that each kind of stage leaves in storage."""
    rounds = config.rounds / rehearsal.config.rounds
    rows, drawn = (sum(sizes) for sizes in zip(*(rehearsal.rows(name) for name in rehearsal.sources), strict=True))
    sizes = {prefix: rehearsal.storage.size(prefix) for kind in _KEPT.values() for prefix in kind}
    tables = rehearsal.storage.size("rounds", ".parquet")  # of the rows that were chosen; the rest are adapters
    follows = rounds if config.features.refresh == "each_round" else 1.0
    found = {
        "pool": sizes["pool"] * growth.read,
        "features": sizes["features"] * rows / drawn * follows,
        "known": sizes["known"] * rows / drawn * follows,
        "scores": sizes["scores"] * growth.evaluate.get("test", growth.evaluate["validate"]) * growth.tested,
        "rounds": (tables * growth.train + sizes["rounds"] - tables) * rounds,
    }
    return {kind: round(sum(found.get(prefix, sizes[prefix]) for prefix in kept)) for kind, kept in _KEPT.items()}


def _prices(config: RunConfig, workers: int, seconds: float) -> list[MachinePrice]:
    found = []
    for name, machine in config.machines.items():
        number = -(-workers // machine.workers)
        hours = number * seconds / 3600
        least, most = machine.hour
        found.append(MachinePrice(name=name, machines=number, hours=hours, least=hours * least, most=hours * most))
    return found
