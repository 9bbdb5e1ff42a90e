"""Texts that a model writes, for whole batches of prompts at once: the likeliest tokens, or drawn ones.

Prompts are padded on the left, so that all answers of a batch begin in the same column; masked padding and positions
that skip over it leave every answer what it is alone, but for rounding. Nothing is penalised, whatever the model's own
generation config says: of it only the tokens that end an answer are heeded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from evoray.errors import ModelError
from evoray.models.chat import end_of_turn
from evoray.models.loss import token_budget_batches
from evoray.models.memory import in_parts


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float
    top_p: float
    seeds: Sequence[int]  # of each prompt; a batch is drawn with that of its first one


@dataclass(frozen=True, kw_only=True)
class Written:
    """Tokens of an answer, without the one that ends it."""

    ids: list[int]
    ended: bool  # by itself, and not by the limit


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    sampling: Sampling | None = None,
    token_budget: int = 2048,
    autocast: torch.dtype | None = None,
) -> list[Written]:
    """What the model writes after each prompt; without `sampling` always the likeliest token.

    Batches hold at most `token_budget` tokens, padding and `max_new_tokens` included (a longer prompt goes alone); one
    that does not fit into memory is cut in two. With sampling an answer is a function of the prompts of its batch,
    their order and seeds. Raises as `padding_token`.
    """
    ends = _ends(model, tokenizer)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=sampling is not None,
        num_beams=1,
        use_cache=True,
        pad_token_id=padding_token(tokenizer),
        eos_token_id=sorted(ends) or None,
    )
    if sampling is not None:
        settings.update(temperature=sampling.temperature, top_p=sampling.top_p, top_k=0)
    found: dict[int, Written] = {}
    with evaluating(model), _neutral(model), torch.random.fork_rng(enabled=sampling is not None):

        def answer(group: Sequence[int]) -> None:
            if sampling is not None:
                torch.manual_seed(sampling.seeds[group[0]])
            for place, ids in zip(group, _batch(model, [prompts[i] for i in group], settings, autocast), strict=True):
                stop = next((at for at, token in enumerate(ids) if token in ends), len(ids))
                found[place] = Written(ids=ids[:stop], ended=stop < len(ids))

        for group in token_budget_batches([len(prompt) + max_new_tokens for prompt in prompts], token_budget):
            in_parts(group, answer)
    return [found[place] for place in range(len(prompts))]


def context_of(model: PreTrainedModel) -> int:
    """Tokens that the model has positions for; a model that names no bound has none."""
    return int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)


def padding_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """What batches are filled up with. Raises ModelError for a tokenizer without padding and end-of-text tokens."""
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if not isinstance(pad_id, int):
        raise ModelError(
            "a tokenizer without padding and end-of-text tokens",
            "one of them, to fill up batches with",
            "set pad_token in the tokenizer's folder",
        )
    return pad_id


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients; the model is left in the mode it was in."""
    training = model.training
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if training:
            model.train()


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
