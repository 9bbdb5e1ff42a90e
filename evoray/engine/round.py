"""One round: generated, featurised, aligned, selected, trained, evaluated, the control arm beside it.

Each transition leaves a record; a round that was interrupted goes on after its last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from evoray.alignment.reduction import Array
from evoray.budget import Budget, in_rows
from evoray.engine.arms import ARMS, CONTROL_ROWS, evaluate_arms, keep_best, kept_rounds, train_arms
from evoray.engine.cascade import Cascade, Pruned, prune
from evoray.engine.choose import choose
from evoray.engine.context import Context
from evoray.engine.featurise import featurise
from evoray.engine.feedback import feedback_before
from evoray.engine.goals import goal_of
from evoray.engine.journal import Notebook
from evoray.engine.potentials import POTENTIALS, Recipe, write_potentials
from evoray.engine.proxy import Proxy
from evoray.engine.rundir import SELECTED, Rounds
from evoray.engine.selected import draw_control, memory_of, picks_table, token_sum, write_selected
from evoray.engine.shards import PoolTiles, StoredTiles, TileSource, units_of
from evoray.engine.stored import POOL, Features, read_features
from evoray.engine.trials import best_by_training, forget_trials, keep_trial
from evoray.errors import SelectionError
from evoray.selection.picks import Pick

STATES = (
    "generated",
    "featurised",
    "aligned",
    "selected",
    "control_drawn",
    "trained",
    "evaluated",
    "control_trained",
    "control_evaluated",
)


def score_untrained(context: Context) -> None:
    """Bring round 0 to its only state: what all rounds are compared with."""
    context.rounds.step(0, "evaluated", lambda: evaluate_arms(context, 0, ARMS[:1]))


def play_round(context: Context, number: int) -> None:
    """Bring one round to its last state."""
    context = replace(context, site=replace(context.site, events=context.site.events.about(round=number)))
    step = context.rounds.step
    used = used_ids(context, number, "selected")
    step(number, "generated", lambda: _generated(context, used))
    features = _features(context, number)
    step(number, "aligned", lambda: _align(context, number, features, used))
    step(number, "selected", lambda: _select(context, number, features))
    controlled = context.config.evaluation.control and features is not None
    if features is not None and controlled:
        step(number, "control_drawn", lambda: _draw_control(context, number, features))
    step(number, "trained", lambda: _train(context, number, ARMS if controlled else ARMS[:1]))
    forget_trials(context, number)
    step(number, "evaluated", lambda: evaluate_arms(context, number, ARMS if controlled else ARMS[:1]))
    keep_best(context)
    if controlled:
        step(number, "control_trained", lambda: train_arms(context, number, ARMS[1:]))
        step(number, "control_evaluated", lambda: evaluate_arms(context, number, ARMS[1:]))


def used_ids(context: Context, number: int, arm: str) -> list[str]:
    """Ids that an arm used before round `number`: they are not chosen again."""
    records = [context.storage.read_json(f"{Rounds.prefix(earlier)}/{_IDS[arm]}.json") for earlier in range(1, number)]
    return [row_id for record in records for row_id in record["ids"]]


_IDS = {"selected": "selected", "control": "control_drawn"}


def _generated(context: Context, used: list[str]) -> dict[str, Any]:
    """The static pool: what is left of it."""
    left, budget = context.pool.usable - len(used), Budget.of(context.config.selection.k)
    k = 1 if budget.tokens else budget.k(context.pool.usable)
    if context.config.selection.selector != "all" and left < k:
        raise SelectionError(
            f"selection.k = {k}, and {left} usable rows that are not used yet",
            f"k of at most {left}",
            "lower selection.k or rounds, or enlarge the pool",
        )
    return {"source": "static pool", "pool": context.pool.fingerprint, "usable": left}


@dataclass(frozen=True, kw_only=True)
class _RoundFeatures:
    pool: Features
    align: Features
    validate: Features
    whole: Features  # of every usable row of the pool: the same as `pool` without a cascade


def _proxy_of(context: Context, number: int) -> Proxy | None:
    """The proxy of a round: warmed up at first, then the model as trained so far, if features follow it."""
    follows = context.config.features.refresh == "each_round" and context.config.proxy_model == context.config.model
    parent = context.parent(number)
    if not parent or context.proxy is None or not follows:
        return context.proxy
    return Proxy.of(context.config.model, context.model_identity, [context.adapter(parent, "adapter")])


def _features(context: Context, number: int) -> _RoundFeatures | None:
    proxy = _proxy_of(context, number)
    if proxy is None:
        return None
    config, seed = context.config.features, context.config.feature_seed
    sources = {POOL: context.pool.source, "align": context.align.source, "validate": context.validate.source}

    def work() -> dict[str, Any]:
        pruned = _pruned(context, number, proxy)
        if pruned is not None:
            sources[POOL] = pruned.source
        found = featurise(sources, proxy, config, seed, context.site)
        record: dict[str, Any] = {name: one.record() for name, one in found.items()}
        record["whole"] = record[POOL] if pruned is None else pruned.cheap.record()
        return {**record, "cascade": None if pruned is None else pruned.facts}

    record = context.rounds.step(number, "featurised", work)
    names = [*sources, "whole"]
    return _RoundFeatures(**{name: Features.of(context.site.storage, record[name]) for name in names})


def _pruned(context: Context, number: int, proxy: Proxy) -> Pruned | None:
    features = context.config.features
    if features.cascade is None or context.cheap is None:
        return None
    cascade = Cascade(
        pool=context.pool,
        align=context.align,
        config=features,
        settings=features.cascade,
        proxy=proxy,
        cheap=context.cheap,
        k=Budget.of(context.config.selection.k).k(context.pool.usable),
        seed=context.config.feature_seed,
        site=context.site,
    )
    return prune(cascade, used_ids(context, number, "selected"))


def _align(context: Context, number: int, features: _RoundFeatures | None, used: list[str]) -> dict[str, Any]:
    config = context.config
    selection, seed = config.selection, context.seed_of(number, "select")
    if config.features.cascade is not None:  # what it keeps is no longer the pool that a share is of
        selection = selection.model_copy(update={"k": in_rows(selection.k, context.pool.usable)})
    goal, memory, start_g_M = None, None, None
    ids: list[str] = []
    source: TileSource
    if features is None:
        source = PoolTiles(rows=context.pool.rows, units=context.pool.units)
    else:
        source = StoredTiles(store=features.pool.store, units=features.pool.units, rows=context.pool.rows)
        ids, goal = goal_of(features.align, features.validate, context.align)
        if config.selection.selector == "evoselect":
            memory = memory_of(features.pool.store, features.pool.units, _learnt(context, number), seed)
            start_g_M = _earlier_potentials(context, number, ids)
    with context.site.events.stage(f"align and select {number}", 1) as stage:
        choice = choose(
            source, goal, selection, seed, context.site.session, stage.share, used, memory, start_g_M,
            _notebook(context, number), looped=config.rounds > 1, feedback=feedback_before(context, number),
        )  # fmt: skip
    if choice.others:

        def write(picks: Sequence[Pick], key: str) -> str:
            return _write_rows(context, number, features, picks_table(picks), key)

        choice = best_by_training(context, number, [choice, *choice.others], write)
    prefix = Rounds.prefix(number)
    context.storage.write_table(f"{prefix}/picks.parquet", picks_table(choice.picks))
    proxy = _proxy_of(context, number)
    if proxy is not None:
        settled = context.site.session.settled(config.features)
        recipe = Recipe.of(proxy, settled, config.feature_seed, config.reading.max_chars)
        write_potentials(context.storage, f"{prefix}/{POTENTIALS}", ids, goal, choice.facts, recipe)
    return dict(choice.facts)


def _learnt(context: Context, number: int) -> list[str]:
    """Ids of the rows that the model was trained on so far."""
    rounds = kept_rounds(context, number)
    return [row_id for earlier in rounds for row_id in context.record(earlier, "selected")["ids"]]


def _notebook(context: Context, number: int) -> Notebook:
    return Notebook(storage=context.storage, prefix=f"{Rounds.prefix(number)}/solver")


def _earlier_potentials(context: Context, number: int, ids: list[str]) -> Array | None:
    """Potentials at uniform weights of the round before, where it aimed at the same rows, as its record has them.

    Not those at its end: they belong to the weights that it came to, and are no nearer than a cold start.
    """
    earlier, storage = Rounds.prefix(number - 1), context.storage
    if number == 1 or not storage.exists(f"{earlier}/{POTENTIALS}"):
        return None
    if storage.read_table(f"{earlier}/{POTENTIALS}", ["id"])["id"].to_pylist() != ids:
        return None
    found = storage.read_json(f"{earlier}/aligned.json").get("potentials", {}).get("start_g_M")
    return None if found is None else np.array(found)


def _select(context: Context, number: int, features: _RoundFeatures | None) -> dict[str, Any]:
    prefix = Rounds.prefix(number)
    _notebook(context, number).clear()
    picks = context.storage.read_table(f"{prefix}/picks.parquet")
    digest = _write_rows(context, number, features, picks, f"{prefix}/{SELECTED}")
    ids = picks["id"].to_pylist()
    tokens = None if features is None else token_sum(features.whole.store, features.whole.units, ids)
    return {"ids": ids, "digest": digest, "rows": len(ids), "tokens": tokens}


def _write_rows(context: Context, number: int, features: _RoundFeatures | None, picks: pa.Table, key: str) -> str:
    """Write picked rows with all their columns; the fingerprint of their ids."""
    target_ids = [] if features is None else read_features(features.align)[0]
    stored = context.pool.units if features is None else features.pool.units
    units = units_of(stored, picks["tile"].to_pylist())
    return write_selected(context.storage, key, picks, target_ids, number, context.pool.rows, units)


def _train(context: Context, number: int, arms: Sequence[str]) -> dict[str, Any]:
    keep_trial(context, number)
    return train_arms(context, number, arms)


def _draw_control(context: Context, number: int, features: _RoundFeatures) -> dict[str, Any]:
    """Random rows of as many tokens as the chosen ones have."""
    ids = draw_control(
        context.storage,
        f"{Rounds.prefix(number)}/{CONTROL_ROWS}",
        features.whole.store,
        context.pool.rows,
        features.whole.units,
        used_ids(context, number, "control"),
        context.record(number, "selected")["tokens"],
        context.seed_of(number, "control"),
    )
    return {"ids": ids}
