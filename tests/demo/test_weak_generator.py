"""Each label means what it says."""

import random

import pytest

from evoray.demo import weak_generator as weak
from evoray.demo.facts import other_facts, target_facts
from evoray.demo.weak_generator import Label

FACT = next(fact for fact in target_facts() if fact.kind == "capital" and fact.subject == "France")
SEEDS = range(60)


def test_a_good_row_asks_the_fact_and_answers_it() -> None:
    row = weak.good(FACT, 0)
    assert (row.instruction, row.output, row.label) == ("What is the capital of France?", "Paris", Label.GOOD)


def test_a_wrong_row_has_the_question_and_a_false_answer_of_the_same_type() -> None:
    capitals = {fact.answer for fact in target_facts() if fact.kind == "capital"}
    for seed in SEEDS:
        row = weak.wrong(FACT, random.Random(seed))
        assert row.instruction in FACT.questions
        assert row.output in capitals - {"Paris"}


def test_a_duplicate_differs_in_its_bytes_but_keeps_the_words_and_the_answer() -> None:
    row = weak.good(FACT, 0)
    words = {"what", "is", "the", "capital", "of", "france"}
    for seed in SEEDS:
        copy = weak.duplicate(row, random.Random(seed))
        assert copy.instruction != row.instruction
        assert words <= set(copy.instruction.lower().replace("?", " ").split())
        assert str(copy.output).rstrip(".") == "Paris"
        assert copy.label is Label.DUPLICATE


def test_an_exact_copy_differs_only_in_its_label() -> None:
    row = weak.good(FACT, 1)
    copy = weak.exact_copy(row)
    assert (copy.source, copy.instruction, copy.output) == (row.source, row.instruction, row.output)
    assert copy.label is Label.DUPLICATE


@pytest.mark.parametrize("seed", SEEDS)
def test_a_broken_row_can_be_read_but_is_not_the_right_pair(seed: int) -> None:
    row = weak.broken(FACT, random.Random(seed))
    assert row.instruction.strip()
    assert row.output
    assert (row.instruction, row.output) not in {(question, FACT.answer) for question in FACT.questions}


def test_an_unusable_row_has_no_answer() -> None:
    outputs = {weak.unusable(FACT, random.Random(seed)).output for seed in SEEDS}
    assert None in outputs
    assert all(not (output or "").strip() for output in outputs)


def test_off_task_rows_are_right_and_of_another_kind() -> None:
    fact = other_facts()[0]
    row = weak.off_task(fact, random.Random(0))
    assert row.output == fact.answer
    assert row.source not in {target.kind for target in target_facts()}


def test_chatter_varies_and_sometimes_has_an_input() -> None:
    rows = [weak.chatter(random.Random(seed)) for seed in SEEDS]
    assert len({row.instruction for row in rows}) > 20
    assert {row.input is None for row in rows} == {True, False}
