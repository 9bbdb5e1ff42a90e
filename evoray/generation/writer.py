"""A generator in this process: a causal model of `transformers` with its chat template, sampled in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evoray.errors import ConfigError
from evoray.generation.prompts import Answer, Prompt, turns
from evoray.models.chat import encode_prompts
from evoray.models.generating import Sampling, context_of, write
from evoray.records import Message, Row


@dataclass(frozen=True, kw_only=True)
class Writer:
    """How a model is asked. opening: text that its answer begins with, so that small models keep to the form."""

    temperature: float
    top_p: float
    max_new_tokens: int
    opening: str = ""
    system: str | None = None
    token_budget: int = 8192

    def answers(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt],
        autocast: torch.dtype | None = None,
    ) -> list[Answer]:
        """An answer to each prompt, opening included: a function of the model, the prompts and their order.

        Raises ConfigError where the model's context does not hold a prompt and its answer.
        """
        room = context_of(model) - self.max_new_tokens
        opening = tokenizer(self.opening, add_special_tokens=False)["input_ids"] if self.opening else []
        asked = encode_prompts([self._row(prompt) for prompt in prompts], tokenizer, 1 << 30)
        held = [[*(ids or []), *opening] for ids in asked]
        longest = max(map(len, held), default=0)
        if longest > room:
            raise ConfigError(
                f"a prompt of {longest} tokens and generation.max_new_tokens = {self.max_new_tokens}, with a context "
                f"of {context_of(model)} tokens",
                "prompts that the generator's context holds together with what it writes",
                "lower generation.examples or max_new_tokens",
            )
        sampling = None
        if self.temperature > 0:
            sampling = Sampling(temperature=self.temperature, top_p=self.top_p, seeds=[one.seed for one in prompts])
        written = write(
            model, tokenizer, held, self.max_new_tokens,
            sampling=sampling, token_budget=self.token_budget, autocast=autocast,
        )  # fmt: skip
        return [
            Answer(
                text=self.opening + tokenizer.decode(one.ids, skip_special_tokens=True),
                cut_off=not one.ended,
                prompt_tokens=len(ids),
                completion_tokens=len(one.ids),
            )
            for ids, one in zip(held, written, strict=True)
        ]

    def _row(self, prompt: Prompt) -> Row:
        messages = (*turns(prompt.text, self.system), Message("assistant", ""))
        return Row(id=f"request {prompt.number}", messages=messages)
