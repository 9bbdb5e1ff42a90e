"""By how much gold answers are better than the model's own: what a later round learns from an earlier one.

The default score of an answer is its mean log-likelihood a token under the model, its end included (kMQ, arXiv
2409.11378, leaves the scorer open). It is near 0 or below where the model already answers like the gold rows. Beside an
own answer that was cut off neither has an end: the model did not say that it ends there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evoray.evaluation.generation import Told, tell
from evoray.evaluation.likelihood import token_losses
from evoray.evaluation.metric import Judge
from evoray.models.chat import Encoded, encode, encode_choices
from evoray.models.generating import padding_token
from evoray.records import Message, Row


def gold_advantage(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    max_tokens: int,
    max_new_tokens: int,
    *,
    judge: Judge | None = None,
    token_budget: int = 2048,
    autocast: torch.dtype | None = None,
) -> list[float | None]:
    """Score of the gold answer less score of the generated one; None for a row that is raw text and asks nothing.

    judge: scores an answer; None: the likelihood, in nats a token. Raises as `generate`, `score_rows` and the judge.
    """
    answers = tell(model, tokenizer, rows, max_tokens, max_new_tokens, token_budget=token_budget, autocast=autocast)
    asked = [(row, answer) for row, answer in zip(rows, answers, strict=True) if answer is not None]
    if judge is not None:
        found = [_number(judge(row, row.messages[-1].content)) - _number(judge(row, own.text)) for row, own in asked]
    else:
        both = [one for row, own in asked for one in _both(row, own, tokenizer, max_tokens)]
        losses = token_losses(model, both, padding_token(tokenizer), token_budget=token_budget, autocast=autocast)
        mean = [float(array.mean()) if len(array) else float("nan") for array in losses]
        found = [own - gold for gold, own in zip(mean[::2], mean[1::2], strict=True)]
    values = iter(found)
    return [None if answer is None else next(values) for answer in answers]


def _both(row: Row, own: Told, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[Encoded]:
    """The gold answer and the own one, as they are scored."""
    gold = row.messages[-1].content
    if not own.ended and own.text and gold:
        return encode_choices(replace(row, choices=(gold, own.text)), tokenizer, max_tokens)
    answered = replace(row, messages=(*row.messages[:-1], Message("assistant", own.text)))
    return encode([row, answered], tokenizer, max_tokens)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
