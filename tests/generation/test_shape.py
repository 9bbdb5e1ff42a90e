from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoray.generation.shape import MAX_CHARS, Form, Refused, Sample, Shape
from evoray.records import Message, Row

QUESTION = Shape(options=False, answer=False)
WORKED = Shape(options=False, answer=True)
CHOICE = Shape(options=True, answer=False)


def row(question: str, response: str, choices: tuple[str, ...] | None = None, answer: str | None = None) -> Row:
    turns = (Message("user", question), Message("assistant", response))
    return Row(id="a", messages=turns, choices=choices, answer=answer)


def test_the_shape_is_what_most_rows_have() -> None:
    plain, worked = row("q", "r"), row("q", "so it is 3", answer="3")
    choice = row("q", "x, because", ("x", "y"), "x")
    assert Shape.of([plain, plain, choice]) == QUESTION
    assert Shape.of([worked, worked, plain]) == WORKED
    assert Shape.of([choice, choice, worked]) == CHOICE
    assert not CHOICE.serves(plain) and not WORKED.serves(plain) and QUESTION.serves(choice)
    assert not QUESTION.serves(Row(id="b", messages=(Message("assistant", "raw text"),)))


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1).filter(
    lambda text: ":" not in text and "|" not in text and text.strip("*") == text
)


@given(
    question=TEXT,
    response=TEXT,
    others=st.lists(TEXT, min_size=1, unique=True),
    form=st.sampled_from(["fields", "json"]),
)
def test_what_is_written_is_read_back(question: str, response: str, others: list[str], form: Form) -> None:
    options = (response, *(other for other in others if other != response), "one more")
    assert CHOICE.read(CHOICE.write(row(question, "long talk", options, response), form), form) == [
        Sample(question=question, response=response, options=options, answer=response)
    ]
    assert WORKED.read(WORKED.write(row(question, response, answer="7"), form), form) == [
        Sample(question=question, response=response, answer="7")
    ]


def test_several_samples_with_talk_around_them_are_read_in_order() -> None:
    text = "Sure!\n\n**Question:** one\nand more\nResponse: 1\n\nQuestion: two\nresponse: 2\n\nquestion: three"
    assert QUESTION.read(text, "fields") == [
        Sample(question="one\nand more", response="1"),
        Sample(question="two", response="2"),
        Refused(reason="no response", detail='{"question": "three"}'),
    ]
    text = 'Here:\n```json\n[{"question": "one", "response": "1"},\n {"question": "two", "response": "2"}]\n```'
    assert QUESTION.read(text, "json") == [Sample(question="one", response="1"), Sample(question="two", response="2")]


def test_of_a_text_that_was_cut_off_the_whole_samples_stay() -> None:
    whole = '{"question": "one", "response": "1"}'
    found = QUESTION.read(whole + '\n{"question": "two", "resp', "json")
    assert found[0] == Sample(question="one", response="1")
    assert [one.reason for one in found[1:] if isinstance(one, Refused)] == ["broken JSON"]
    found = QUESTION.read('{"question": "zero", response}, ' + whole, "json")
    assert [type(one) for one in found] == [Refused, Sample]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"question": "q", "options": ["a", "b"]}, "no response"),
        ({"question": "q", "options": ["a", "b"], "response": ""}, "no response"),
        ({"question": " \n", "options": ["a", "b"], "response": "a"}, "no question"),
        ({"question": {"$ref": 1}, "options": ["a", "b"], "response": "a"}, "a question that is no text"),
        ({"question": "q\u0000", "options": ["a", "b"], "response": "a"}, "control characters"),
        ({"question": "q", "options": ["a", "b\u001b[31m"], "response": "a"}, "control characters"),
        ({"question": "half \ud800", "options": ["a", "b"], "response": "a"}, "control characters"),
        ({"question": "q", "options": {"a": 1}, "response": "a"}, "options that are no list"),
        ({"question": "q", "options": "a", "response": "a"}, "fewer than two options, or equal ones"),
        ({"question": "q", "options": ["a", "a"], "response": "a"}, "fewer than two options, or equal ones"),
        ({"question": "q", "options": ["a", 3], "response": "a"}, "a option that is no text"),
        ({"question": "q", "options": ["a", "b"], "response": "c"}, "response not among the options"),
        ({"question": "q" * (MAX_CHARS + 1), "options": ["a", "b"], "response": "a"}, "too long"),
    ],
)
def test_what_has_not_the_shape_is_refused_with_its_reason(values: dict[str, object], reason: str) -> None:
    (found,) = CHOICE.read(json.dumps(values), "json")
    assert isinstance(found, Refused)
    assert found.reason == reason
    assert len(found.detail) <= 500


@pytest.mark.parametrize("form", ["fields", "json"])
@pytest.mark.parametrize("text", ["", "I cannot do that.", "\x00\x01", "[" * 5000, "{" * 5000, "x" * 2_000_000])
def test_rubbish_is_refused_in_either_form(text: str, form: Form) -> None:
    found = QUESTION.read(text, form)
    assert found and all(isinstance(one, Refused) for one in found)


@given(text=st.text(), form=st.sampled_from(["fields", "json"]))
def test_no_text_is_an_error(text: str, form: Form) -> None:
    assert CHOICE.read(text, form)


def test_labels_that_the_shape_does_not_have_are_text() -> None:
    told = row("How much?\nOptions: none", "3 + 15 = 18.\nAnswer: 18")
    assert QUESTION.read(QUESTION.write(told, "fields"), "fields") == [
        Sample(question="How much?\nOptions: none", response="3 + 15 = 18.\nAnswer: 18")
    ]


def test_paragraphs_and_stars_of_a_response_stay() -> None:
    told = row("Write.", "One.\n\n* two *\n\n    three")
    assert QUESTION.read(QUESTION.write(told, "fields"), "fields") == [
        Sample(question="Write.", response="One.\n\n* two *\n\n    three")
    ]


def test_a_number_without_end_is_broken_json() -> None:
    found = QUESTION.read('{"question": ' + "1" * 5000 + "}", "json")
    assert [one.reason for one in found if isinstance(one, Refused)] == ["broken JSON"]


@given(texts=st.tuples(st.text(), st.text()), form=st.sampled_from(["fields", "json"]))
def test_what_reads_back_does_so(texts: tuple[str, str], form: Form) -> None:
    question, response = (text.strip() or "x" for text in texts)
    told = row(question, response)
    (found, *others) = QUESTION.read(QUESTION.write(told, form), form)
    same = isinstance(found, Sample) and not others and [
        found.question.splitlines(), found.response.splitlines()
    ] == [question.splitlines(), response.splitlines()]  # fmt: skip
    assert QUESTION.reads_back(told, form) == same
    assert QUESTION.reads_back(row("What?", "So."), form) and not QUESTION.reads_back(
        row("a", "b\nQuestion: c"), "fields"
    )
