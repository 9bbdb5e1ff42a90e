from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from evoray.generation.guard import NGRAM, SHORTEST, Guard

LONG = "the quick brown fox jumps over the lazy dog while seven small birds look on from a tree"


def test_thirteen_words_in_a_row_are_a_repeat_and_twelve_are_none() -> None:
    guard, words = Guard([("test", LONG)]), LONG.split()
    assert guard.repeats("Well: " + ", ".join(words[2:15]).upper() + "!") == "test: " + " ".join(words[2:15])
    assert guard.repeats(" ".join(words[2:14])) is None
    assert guard.repeats(" ".join([*words[:8], "not", *words[8:]])) is None


def test_a_short_row_is_compared_whole() -> None:
    guard = Guard([("test", "Is the sky blue today?"), ("dev", "Too short it is")])
    assert guard.repeats("so, is the sky blue today") == "test: is the sky blue today"
    assert guard.repeats("is the sky blue") is None
    assert guard.repeats("too short it is") is None


def test_the_wording_of_the_task_is_not_compared() -> None:
    wording = "choose the one option of those given below which best completes the following sentence"
    rows = [("test", f"{wording} {word * 3}") for word in ("alpha", "beta", "gamma")]
    assert Guard(rows[:2]).repeats(wording) is not None
    assert Guard(rows).repeats(f"{wording} delta") is None


def test_scripts_without_spaces_are_guarded_letter_by_letter_and_accents_in_either_form() -> None:
    chinese = "\u8bf7\u95ee\u4e2d\u56fd\u7684\u9996\u90fd\u662f\u54ea\u4e00\u5ea7\u57ce\u5e02\uff1f"
    assert Guard([("test", chinese)]).repeats(f"\u597d\uff1a{chinese}\u5317\u4eac") is not None
    assert Guard([("test", chinese)]).repeats("\u4e2d\u56fd\u7684\u9996\u90fd") is None
    french = "o\u00f9 est n\u00e9 l'\u00e9crivain c\u00e9l\u00e8bre de ce r\u00e9cit"
    assert Guard([("test", french)]).repeats(unicodedata.normalize("NFD", french)) is not None


WORDS = st.lists(st.sampled_from("abc"), max_size=30)


@given(rows=st.lists(WORDS, max_size=2), text=WORDS)
def test_repeats_are_those_of_a_plain_search(rows: list[list[str]], text: list[str]) -> None:
    found = Guard([("test", " ".join(words)) for words in rows]).repeats(" ".join(text)) is not None
    expected = False
    for words in rows:
        length = min(NGRAM, len(words))
        if length >= SHORTEST:
            starts = range(len(words) - length + 1)
            spans = [words[start : start + length] for start in starts]
            expected |= any(text[place : place + length] in spans for place in range(len(text)))
    assert found == expected
