"""The loops of a comparison: an entry of several rounds is a run of its own, whose last model is that of its cell.

All rounds together choose as much as the budget says, so that a loop and a single selection stand beside each other at
the same rows. A run lies in its own folder and goes on after its last record; pool, features and scores are shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evoray.budget import per_round
from evoray.comparison_config import ComparisonConfig
from evoray.config import RunConfig
from evoray.engine.bench import Bench, Entry, feature_seed, section
from evoray.engine.cell_models import CellModel
from evoray.engine.cell_selections import Wanted, brief, measured
from evoray.engine.choose import check_picks
from evoray.engine.context import Context
from evoray.engine.events import Events
from evoray.engine.feedback import feedback_identity
from evoray.engine.round import play_round, score_untrained
from evoray.engine.rundir import SELECTED, Rounds
from evoray.engine.selected import chosen_sources
from evoray.engine.selectors import check_proxy, is_featured, source_identity
from evoray.engine.site import Site, fingerprint
from evoray.engine.summary import timings
from evoray.engine.trainer import WHERE
from evoray.evaluation.scoring import Scoring

#: Of a run's settings, those that do not change what it computes, and those whose content is in the fingerprint.
_APART: Mapping[str, Any] = {
    **dict.fromkeys(("pool", "target", "model", "out", "store", "labels", "cluster"), True),
    "reading": {"max_quarantined"},
    "selection": {"shards", "cache_mb"},
    "training": WHERE,
}
_TRAIN = "train "  # how stages of training begin


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A loop that was played."""

    selection: dict[str, Any]  # as the record of a single selection
    model: CellModel
    steps: int  # that its model was trained for; what it was not made of may have taken more


def check_loops(config: ComparisonConfig, entries: Sequence[Entry]) -> None:
    """Raise ConfigError for a loop that no run could be."""
    target, seed = next(iter(config.targets)), config.seeds[0]
    for entry in (entry for entry in entries if entry.rounds > 1):
        for budget in config.budgets:
            check_proxy(_run_config(config, entry, target, budget, seed))


def play_loop(bench: Bench, one: Wanted) -> Loop:
    """Play all rounds of a loop, or read what was played. Raises as a run."""
    identity, context = _context(bench, one)
    check_picks(context.config.selection.k, one.entry.rounds, bench.pool.usable)
    if not context.rounds.states(one.entry.rounds, ("evaluated",)):
        bench.site.events.display.note(f"{one.shown}: {one.entry.rounds} rounds")
    score_untrained(context)
    for number in _numbers(context):
        play_round(context, number)
    record = {"identity": identity, **_chosen(context)}
    return _loop(context, {**record, **measured(bench, one, record)})


def _run_config(config: ComparisonConfig, entry: Entry, target: str, budget: int | float | str, seed: int) -> RunConfig:
    return RunConfig(
        pool=config.pool,
        target=config.targets[target],
        model=config.model,
        rounds=entry.rounds,
        seed=seed,
        reading=config.reading,
        lora=config.lora,
        features=entry.features.model_copy(update={"seed": feature_seed(entry.features)}),
        selection=section(entry.selection, {"k": per_round(budget, entry.rounds)}),
        training=entry.training,
        feedback=config.feedback,
        evaluation=config.evaluation.model_copy(update={"control": False}),
        cluster=config.cluster,
    )


def _context(bench: Bench, one: Wanted) -> tuple[str, Context]:
    """What the rounds work with, in a folder that is named by all that they depend on; and that name."""
    config = _run_config(bench.config, one.entry, one.target, one.budget, one.seed)
    settled = bench.site.session.settled
    config = config.model_copy(
        update={
            "features": settled(config.features),
            "training": settled(config.training),
            "feedback": settled(config.feedback),
            "evaluation": settled(config.evaluation),
        }
    )
    proxy = bench.proxy(one.entry.features) if is_featured(config.selection) else None
    align, validate = (bench.target(one.target, split, one.seed) for split in ("align", "validate"))
    identity = fingerprint(
        config=config.model_dump(by_alias=True, exclude=_APART),
        pool=bench.pool.fingerprint,
        splits=[align.source.identity, validate.source.identity],
        model=bench.model_identity,
        proxy=None if proxy is None else proxy.identity,
        own=source_identity(config.selection),
        scorer=Scoring.of(config.evaluation).identity(),
        feedback=feedback_identity(config.feedback),
    )
    site, storage = bench.site, bench.site.storage.child(f"loops/{identity}")
    return identity, Context(
        config=config,
        storage=storage,
        site=Site(
            storage=site.storage,
            session=site.session,
            events=Events(storage, site.events.display).about(run=storage.uri),
        ),
        pool=bench.pool,
        align=align,
        validate=validate,
        model_identity=bench.model_identity,
        proxy=proxy,
    )


def _numbers(context: Context) -> range:
    return range(1, context.config.rounds + 1)


def _chosen(context: Context) -> dict[str, Any]:
    """What all rounds chose, as one selection."""
    storage, numbers = context.storage, _numbers(context)
    chosen = [context.record(number, "selected") for number in numbers]
    tables = [storage.read_table(f"{Rounds.prefix(number)}/picks.parquet", ["tile"]) for number in numbers]
    sources: dict[str, int] = {}
    for number in numbers:
        for source, count in chosen_sources(storage, f"{Rounds.prefix(number)}/{SELECTED}").items():
            sources[source] = sources.get(source, 0) + count
    stages = timings(storage)
    return {
        "ids": [row_id for record in chosen for row_id in record["ids"]],
        "digest": fingerprint(rounds=[record["digest"] for record in chosen]),
        "tiles": sorted({tile for table in tables for tile in table["tile"].to_pylist()}),
        "seconds": round(sum(value for name, value in stages.items() if not name.startswith(_TRAIN)), 3),
        "facts": {**brief(context.record(numbers[-1], "aligned")), "rounds": len(numbers)},
        "sources": sources,
    }


def _loop(context: Context, record: dict[str, Any]) -> Loop:
    """The model that a further round would go on from, and what all trainings took together."""
    kept = context.parent(context.config.rounds + 1)
    trained = {number: context.record(number, "trained") for number in _numbers(context)}
    makers = [trained[number] for number in _line(context, kept)]
    model = CellModel(
        facts={
            **{name: sum(facts[name] for facts in makers) for name in ("rows", "row_tokens")},
            **{name: sum(facts[name] for facts in trained.values()) for name in ("steps", "tokens", "seconds")},
        },
        weights=context.adapter(kept, "adapter") if kept else None,
        identity=fingerprint(loop=record["identity"], round=kept),
    )
    return Loop(selection=record, model=model, steps=sum(facts["planned_steps"] for facts in makers))


def _line(context: Context, kept: int) -> list[int]:
    """The rounds whose trainings made a round's model: itself, and where it went on from others, those."""
    if not kept or context.config.training.start_from == "base":
        return [kept] if kept else []
    return [*_line(context, context.parent(kept)), kept]
