"""By how much gold answers are better than the model's own: what a later round learns from an earlier one.

The default score of an answer is its mean log-likelihood a token under the model, its end included (kMQ, arXiv
2409.11378, leaves the scorer open). It is near 0 or below where the model already answers like the gold rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evoray.evaluation.generation import generate
from evoray.evaluation.likelihood import score_rows
from evoray.evaluation.metric import Judge
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
    answers = generate(model, tokenizer, rows, max_tokens, max_new_tokens, token_budget=token_budget, autocast=autocast)
    asked = [(row, answer) for row, answer in zip(rows, answers, strict=True) if answer is not None]
    if judge is not None:
        found = [_number(judge(row, row.messages[-1].content)) - _number(judge(row, own)) for row, own in asked]
    else:
        both = [*(row for row, _ in asked), *(_answered(row, own) for row, own in asked)]
        scores = score_rows(
            model, tokenizer, both, max_tokens, judge_choices=False, token_budget=token_budget, autocast=autocast
        )
        losses = [score.loss for score in scores]
        found = [own - gold for gold, own in zip(losses[: len(asked)], losses[len(asked) :], strict=True)]
    values = iter(found)
    return [None if answer is None else next(values) for answer in answers]


def _answered(row: Row, answer: str) -> Row:
    return replace(row, messages=(*row.messages[:-1], Message("assistant", answer)))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
