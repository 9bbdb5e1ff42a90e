"""Answers that a model generates: greedily, for whole batches of prompts at once.

Prompts are padded on the left, so that all answers of a batch begin in the same column; masked padding and positions
that skip over it leave every answer what it is alone, but for rounding. Nothing is sampled or penalised, whatever the
model's own generation config says: of it only the tokens that end an answer are heeded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from evoray.errors import ConfigError
from evoray.evaluation.forward import evaluating, padding_token
from evoray.models.chat import encode_prompts, end_of_turn
from evoray.models.loss import token_budget_batches
from evoray.records import Row


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
    """The model's answer to every row in place of its last turn, stripped; None for raw text, which asks nothing.

    A prompt keeps its last `max_tokens` tokens, or fewer where the model's context would not hold `max_new_tokens`
    beside them; the answer ends with its turn, or cut off. Batches hold at most `token_budget` tokens, padding and
    `max_new_tokens` included (a longer prompt goes alone). Raises ConfigError where the context holds no prompt
    beside the answer, and as `encode_prompts` and `padding_token`.
    """
    limit = min(max_tokens, _context(model) - max_new_tokens)
    if limit < 2:
        raise ConfigError(
            f"evaluation.max_new_tokens = {max_new_tokens} with a context of {_context(model)} tokens",
            "room for a prompt in the model's context",
            "lower evaluation.max_new_tokens",
        )
    prompts = encode_prompts(rows, tokenizer, limit)
    places = [place for place, prompt in enumerate(prompts) if prompt is not None]
    asked = [prompt for prompt in prompts if prompt is not None]
    ends = _ends(model, tokenizer)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=padding_token(tokenizer),
        eos_token_id=sorted(ends) or None,
    )
    answers: list[str | None] = [None] * len(rows)
    with evaluating(model), _neutral(model):
        for group in token_budget_batches([len(prompt) + max_new_tokens for prompt in asked], token_budget):
            for index, ids in zip(group, _batch(model, [asked[i] for i in group], settings, autocast), strict=True):
                answers[places[index]] = tokenizer.decode(_until(ids, ends), skip_special_tokens=True).strip()
    return answers


def _batch(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], settings: GenerationConfig, autocast: torch.dtype | None
) -> list[list[int]]:
    """The new tokens of each prompt, padded on the right where an answer ended before the others."""
    device = next(model.parameters()).device
    longest = max(len(prompt) for prompt in prompts)
    padding = [longest - len(prompt) for prompt in prompts]
    ids_BT = torch.tensor(
        [[settings.pad_token_id] * pad + [*prompt] for pad, prompt in zip(padding, prompts, strict=True)], device=device
    )
    seen_BT = (torch.arange(longest, device=device) >= torch.tensor(padding, device=device)[:, None]).long()
    with torch.autocast(device.type, autocast, enabled=autocast is not None):
        output_BT = model.generate(input_ids=ids_BT, attention_mask=seen_BT, generation_config=settings)
    new: list[list[int]] = output_BT[:, longest:].tolist()
    return new


@contextmanager
def _neutral(model: PreTrainedModel) -> Iterator[None]:
    """Within it the model has no generation config of its own: `generate` would fill up ours from it."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end an answer: the model's, the tokenizer's and the chat template's."""
    own = model.generation_config.eos_token_id
    ends = own if isinstance(own, list) else [own]
    return {token for token in (*ends, tokenizer.eos_token_id, end_of_turn(tokenizer)) if token is not None}


def _until(ids: Sequence[int], ends: set[int]) -> list[int]:
    stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return list(ids[:stop])


def _context(model: PreTrainedModel) -> int:
    """Tokens that the model has positions for; a model that names no bound has none."""
    return int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
