"""Selections that leave several choices open, in a comparison: all are trained, the least validate loss is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from evoray.engine.bench import Bench
from evoray.engine.cell_models import CellModel, job_of, train_all
from evoray.engine.cell_selections import Wanted, read_selection
from evoray.engine.proxy import Checkpoint
from evoray.engine.stages import score
from evoray.engine.trials import kept_of

_Key = tuple[Wanted, int]


def try_all(bench: Bench, selections: Mapping[Wanted, dict[str, Any]]) -> dict[Wanted, dict[str, Any]]:
    """The selections, each of several choices replaced by the one that trains best.

    Its facts then say what came of all, and `tried_seconds` what the trainings of the others took.
    """
    choices: dict[_Key, dict[str, Any]] = {
        (one, place): read_selection(bench, one, identity)
        for one, record in selections.items()
        if record["others"]
        for place, identity in enumerate([record["identity"], *record["others"]])
    }
    jobs = {
        (one, place): replace(job_of(bench, one, record), name=f"{one.shown} choice {place}")
        for (one, place), record in choices.items()
    }
    models = train_all(bench, jobs)
    losses = _losses(bench, models)
    return {one: _best(one, record, choices, models, losses) for one, record in selections.items()}


def _losses(bench: Bench, models: Mapping[_Key, CellModel]) -> dict[_Key, float]:
    """Mean losses on the validate rows of each cell's target and seed."""
    config, identity = bench.config, bench.model_identity
    losses: dict[_Key, float] = {}
    for at in dict.fromkeys((one.target, one.seed) for one, _ in models):
        keys = {f"{one.shown} choice {place}": (one, place) for one, place in models if (one.target, one.seed) == at}
        checkpoints = {name: Checkpoint.of(config.model, identity, models[key].weights) for name, key in keys.items()}
        rows = bench.target(at[0], "validate", at[1])
        found = score(checkpoints, rows, config.evaluation, config.features.max_tokens, bench.site)
        losses |= {key: float(np.nanmean(found[name].loss)) for name, key in keys.items()}
    return losses


def _best(
    one: Wanted,
    record: dict[str, Any],
    choices: Mapping[_Key, dict[str, Any]],
    models: Mapping[_Key, CellModel],
    losses: Mapping[_Key, float],
) -> dict[str, Any]:
    if not record["others"]:
        return record
    keys = [(one, place) for place in range(1 + len(record["others"]))]
    outcomes = [models[key].facts for key in keys]
    kept, facts = kept_of([choices[key]["facts"] for key in keys], [losses[key] for key in keys], outcomes)
    return {
        **choices[keys[kept]],
        "others": record["others"],
        "facts": facts,
        "tried_seconds": sum(outcome["seconds"] for place, outcome in enumerate(outcomes) if place != kept),
    }
