"""The facts are true: checked against values written down here by hand, not against the same packages."""

import datetime

import pytest

from evoray.demo.facts import OTHER_KINDS, TARGET_KINDS, other_facts, target_facts
from evoray.demo.language import roman_numeral

FACTS = [*target_facts(), *other_facts()]
BY_NAME = {(fact.kind, fact.subject): fact for fact in FACTS}


@pytest.mark.parametrize(
    ("kind", "subject", "answer"),
    [
        ("symbol", "gold", "Au"),
        ("symbol", "tungsten", "W"),
        ("atomic number", "uranium", "92"),
        ("atomic number", "carbon", "6"),
        ("capital", "France", "Paris"),
        ("capital", "Australia", "Canberra"),
        ("country", "Nairobi", "Kenya"),
        ("continent", "Peru", "South America"),
        ("continent", "Japan", "Asia"),
        ("continent", "Jamaica", "North America"),
        ("domain", "Switzerland", ".ch"),
        ("plural", "ox", "oxen"),
        ("plural", "city", "cities"),
        ("plural", "crisis", "crises"),
        ("number word", "42", "forty-two"),
        ("ordinal", "52", "fifty-second"),
        ("roman numeral", "94", "XCIV"),
        ("weekday", "1 January 1950", "Sunday"),
        ("conversion", "3 yards in feet", "9"),
        ("conversion", "2 weeks in days", "14"),
        ("arithmetic", "Anna has 20 apples and gets 3.", "23"),
        ("arithmetic", "Ben has 27 apples and loses 8.", "19"),
    ],
)
def test_a_fact_agrees_with_a_value_known_by_hand(kind: str, subject: str, answer: str) -> None:
    assert BY_NAME[kind, subject].answer == answer


def test_each_subject_occurs_once_in_its_kind() -> None:
    assert len(BY_NAME) == len(FACTS)


def test_a_fact_has_several_wordings_and_three_false_answers_none_of_them_true() -> None:
    for fact in FACTS:
        assert len(set(fact.questions)) == len(fact.questions) >= 3
        assert len(set(fact.wrong)) == len(fact.wrong) >= 3
        assert fact.answer not in fact.wrong


def test_the_kind_of_a_fact_is_the_name_it_is_listed_under() -> None:
    for table in (TARGET_KINDS, OTHER_KINDS):
        for kind, build in table.items():
            assert {fact.kind for fact in build()} == {kind}


def test_facts_that_give_one_another_away_share_an_entity() -> None:
    assert BY_NAME["capital", "France"].entity == BY_NAME["country", "Paris"].entity == "France"
    assert BY_NAME["continent", "France"].entity == "France"


def test_no_capital_contains_a_word_of_its_country() -> None:
    for fact in target_facts():
        if fact.kind == "capital":
            assert not set(fact.subject.split()) & set(fact.answer.split())


def test_roman_numerals_read_back_as_the_number() -> None:
    values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
    for number in range(1, 1000):
        digits = [values[letter] for letter in roman_numeral(number)]
        # A smaller letter before a larger one is subtracted: the reading rule, not the writing rule.
        read = sum(-d if any(d < later for later in digits[i + 1 : i + 2]) else d for i, d in enumerate(digits))
        assert read == number


def test_weekdays_agree_with_the_standard_library_parser() -> None:
    for fact in FACTS:
        if fact.kind == "weekday":
            assert datetime.datetime.strptime(fact.subject, "%d %B %Y").strftime("%A") == fact.answer
