"""One round: generated, featurised, aligned, selected, trained, evaluated; then the control arm.

Each transition leaves a record; a round that was interrupted goes on after its last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evoray.alignment.reduction import Array
from evoray.config import RunConfig
from evoray.engine.cascade import Cascade, Pruned, prune
from evoray.engine.choose import (
    Goal,
    choose,
    draw_control,
    memory_of,
    picks_table,
    token_sum,
    write_selected,
)
from evoray.engine.featurise import featurise
from evoray.engine.journal import Notebook
from evoray.engine.pools import Pool
from evoray.engine.potentials import POTENTIALS, Recipe, write_potentials
from evoray.engine.proxy import Checkpoint, Proxy
from evoray.engine.rundir import SELECTED, Rounds
from evoray.engine.shards import PoolTiles, StoredTiles, TileSource, units_of
from evoray.engine.site import Site
from evoray.engine.stages import Scores, Target, score
from evoray.engine.stored import POOL, Features, read_features
from evoray.engine.trainer import TrainJob, train
from evoray.errors import SelectionError
from evoray.models.folder import Folder
from evoray.selection.picks import random_key
from evoray.storage import Storage

STATES = (
    "generated",
    "featurised",
    "aligned",
    "selected",
    "trained",
    "evaluated",
    "control_trained",
    "control_evaluated",
)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every round works with."""

    config: RunConfig
    storage: Storage  # the run directory
    site: Site  # its storage holds what is named by fingerprint and may be shared with other runs
    pool: Pool
    align: Target
    validate: Target
    model_identity: str  # of the learner's base weights
    proxy: Proxy | None  # after the warm-up; None where the selector needs no features
    cheap: Proxy | None = None  # of a cascade's first pass

    @property
    def rounds(self) -> Rounds:
        """The records."""
        return Rounds(self.storage, self.site.events)

    def seed_of(self, number: int, purpose: str) -> int:
        """A seed of its own for each purpose and round."""
        return random_key(f"{purpose}:{number}", self.config.seed) % 2**31

    def adapter(self, number: int, arm: str) -> Folder:
        """Where a round's trained adapter is."""
        return Folder(storage=self.storage, prefix=f"{Rounds.prefix(number)}/{arm}")


def play_round(context: Context, number: int) -> None:
    """Bring one round to its last state."""
    step = context.rounds.step
    used = used_ids(context, number, "selected")
    step(number, "generated", lambda: _generated(context, used))
    features = _features(context, number)
    step(number, "aligned", lambda: _align(context, number, features, used))
    step(number, "selected", lambda: _select(context, number, features))
    step(number, "trained", lambda: _train(context, number, "adapter", None))
    step(number, "evaluated", lambda: evaluate_round(context, number, "adapter"))
    if context.config.evaluation.control and features is not None:
        step(number, "control_trained", lambda: _train_control(context, number, features))
        step(number, "control_evaluated", lambda: evaluate_round(context, number, "control"))


def used_ids(context: Context, number: int, arm: str) -> list[str]:
    """Ids that an arm used before round `number`: they are not chosen again."""
    records = [context.storage.read_json(f"{Rounds.prefix(earlier)}/{_IDS[arm]}.json") for earlier in range(1, number)]
    return [row_id for record in records for row_id in record["ids"]]


_IDS = {"selected": "selected", "control": "control_trained"}


def _generated(context: Context, used: list[str]) -> dict[str, Any]:
    """The static pool: what is left of it."""
    left = context.pool.usable - len(used)
    if context.config.selection.selector != "all" and left < context.config.selection.k:
        raise SelectionError(
            f"selection.k = {context.config.selection.k}, and {left} usable rows that are not used yet",
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
    if number == 1 or context.proxy is None or not follows:
        return context.proxy
    return Proxy.of(context.config.model, context.model_identity, [context.adapter(number - 1, "adapter")])


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
        k=context.config.selection.k,
        seed=context.config.feature_seed,
        site=context.site,
    )
    return prune(cascade, used_ids(context, number, "selected"))


def _align(context: Context, number: int, features: _RoundFeatures | None, used: list[str]) -> dict[str, Any]:
    config = context.config
    seed = context.seed_of(number, "select")
    goal, memory, start_g_M = None, None, None
    ids: list[str] = []
    source: TileSource
    if features is None:
        source = PoolTiles(rows=context.pool.rows, units=context.pool.units)
    else:
        source = StoredTiles(store=features.pool.store, units=features.pool.units, rows=context.pool.rows)
        ids, align_MD = read_features(features.align)
        _, validate_MD = read_features(features.validate)
        goal = Goal(align_MD=align_MD, validate_MD=validate_MD, weights_M=context.align.weights_of(ids))
        memory = memory_of(features.pool.store, features.pool.units, used, seed)
        start_g_M = _earlier_potentials(context, number, ids)
    with context.site.events.stage(f"align and select {number}", 1) as stage:
        choice = choose(
            source, goal, config.selection, seed, context.site.session, stage.share, used, memory, start_g_M,
            _notebook(context, number),
        )  # fmt: skip
    prefix = Rounds.prefix(number)
    context.storage.write_table(f"{prefix}/picks.parquet", picks_table(choice.picks))
    proxy = _proxy_of(context, number)
    if proxy is not None:
        settled = context.site.session.settled(config.features)
        recipe = Recipe.of(proxy, settled, config.feature_seed, config.reading.max_chars)
        write_potentials(context.storage, f"{prefix}/{POTENTIALS}", ids, goal, choice.facts, recipe)
    return dict(choice.facts)


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
    found = storage.read_json(f"{earlier}/aligned.json")["potentials"].get("start_g_M")
    return None if found is None else np.array(found)


def _select(context: Context, number: int, features: _RoundFeatures | None) -> dict[str, Any]:
    prefix = Rounds.prefix(number)
    _notebook(context, number).clear()
    picks = context.storage.read_table(f"{prefix}/picks.parquet")
    target_ids = [] if features is None else read_features(features.align)[0]
    stored = context.pool.units if features is None else features.pool.units
    units = units_of(stored, picks["tile"].to_pylist())
    digest = write_selected(
        context.storage, f"{prefix}/{SELECTED}", picks, target_ids, number, context.pool.rows, units
    )
    ids = picks["id"].to_pylist()
    tokens = None if features is None else token_sum(features.whole.store, features.whole.units, ids)
    return {"ids": ids, "digest": digest, "rows": len(ids), "tokens": tokens}


def _train(context: Context, number: int, arm: str, steps: int | None) -> dict[str, Any]:
    config = context.config
    file = {"adapter": SELECTED, "control": "control.parquet"}[arm]
    follows = config.training.start_from == "previous"
    first = number if follows else 1  # from the base, a round trains on all that was chosen so far
    data = tuple(context.storage.location(f"{Rounds.prefix(n)}/{file}") for n in range(first, number + 1))
    job = TrainJob(
        data=data,
        model=config.model,
        start=context.adapter(number - 1, arm) if follows and number > 1 else None,
        out=context.adapter(number, arm),
        lora=config.lora,
        config=config.training,
        max_tokens=config.features.max_tokens,
        max_chars=config.reading.max_chars,
        steps=steps,
        seed=context.seed_of(number, "train"),
        threads=context.site.session.threads,
    )
    label = "random rows" if arm == "control" else "selected rows"
    with context.site.events.stage(f"train on {label} {number}", 0) as stage:
        facts = train(job, context.site.session, stage)
    context.site.events.write("trained", round=number, arm=arm, **facts)
    return facts


def _train_control(context: Context, number: int, features: _RoundFeatures) -> dict[str, Any]:
    """The control arm: random rows of as many tokens, trained for as many steps, from the same kind of start."""
    prefix = Rounds.prefix(number)
    selected = context.storage.read_json(f"{prefix}/selected.json")
    trained = context.storage.read_json(f"{prefix}/trained.json")
    ids = draw_control(
        context.storage,
        f"{prefix}/control.parquet",
        features.whole.store,
        context.pool.rows,
        features.whole.units,
        used_ids(context, number, "control"),
        selected["tokens"],
        context.seed_of(number, "control"),
    )
    return {**_train(context, number, "control", trained["steps"]), "ids": ids}


def evaluate_round(context: Context, number: int, arm: str) -> dict[str, Any]:
    """Scores on the validate rows: what the best round is chosen by."""
    (scores,) = score_arms(context, context.validate, [(number, arm)])
    answered = [correct for correct in scores.correct if correct is not None]
    return {
        "loss": float(np.nanmean(scores.loss)),
        "accuracy": float(np.mean(answered)) if answered else None,
        "rows": len(scores.ids),
    }


def score_arms(context: Context, target: Target, arms: Sequence[tuple[int, str]]) -> list[Scores]:
    """Scores of models on a split: each the model of a round's arm, or the untrained one (round 0)."""
    models = {_shown(number, arm): _checkpoint(context, number, arm) for number, arm in arms}
    evaluation, max_tokens = context.config.evaluation, context.config.features.max_tokens
    return list(score(models, target, evaluation, max_tokens, context.site).values())


def _checkpoint(context: Context, number: int, arm: str) -> Checkpoint:
    adapter = context.adapter(number, arm) if number else None
    return Checkpoint.of(context.config.model, context.model_identity, adapter)


def _shown(number: int, arm: str) -> str:
    if not number:
        return "untrained model"
    return f"{'random' if arm == 'control' else 'round'} {number}"
