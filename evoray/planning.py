"""What a run will cost: a rehearsal of it on a few of its rows, and what that says of all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from evoray.config import RunConfig
from evoray.engine.events import Display, Silent, logged
from evoray.engine.extrapolation import Growth, Rehearsed, by_kind, on_a_line
from evoray.engine.rehearsal import RUN, Drawn, Rehearsal, draw, picks_of, rehearsed_config
from evoray.engine.rundir import PLAN, identity_of
from evoray.engine.selectors import with_representation
from evoray.engine.session import Session, session
from evoray.errors import ConfigError
from evoray.pipeline import run
from evoray.report.costs import KINDS, Forecast, MachinePrice, StageCost
from evoray.storage import Storage

_REHEARSAL = "rehearsal"  # in the run directory, until the plan is made


def plan(config: RunConfig, *, rows: int = 256, display: Display | None = None) -> Forecast:
    """Predict time, storage, memory and price of a run, from a rehearsal on `rows` rows of its pool.

    The plan is kept in the run directory, whose report then sets it beside what the run took. The rehearsal runs where
    the run will: on the cluster of the config, with as many workers. Raises ConfigError for a config that it cannot
    predict, and what `run` raises.
    """
    pool = _checked_pool(config)
    config = config.model_copy(update={"features": with_representation(config.features, config.selection)})
    display = display or Silent()
    storage = Storage(config.out)
    started = time.monotonic()
    with session(config.cluster) as workers:
        storage.clear(_REHEARSAL)  # of a call that was interrupted
        place = storage.child(_REHEARSAL)
        display.note(f"rehearsing on {rows} rows of the pool in {place.uri}")
        drawn = draw(config, pool, rows, place)
        rehearsal, k = _rehearse(config, drawn, place, workers, display)
        found = _forecast(config, rehearsal, workers, k, time.monotonic() - started)
        storage.clear(_REHEARSAL)
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
    run(small, display=display)
    rehearsal = Rehearsal(config=small, storage=place.child(RUN), drawn=drawn)
    rows, _ = rehearsal.rows("pool")
    return rehearsal, picks_of(config, rows, rehearsal.mean_tokens())


def _forecast(config: RunConfig, rehearsal: Rehearsal, workers: Session, k: int, seconds: float) -> Forecast:
    growth = _growth(config, rehearsal, workers, k)
    stages = [Rehearsed.of(event) for event in logged(rehearsal.storage) if event["event"] == "stage"]
    costs = by_kind(stages, growth)
    costs["select"] = _selection(config, rehearsal, workers, k, stages)
    rows, drawn = rehearsal.rows("pool")
    sizes = {"read": "pool", "featurise": "features"}
    kept = {kind: round(rehearsal.storage.size(prefix) * rows / drawn) for kind, prefix in sizes.items()}
    kept["train"] = round(rehearsal.storage.size("rounds") * config.rounds / rehearsal.config.rounds)
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
        rehearsal_seconds=seconds,
        stages=tuple(costs_of),
        prices=tuple(_prices(config, workers.workers, total)),
    )


def _growth(config: RunConfig, rehearsal: Rehearsal, workers: Session, k: int) -> Growth:
    _, drawn = rehearsal.rows("pool")
    small = rehearsal.config
    models = [1 + one.rounds * (2 if one.evaluation.control else 1) for one in (config, small)]
    splits = {split: all_rows / some for split, (all_rows, some) in rehearsal.drawn.splits.items()}
    if "test" in splits:
        splits["test"] *= models[0] / models[1]
    chosen = picks_of(small, drawn, rehearsal.mean_tokens())
    return Growth(
        read=rehearsal.drawn.pool_rows / rehearsal.drawn.drawn_rows,
        featurise=rehearsal.tokens(),
        train=k / chosen,
        evaluate=splits,
        rounds=config.rounds,
        workers=workers.workers,
    )


def _selection(
    config: RunConfig, rehearsal: Rehearsal, workers: Session, k: int, stages: Sequence[Rehearsed]
) -> tuple[float, float | None]:
    """(seconds, peak MB of a shard) of the selections of all rounds."""
    rows, _ = rehearsal.rows("pool")
    measured = rehearsal.selections(workers, rows, k)
    if not measured:  # without features: as in the rehearsal
        took = [stage.seconds for stage in stages if stage.name.startswith("align")]
        return config.rounds * sum(took) / max(1, len(took)), None
    seconds = on_a_line([(size, took) for size, took, _ in measured], rows)
    peak = on_a_line([(size, peak) for size, _, peak in measured], rows)
    return config.rounds * seconds, peak


def _prices(config: RunConfig, workers: int, seconds: float) -> list[MachinePrice]:
    found = []
    for name, machine in config.machines.items():
        number = -(-workers // machine.workers)
        hours = number * seconds / 3600
        least, most = machine.hour
        found.append(MachinePrice(name=name, machines=number, hours=hours, least=hours * least, most=hours * most))
    return found
