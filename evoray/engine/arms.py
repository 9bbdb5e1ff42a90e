"""The two arms of a round: what was chosen, and beside it random rows of the same tokens for the same steps.

Both are trained in one launch and scored in one, since starting processes costs more than a small training; but where
the choice was trained before, as one of several (`trials`). Each has records of its own all the same, and what was done
before an interruption is not done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evoray.engine.context import Context
from evoray.engine.proxy import Checkpoint
from evoray.engine.rundir import SELECTED, Rounds
from evoray.engine.site import fingerprint
from evoray.engine.stages import Scores, Target, score
from evoray.engine.trainer import TrainJob, train
from evoray.evaluation.harm import compare_round
from evoray.models.folder import Folder

ARMS = ("adapter", "control")  # names of folders in a round; the second needs the first
CONTROL_ROWS = "control.parquet"

_BEST = "best/best.json"
_SHOWN = {"adapter": "round", "control": "random"}
_ROWS = {"adapter": SELECTED, "control": CONTROL_ROWS}


def train_arms(context: Context, number: int, arms: Sequence[str]) -> dict[str, Any]:
    """Train arms of a round in one launch; the facts of the first."""
    jobs = [_job(context, number, arm) for arm in arms]
    return train(jobs, context.site.session, context.site.events)[0]


def _job(context: Context, number: int, arm: str) -> TrainJob:
    return training_of(
        context,
        number,
        arm,
        name=_shown(number, arm),
        rows=f"{Rounds.prefix(number)}/{_ROWS[arm]}",
        identity=_rows_of(context, number, arm),
        out=context.adapter(number, arm),
    )


def training_of(
    context: Context, number: int, arm: str, *, name: str, rows: str, identity: Any, out: Folder
) -> TrainJob:
    """The training of an arm on a round's rows, and with `from: base` on those of earlier rounds before them.

    rows: the key of the file that has them. identity: what is known of them by name.
    """
    config, parent = context.config, context.parent(number)
    follows = config.training.start_from == "previous"
    earlier = [] if follows else kept_rounds(context, number)
    start = context.adapter(parent, arm) if follows and parent else None
    keys = [*(f"{Rounds.prefix(one)}/{_ROWS[arm]}" for one in earlier), rows]
    identities = [*(_rows_of(context, one, arm) for one in earlier), identity]
    return TrainJob(
        name=name,
        data=tuple(context.storage.location(key) for key in keys),
        model=config.model,
        start=start,
        out=out,
        inputs={
            "data": fingerprint(rows=identities, pool=context.pool.fingerprint),
            "model": context.model_identity,
            "start": None if start is None else start.fingerprint(),
            "validate": context.validate.source.identity if config.training.early_stop else None,
        },
        lora=config.lora,
        config=config.training,
        max_tokens=config.features.max_tokens,
        max_chars=config.reading.max_chars,
        steps=context.adapter(number, "adapter") if arm == "control" else None,
        seed=context.seed_of(number, "train"),
        threads=context.site.session.threads,
        validate=context.validate.source if config.training.early_stop else None,
    )


def kept_rounds(context: Context, number: int) -> list[int]:
    """Earlier rounds whose rows are trained on again from the base: all but those that were rolled back."""
    return [one for one in range(1, number) if not context.record(one, "evaluated")["rolled_back"]]


def _rows_of(context: Context, number: int, arm: str) -> Any:
    state, key = {"adapter": ("selected", "digest"), "control": ("control_drawn", "ids")}[arm]
    return context.record(number, state)[key]


def evaluate_arms(context: Context, number: int, arms: Sequence[str]) -> dict[str, Any]:
    """Score arms of a round on the validate rows; the facts of the first, for a round also whether it did harm."""
    scores, *_ = score_arms(context, context.validate, [(number, arm) for arm in arms])
    answered = [correct for correct in scores.correct if correct is not None]
    facts: dict[str, Any] = {
        "loss": float(np.nanmean(scores.loss)),
        "accuracy": float(np.mean(answered)) if answered else None,
        "rows": len(scores.ids),
    }
    if not number or arms[0] != "adapter":
        return facts
    best = best_round(context, number - 1)
    untrained, kept = score_arms(context, context.validate, [(0, "adapter"), (best, "adapter")])
    harm = compare_round(scores.loss, untrained.loss, kept.loss, best, context.config.training.on_harm == "roll_back")
    if harm["harmful"]:
        done = "it is rolled back" if harm["rolled_back"] else "it is kept; training.on_harm: roll_back would not"
        name = f"round {best}" if best else "the untrained model"
        context.site.events.display.note(f"round {number} did harm: worse than {name} on the validate rows; {done}")
    return {**facts, **harm}


def best_round(context: Context, through: int) -> int:
    """The round up to `through` with the lowest validate loss; 0 is the untrained model, which stands until beaten."""
    losses = [float(context.record(number, "evaluated")["loss"]) for number in range(through + 1)]
    return int(np.argmin(losses))


def keep_best(context: Context) -> None:
    """Have `best/` hold the weights of the best round so far (none for the untrained model), and say which it is.

    So far is up to the last round that was evaluated: a run that is gone through again takes nothing back. The record
    goes first and comes last: a folder without one is about to change.
    """
    done = [number for number in range(1, context.config.rounds + 1) if context.rounds.states(number, ("evaluated",))]
    storage, best = context.storage, best_round(context, max(done, default=0))
    record = {"round": best, "model": context.config.model, "loss": context.record(best, "evaluated")["loss"]}
    if storage.exists(_BEST) and storage.read_json(_BEST) == record:
        return
    storage.delete(_BEST)
    for key in list(storage.keys("best")):
        storage.delete(key)
    if best:
        source = context.adapter(best, "adapter")
        for key in storage.keys(source.prefix):
            storage.write(f"best/{key.rpartition('/')[2]}", storage.read(key))
    storage.write_json(_BEST, record)


def score_arms(context: Context, target: Target, arms: Sequence[tuple[int, str]]) -> list[Scores]:
    """Scores of models on a split: each the model of a round's arm, or the untrained one (round 0)."""
    models = {_shown(number, arm): _checkpoint(context, number, arm) for number, arm in arms}
    evaluation, max_tokens = context.config.evaluation, context.config.features.max_tokens
    found = score(models, target, evaluation, max_tokens, context.site)
    return [found[_shown(number, arm)] for number, arm in arms]


def _checkpoint(context: Context, number: int, arm: str) -> Checkpoint:
    adapter = context.adapter(number, arm) if number else None
    return Checkpoint.of(context.config.model, context.model_identity, adapter)


def _shown(number: int, arm: str) -> str:
    return f"{_SHOWN[arm]} {number}" if number else "untrained model"
