"""Score rows by likelihood: the loss of the reference response and the choice that the model finds likeliest.

The choice is the one with the highest log-likelihood divided by its number of characters, which does not favour
short options as the plain sum does; this is the "acc_norm" of the LM Evaluation Harness (Gao et al., 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evoray.evaluation.forward import padded, predicting, supervised_losses
from evoray.evaluation.shared_prompt import Family, can_share, family_losses, shared_length, worth_sharing
from evoray.models.chat import Encoded, encode, encode_choices
from evoray.models.generating import evaluating, padding_token
from evoray.models.loss import token_budget_batches
from evoray.models.memory import in_parts
from evoray.records import Row

Losses = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RowScore:
    """What one model scored on one row."""

    id: str
    loss: float  # mean NLL in nats a supervised token; NaN where no token is supervised
    correct: float | None  # the verdict: 1 right, 0 wrong, what a metric gave in between; None where there is none
    choice_scores: tuple[float, ...] | None = None  # log-likelihood in nats a character, in the order of the choices
    response: str | None = None  # what the model generated, where it was asked to


def token_losses(
    model: PreTrainedModel,
    encoded: Sequence[Encoded],
    pad_id: int,
    *,
    token_budget: int = 2048,
    autocast: torch.dtype | None = None,
) -> list[Losses]:
    """NLL in nats of every supervised token, one array [n] (float64) a sequence, in the order given.

    Batches hold at most `token_budget` padded tokens (a longer sequence goes alone); one that does not fit into memory
    is cut in two. With `autocast` (bfloat16) the pass runs in that type; the cross entropy is fp32 always. The model is
    run in evaluation mode and left as it was.
    """
    losses: list[Losses] = [np.zeros(0) for _ in encoded]
    supervised = [place for place, one in enumerate(encoded) if True in one.supervised]
    device = next(model.parameters()).device

    def score(places: Sequence[int]) -> None:
        batch = [encoded[place] for place in places]
        ids_BT = padded([one.ids for one in batch], pad_id, device)
        seen_BT = padded([[1] * len(one.ids) for one in batch], 0, device)
        predicting_BT = predicting(batch, 0, device)
        losses_n, _ = supervised_losses(model, ids_BT, predicting_BT, autocast, attention_mask=seen_BT, use_cache=False)
        for place, piece in zip(places, torch.split(losses_n, predicting_BT.sum(dim=1).tolist()), strict=True):
            losses[place] = _array(piece)

    with evaluating(model):
        for group in token_budget_batches([len(encoded[place].ids) for place in supervised], token_budget):
            in_parts([supervised[index] for index in group], score)
    return losses


def grouped_token_losses(
    model: PreTrainedModel,
    groups: Sequence[Sequence[Encoded]],
    pad_id: int,
    *,
    token_budget: int = 2048,
    autocast: torch.dtype | None = None,
) -> list[list[Losses]]:
    """As `token_losses`, for groups of sequences that may begin alike: a common prompt is computed once a group.

    Groups without a common prefix worth sharing, and models for which a padded cache is not exact, run whole.
    """
    flat = [one for group in groups for one in group]
    begun = _begun(groups)
    families: list[Family] = []
    whole: list[int] = []
    sharing = can_share(model)
    start = 0
    for group in groups:
        places = range(start, start + len(group))
        start += len(group)
        scored = tuple(place for place in places if True in flat[place].supervised and place not in begun)
        members = [flat[place] for place in scored]
        if sharing and worth_sharing(members):
            families.append(Family(members=scored, shared=shared_length(members)))
        else:
            whole.extend(scored)
    losses: list[Losses] = [np.zeros(0) for _ in flat]
    with evaluating(model):
        for place, piece in family_losses(
            model, flat, families, pad_id=pad_id, token_budget=token_budget, autocast=autocast
        ).items():
            losses[place] = _array(piece)
    alone = token_losses(model, [flat[place] for place in whole], pad_id, token_budget=token_budget, autocast=autocast)
    for place, array in zip(whole, alone, strict=True):
        losses[place] = array
    for place, first in begun.items():
        losses[place] = losses[first][: sum(flat[place].supervised)]
    ordered = iter(losses)
    return [[next(ordered) for _ in group] for group in groups]


def _begun(groups: Sequence[Sequence[Encoded]]) -> dict[int, int]:
    """Sequences with which their group's first one begins, and the place of that one, in the flat list.

    A choice is often the reference response without its end, and by causality its losses are the first of those.
    """
    found: dict[int, int] = {}
    place = 0
    for group in groups:
        for offset, one in enumerate(group):
            first, length = group[0], len(one.ids)
            if offset and first.ids[:length] == one.ids and first.supervised[:length] == one.supervised:
                found[place + offset] = place
        place += len(group)
    return found


def score_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    max_tokens: int,
    *,
    judge_choices: bool = True,
    token_budget: int = 2048,
    autocast: torch.dtype | None = None,
) -> list[RowScore]:
    """Score each row: loss of its supervised tokens and, where it has choices, whether the gold one scores best.

    Equal scores go to the first choice. There is no verdict without choices or a gold answer, where a choice has no
    token to score, and without `judge_choices`. Raises ModelError for a tokenizer with neither a padding nor an
    end-of-text token, and as `encode` and `encode_choices`.
    """
    references = encode(rows, tokenizer, max_tokens)
    choices = [encode_choices(row, tokenizer, max_tokens) if judge_choices and row.choices else [] for row in rows]
    groups = [[reference, *options] for reference, options in zip(references, choices, strict=True)]
    losses = grouped_token_losses(model, groups, padding_token(tokenizer), token_budget=token_budget, autocast=autocast)
    return [
        _row_score(row, options, reference, option_losses)
        for row, options, (reference, *option_losses) in zip(rows, choices, losses, strict=True)
    ]


def _row_score(row: Row, options: Sequence[Encoded], reference: Losses, option_losses: Sequence[Losses]) -> RowScore:
    loss = float(reference.mean()) if len(reference) else float("nan")
    if not row.choices or not options:
        return RowScore(id=row.id, loss=loss, correct=None)
    scores = tuple(
        -float(losses.sum()) / option.chars if len(losses) else float("nan")
        for option, losses in zip(options, option_losses, strict=True)
    )
    known = row.answer is not None and all(np.isfinite(scores))
    correct = float(row.choices[int(np.argmax(scores))] == row.answer) if known else None
    return RowScore(id=row.id, loss=loss, correct=correct, choice_scores=scores)


def _array(losses_n: torch.Tensor) -> Losses:
    return losses_n.cpu().numpy().astype(np.float64)
