"""Choices that a selector leaves open are all trained, and the one with the least validate loss is kept.

How well a choice aligns says which rows are of use, and not always which of two good sets trains better. Features cost
a backward pass for each of N candidates, a training a few for each of K: where K is a small part of N, it costs little
to train on some choices and look. Test rows have no part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from evoray.engine.arms import training_of
from evoray.engine.context import Context
from evoray.engine.proxy import Checkpoint
from evoray.engine.rundir import SELECTED, Rounds
from evoray.engine.stages import score
from evoray.engine.trainer import train
from evoray.models.folder import OUTCOME_FILE, Folder
from evoray.selection.picks import Pick
from evoray.selection.selector import Choice

#: Writes the rows of picks to a key; the fingerprint of what was chosen.
Write = Callable[[Sequence[Pick], str], str]


def best_by_training(context: Context, number: int, choices: Sequence[Choice], write: Write) -> Choice:
    """Train on each of a round's choices; the best on the validate rows, whose facts say what came of all.

    What was trained before an interruption is not trained again.
    """
    folders = [_folder(number, place) for place in range(len(choices))]
    jobs = [
        training_of(
            context,
            number,
            "adapter",
            name=f"choice {place} of round {number}",
            rows=f"{folder}/{SELECTED}",
            identity=write(choice.picks, f"{folder}/{SELECTED}"),
            out=_adapter(context, number, place),
        )
        for place, (folder, choice) in enumerate(zip(folders, choices, strict=True))
    ]
    outcomes = train(jobs, context.site.session, context.site.events)
    config, identity = context.config, context.model_identity
    models = {job.name: Checkpoint.of(config.model, identity, job.out) for job in jobs}
    scores = score(models, context.validate, config.evaluation, config.features.max_tokens, context.site)
    losses = [float(np.nanmean(scores[job.name].loss)) for job in jobs]
    kept, facts = kept_of([choice.facts for choice in choices], losses, outcomes)
    return Choice(picks=choices[kept].picks, facts=facts)


def kept_of(
    choices: Sequence[Mapping[str, Any]], losses: Sequence[float], outcomes: Sequence[Mapping[str, Any]]
) -> tuple[int, dict[str, Any]]:
    """The place of the choice with the least loss, and its facts, with what came of all: of each its settings, its
    loss, and what its training took.

    choices: the facts of each. outcomes: of the training on each.
    """
    kept = int(np.argmin(losses))
    tried = [
        {
            **{name: choice[name] for name in ("lambda", "r") if name in choice},
            "loss": loss,
            **{name: outcome[name] for name in ("rows", "steps", "seconds")},
        }
        for choice, loss, outcome in zip(choices, losses, outcomes, strict=True)
    ]
    return kept, {**choices[kept], "trials": {"kept": kept, "tried": tried}}


def keep_trial(context: Context, number: int) -> None:
    """Have the round's arm start from what the kept trial trained, if it was one: then nothing is left to train."""
    trials, arm = context.record(number, "aligned").get("trials"), context.adapter(number, "adapter")
    if trials is None or arm.has(OUTCOME_FILE):
        return
    source = _adapter(context, number, trials["kept"])
    # The outcome comes last: a folder without one is trained anew.
    for key in sorted(context.storage.keys(source.prefix), key=lambda key: key.endswith(OUTCOME_FILE)):
        context.storage.write(f"{arm.prefix}/{key.removeprefix(source.prefix + '/')}", context.storage.read(key))


def forget_trials(context: Context, number: int) -> None:
    """Delete the weights of a round's trials; their rows and losses stay."""
    for key in list(context.storage.keys(f"{Rounds.prefix(number)}/{_TRIALS}")):
        if "/adapter/" in key:
            context.storage.delete(key)


_TRIALS = "trials"


def _folder(number: int, place: int) -> str:
    return f"{Rounds.prefix(number)}/{_TRIALS}/{place}"


def _adapter(context: Context, number: int, place: int) -> Folder:
    return Folder(storage=context.storage, prefix=f"{_folder(number, place)}/adapter")
