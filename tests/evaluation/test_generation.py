from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from evoray.errors import ConfigError
from evoray.evaluation.generation import generate
from evoray.models import generating
from evoray.models.chat import encode, encode_prompts, end_of_turn
from evoray.records import Message, Row
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
END = TOKENIZER.eos_token_id
NEW = 12


def ask(number: int, question: str) -> Row:
    return Row(id=f"r{number}", messages=(Message("user", question), Message("assistant", "a reference")))


ROWS = [
    ask(0, "short"),
    ask(1, "a longer question, " * 4),
    Row(id="raw", messages=(Message("assistant", "raw text"),)),
    Row(id="system", messages=(Message("system", "Be brief."), *ask(3, "and now?").messages)),
    ask(4, "what is it?"),
    Row(id="long", messages=(Message("assistant", "hello"), *ask(5, "once").messages, *ask(5, "twice").messages)),
]


def tokens_by_hand(model: PreTrainedModel, row: Row, ends: tuple[int, ...]) -> list[int]:
    """Argmax over full forward passes in float64, one token after the other: no cache, no padding, no batch."""
    exact = copy.deepcopy(model).double()
    turns = [{"role": turn.role, "content": turn.content} for turn in row.messages[:-1]]
    text = TOKENIZER.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    answer: list[int] = []
    while len(answer) < NEW:
        with torch.no_grad():
            token = int(exact(input_ids=torch.tensor([[*ids, *answer]])).logits[0, -1].argmax())
        if token in ends:
            break
        answer.append(token)
    return answer


def by_hand(model: PreTrainedModel, row: Row, ends: tuple[int, ...] = (END,)) -> str:
    return str(TOKENIZER.decode(tokens_by_hand(model, row, ends), skip_special_tokens=True)).strip()


@pytest.mark.parametrize("padding", ["<|pad|>", "<|end|>"])  # filled up with what ends a turn, as many models are
@pytest.mark.parametrize("token_budget", [1, 150, 4096])
def test_answers_are_those_of_a_greedy_loop_written_by_hand(
    model: PreTrainedModel, token_budget: int, padding: str
) -> None:
    expected = [by_hand(model, row) if row.id != "raw" else None for row in ROWS]
    assert len(set(expected)) == len(ROWS)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = padding
    assert generate(model, tokenizer, ROWS, 200, NEW, token_budget=token_budget) == expected


def test_an_answer_ends_with_its_turn_and_what_the_batch_goes_on_with_is_no_part_of_it(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third token of the first answer is made the end of a turn: other answers of the batch go on."""
    third = tokens_by_hand(model, ROWS[0], ends=(END,))[2]
    monkeypatch.setattr(generating, "end_of_turn", lambda _tokenizer: third)
    expected = [by_hand(model, row, ends=(END, third)) for row in ROWS if row.id != "raw"]
    assert expected[0] != by_hand(model, ROWS[0])
    assert [one for one in generate(model, TOKENIZER, ROWS, 200, NEW) if one is not None] == expected


@pytest.mark.parametrize("own", [{"do_sample": True, "temperature": 0.1, "top_k": 2}, {"repetition_penalty": 9.0}])
def test_what_the_model_says_of_sampling_and_penalties_changes_nothing_and_stays_its_own(
    model: PreTrainedModel, own: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    expected = generate(model, TOKENIZER, ROWS, 200, NEW)
    tuned = copy.deepcopy(model)
    tuned.generation_config = GenerationConfig(eos_token_id=[END], **own)
    tuned.train()
    with caplog.at_level(logging.WARNING):
        assert generate(tuned, TOKENIZER, ROWS, 200, NEW) == expected
    assert caplog.messages == []
    assert tuned.training
    assert {name: getattr(tuned.generation_config, name) for name in own} == own


def test_every_token_that_ends_an_answer_for_model_tokenizer_or_template_does(model: PreTrainedModel) -> None:
    free = copy.deepcopy(model)
    with torch.no_grad():
        first = encode_prompts(ROWS[:1], TOKENIZER, 200)[0]
        token = int(free(input_ids=torch.tensor([first])).logits[0, -1].argmax())
    free.generation_config.eos_token_id = [END, token]
    assert generate(free, TOKENIZER, ROWS[:1], 200, NEW) == [""]
    other = tiny_tokenizer()
    other.eos_token = "<|pad|>"
    assert end_of_turn(other) == END
    other.chat_template = None
    assert end_of_turn(other) == other.eos_token_id
    other.eos_token = None
    assert end_of_turn(other) is None


def test_prompts_are_what_stands_before_the_last_answer() -> None:
    prompts = encode_prompts(ROWS, TOKENIZER, 500)
    for row, prompt, whole in zip(ROWS, prompts, encode(ROWS, TOKENIZER, 500), strict=True):
        if row.id == "raw":
            assert prompt is None
            continue
        assert prompt is not None
        answer = TOKENIZER(row.messages[-1].content, add_special_tokens=False)["input_ids"]
        assert whole.ids[: len(prompt)] == prompt
        assert whole.ids[len(prompt) : len(prompt) + len(answer)] == answer


def test_prompts_of_a_tokenizer_without_a_template_are_plain_text() -> None:
    bare = tiny_tokenizer()
    bare.chat_template = None
    (prompt,) = encode_prompts(ROWS[:1], bare, 100)
    assert prompt is not None
    assert bare.decode(prompt) == "short\n\n"


def test_a_prompt_that_is_too_long_keeps_its_end(model: PreTrainedModel) -> None:
    (whole,), (cut,) = (encode_prompts(ROWS[1:2], TOKENIZER, limit) for limit in (500, 20))
    assert whole is not None
    assert cut == whole[-20:]
    # The model has 512 positions: beside 500 new tokens there is room for the last 12 of the prompt.
    (answer,) = generate(model, TOKENIZER, ROWS[1:2], 400, 500)
    assert answer is not None
    with pytest.raises(ConfigError, match=r"context of 512 tokens"):
        generate(model, TOKENIZER, ROWS, 400, 511)


def test_no_rows_and_rows_of_raw_text_alone_generate_nothing(model: PreTrainedModel) -> None:
    assert generate(model, TOKENIZER, [], 100, 4) == []
    assert generate(model, TOKENIZER, ROWS[2:3], 100, 4) == [None]


def test_bfloat16_generates_too(model: PreTrainedModel) -> None:
    answers = generate(model, TOKENIZER, ROWS, 200, NEW, autocast=torch.bfloat16)
    assert [answer is None for answer in answers] == [row.id == "raw" for row in ROWS]
