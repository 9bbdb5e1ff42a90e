from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoray.errors import ConfigError, TargetError
from evoray.evaluation.extraction import check_extract, exact_match, extracted, matches, rule_of
from evoray.records import Message, Row


def row(reference: str, **facts: Any) -> Row:
    return Row(id="r", messages=(Message("user", "q"), Message("assistant", reference)), **facts)


@pytest.mark.parametrize(
    ("rule", "text", "answer"),
    [
        ("whole", "  a b\n", "a b"),
        ("whole", " \n", None),
        ("first_line", "\n\n Paris \nis it", "Paris"),
        ("first_line", "", None),
        ("last_number", "2 and 3.", "3"),
        ("last_number", "it costs $1,234.50.", "$1,234.50"),
        ("last_number", "from 10-12", "12"),
        ("last_number", "x = -4", "-4"),
        ("last_number", "1, 2,3", "3"),
        ("last_number", "12 of H2O", "12"),
        ("last_number", "5kg", "5"),
        ("last_number", "6.02e23 of them", "6.02e23"),
        ("last_number", "none", None),
        ("letter", "B", "B"),
        ("letter", "(B) Paris", "B"),
        ("letter", "B. Paris", "B"),
        ("letter", "I think that it is **C**", "C"),
        ("letter", "Answer: B because (A) is wrong", "B"),
        ("letter", "The correct answer is D.", "D"),
        ("letter", "A cat, I think", None),
        ("letter", "I don't know", None),
        ("boxed", r"so \boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        ("boxed", r"\boxed{1}, no, \boxed{2}", "2"),
        ("boxed", r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("boxed", r"\boxed{\left\{ 1 \right.} and", r"\left\{ 1 \right."),
        ("boxed", r"\boxed{1} or \boxed{2 cut o", "1"),
        ("boxed", "2", None),
        ("after:####", "1 #### 2 #### 42\nmore", "42"),
        ("after:Answer:", "Answer:\n\n42", "42"),
        ("after:####", "42", None),
        ("after:a:b", "x a:b y", "y"),
        (r"regex:(\d+) km", "3 km, then 5 km", "5"),
        (r"regex:\d+", "3 km, then 5 km", "5"),
        (r"regex:x|(y)", "y x", None),
        (r"regex:\d+", "far", None),
    ],
)
def test_each_rule_takes_what_it_says(rule: str, text: str, answer: str | None) -> None:
    check_extract(rule)
    assert extracted(text, rule) == answer


@pytest.mark.parametrize(
    ("text", "gold", "rule", "same"),
    [
        ("so 12.0.", "12", "last_number", True),
        ("-1,234.50", "$-1234.5", "last_number", True),
        ("\u22127", "-7", "last_number", True),
        ("1e3", "1,000", "last_number", True),
        ("0.1", "0.10000000000000000001", "last_number", False),
        ("12", "-12", "last_number", False),
        ("  The   Hague.\n", "the hague", "whole", True),
        ("The Hague, I think", "the hague", "whole", False),
        ("STRASSE", "straße", "whole", True),
        ("12.0", "12", "whole", False),
        ("no idea", "12", "last_number", False),
        (r"\boxed{}", "", "boxed", False),
    ],
)
def test_answers_are_compared_as_numbers_or_as_normalised_text(text: str, gold: str, rule: str, same: bool) -> None:
    assert matches(text, gold, rule) is same


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_a_number_is_the_same_however_it_is_written(number: Any) -> None:
    for written in (f"{number:,}", f"is {number} .", f"{number}000", f"= {number:f}!"):
        assert matches(written, str(number), "last_number")


@given(st.text(max_size=40), st.sampled_from(["whole", "first_line", "last_number", "letter", "boxed", "after:a"]))
def test_what_is_cut_out_of_any_text_stands_in_it(text: str, rule: str) -> None:
    answer = extracted(text, rule)
    assert answer is None or (answer in text and answer == answer.strip() != "")


def test_the_gold_answer_is_the_rows_own_or_else_that_of_the_reference() -> None:
    reasoned = row("3 * 4 = 12\n#### 12")
    assert exact_match(reasoned, "12", "last_number") == 1.0
    assert exact_match(reasoned, "#### 12", "after:####") == 1.0
    assert exact_match(row("3 * 4 = 12", answer="13"), "12", "last_number") == 0.0
    assert exact_match(row("twelve", answer="12 apples"), "so 12", "last_number") == 1.0


@pytest.mark.parametrize("facts", [{}, {"answer": "twelve"}])
def test_a_row_without_a_gold_answer_to_compare_with_has_no_verdict(facts: dict[str, str]) -> None:
    assert exact_match(row("twelve", **facts), "12", "last_number") is None


def test_a_response_without_an_answer_is_wrong() -> None:
    assert exact_match(row("12"), "no idea", "last_number") == 0.0
    assert exact_match(row("12"), "", "whole") == 0.0


def test_a_letter_is_compared_with_a_letter_or_stands_for_the_choice_in_its_place() -> None:
    cities = ("Rome", "Vitamin C", "Oslo")
    asked = row("Vitamin C", choices=cities, answer="Vitamin C")
    assert [exact_match(asked, text, "letter") for text in ("(A)", "B.", "C", "Z.", "Vitamin")] == [0, 1, 0, 0, 0]
    assert exact_match(row("B", answer="B"), "Answer: B", "letter") == 1.0
    swapped = row("B", choices=("B", "A"), answer="B")
    assert [exact_match(swapped, text, "letter") for text in ("A", "B")] == [0, 1]


def test_rules_by_subtask() -> None:
    rules = {"maths": "last_number", "*": "first_line"}
    check_extract(rules)
    assert rule_of(rules, "maths") == "last_number"
    assert rule_of(rules, "history") == rule_of(rules, None) == "first_line"
    assert rule_of("boxed", "maths") == "boxed"
    with pytest.raises(TargetError, match="'history'"):
        rule_of({"maths": "last_number"}, "history")


@pytest.mark.parametrize(
    ("extract", "hint"),
    [
        ("last_numbr", "did you mean 'last_number'?"),
        ("after", "did you mean 'after:...'?"),
        ("after:", "did you mean 'after:...'?"),
        ("whole:x", "did you mean 'whole'?"),
        ("xyzzy", "choose one of them"),
        ("regex:(", "correct it"),
        ({"maths": "boxd"}, "did you mean 'boxed'?"),
        ({}, "whole"),
    ],
)
def test_a_rule_that_does_not_exist_is_refused_with_the_nearest(extract: str | dict[str, str], hint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(hint)) as refused:
        check_extract(extract)
    assert "evaluation.extract" in refused.value.received
    assert not isinstance(extract, dict) or not extract or "evaluation.extract.maths" in refused.value.received
