"""Answers that a model generates: greedily, for whole batches of prompts at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evoray.errors import ConfigError
from evoray.models.chat import encode_prompts
from evoray.models.generating import context_of, write
from evoray.records import Row


@dataclass(frozen=True)
class Told:
    """An answer, stripped, and whether the model ended it, rather than the limit of tokens."""

    text: str
    ended: bool


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    max_tokens: int,
    max_new_tokens: int,
    *,
    token_budget: int = 2048,
    autocast: torch.dtype | None = None,
) -> list[str | None]:
    """The texts of `tell`."""
    told = tell(model, tokenizer, rows, max_tokens, max_new_tokens, token_budget=token_budget, autocast=autocast)
    return [None if one is None else one.text for one in told]


def tell(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    max_tokens: int,
    max_new_tokens: int,
    *,
    token_budget: int = 2048,
    autocast: torch.dtype | None = None,
) -> list[Told | None]:
    """The model's answer to every row in place of its last turn; None for raw text, which asks nothing.

    A prompt keeps its last `max_tokens` tokens, or fewer where the model's context would not hold `max_new_tokens`
    beside them; the answer ends with its turn, or cut off. Raises ConfigError where the context holds no prompt
    beside the answer, and as `encode_prompts` and `write`.
    """
    limit = min(max_tokens, context_of(model) - max_new_tokens)
    if limit < 2:
        raise ConfigError(
            f"evaluation.max_new_tokens = {max_new_tokens} with a context of {context_of(model)} tokens",
            "room for a prompt in the model's context",
            "lower evaluation.max_new_tokens",
        )
    prompts = encode_prompts(rows, tokenizer, limit)
    places = [place for place, prompt in enumerate(prompts) if prompt is not None]
    asked = [prompt for prompt in prompts if prompt is not None]
    written = write(model, tokenizer, asked, max_new_tokens, token_budget=token_budget, autocast=autocast)
    answers: list[Told | None] = [None] * len(rows)
    for place, one in zip(places, written, strict=True):
        answers[place] = Told(tokenizer.decode(one.ids, skip_special_tokens=True).strip(), one.ended)
    return answers
