from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel

from evoray.evaluation.feedback import gold_advantage
from evoray.evaluation.generation import generate, tell
from evoray.models.chat import encode
from evoray.records import Message, Row
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
NEW = 12


def row(number: int, question: str, answer: str) -> Row:
    return Row(id=f"r{number}", messages=(Message("user", question), Message("assistant", answer)))


ROWS = [
    row(0, "short", "yes"),
    row(1, "a longer question, " * 3, "a longer answer"),
    Row(id="raw", messages=(Message("assistant", "raw text"),)),
    row(2, "what is it?", "nothing"),
]


def log_likelihood(model: PreTrainedModel, asked: Row, answer: str, *, end: bool) -> float:
    """The mean over the answer's tokens, its end among them or not, in float64, alone."""
    told = Row(id="told", messages=(*asked.messages[:-1], Message("assistant", answer)))
    (encoded,) = encode([told], TOKENIZER, 400)
    ids = torch.tensor([encoded.ids])
    with torch.no_grad():
        logs = copy.deepcopy(model).double()(input_ids=ids).logits[0].log_softmax(-1)
    places = [place for place, supervised in enumerate(encoded.supervised) if supervised]
    places = places if end else places[:-1]  # one token ends a turn
    return sum(float(logs[place - 1, encoded.ids[place]]) for place in places) / len(places)


def test_the_advantage_is_the_likelihood_of_the_gold_answer_less_that_of_the_own(model: PreTrainedModel) -> None:
    found = gold_advantage(model, TOKENIZER, ROWS, 400, NEW)
    own = tell(model, TOKENIZER, ROWS, 400, NEW)
    assert {one.ended for one in own if one is not None} == {True, False}, "one comes to an end, and one is cut off"
    for asked, answer, advantage in zip(ROWS, own, found, strict=True):
        if asked.id == "raw":
            assert answer is None and advantage is None
            continue
        assert answer is not None
        gold, told = (
            log_likelihood(model, asked, text, end=answer.ended) for text in (asked.messages[-1].content, answer.text)
        )
        assert advantage == pytest.approx(gold - told, abs=1e-4)


def test_an_answer_that_is_the_gold_one_has_no_advantage(model: PreTrainedModel) -> None:
    (own,) = generate(model, TOKENIZER, ROWS[:1], 400, NEW)
    assert own
    assert gold_advantage(model, TOKENIZER, [row(9, "short", own)], 400, NEW) == [pytest.approx(0.0, abs=1e-6)]


def test_a_judge_scores_both_answers(model: PreTrainedModel) -> None:
    own = generate(model, TOKENIZER, ROWS, 400, NEW)
    found = gold_advantage(model, TOKENIZER, ROWS, 400, NEW, judge=lambda _row, answer: float(len(answer)))
    for asked, answer, advantage in zip(ROWS, own, found, strict=True):
        assert advantage == (None if answer is None else len(asked.messages[-1].content) - len(answer))
