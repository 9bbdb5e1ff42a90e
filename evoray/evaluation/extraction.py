r"""Cut an answer out of generated text by a named rule, and compare it with the gold answer.

| rule | what it takes |
|---|---|
| `whole` | all of the text |
| `first_line` | its first line that is not empty |
| `last_number` | its last number: `-1,234.5`, `$12.`, `3e8`; of `1/2` the 2 |
| `letter` | the option letter that it settles on: `Answer: B`, `(B)`, `B.`, a `B` that ends its line |
| `boxed` | what its last complete `\boxed{...}` holds, braces and all |
| `after:MARKER` | the line that follows the last MARKER |
| `regex:PATTERN` | the last match of PATTERN: its first group where it has one |
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from decimal import Decimal

from evoray.errors import ConfigError, TargetError
from evoray.records import Row

#: The subtask in a mapping of rules that stands for all others.
OTHERS = "*"

# A sign after a word or a bracket is a minus or a hyphen between two numbers; digits inside a word are no number.
_NUMBER = re.compile(
    r"(?:(?<![\w).])(?P<sign>[-+\u2212]))?\$?(?<![\w.])"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d+)(?:\.\d+)?|\.\d+)(?P<power>[eE][-+]?\d{1,3}(?!\d))?"
)
# From the most to the least explicit: the first pattern that matches anywhere decides, by its last match.
_LETTERS = (
    re.compile(r"\b(?i:answer|option|choice)(?i:\s+is)?\s*:?\s*[(\[{*\"']*([A-Z])(?![\w'])"),
    re.compile(r"[(\[{]([A-Z])[)\]}]"),
    re.compile(r"(?<![\w'])([A-Z])(?=[.,:;)*]|\s*$)", re.MULTILINE),
)
_LONE = re.compile(r"\W*[A-Z]\W*")
_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def check_extract(extract: str | Mapping[str, str]) -> None:
    """Raise ConfigError for a rule that does not exist, with the nearest one, and for a pattern that is none."""
    rules = {"": extract} if isinstance(extract, str) else extract
    if not rules:
        raise ConfigError("evaluation.extract without rules", "at least one", f"add {OTHERS!r}: whole")
    for subtask, rule in rules.items():
        _check_rule(rule, f"evaluation.extract.{subtask}" if subtask else "evaluation.extract")


def rule_of(extract: str | Mapping[str, str], subtask: str | None) -> str:
    """The rule for rows of a subtask. Raises TargetError where a mapping has none, and no "*" for all others."""
    if isinstance(extract, str):
        return extract
    rule = extract.get(subtask or OTHERS, extract.get(OTHERS))
    if rule is None:
        raise TargetError(
            f"a row of subtask {subtask!r}, and evaluation.extract for {', '.join(extract)}",
            "a rule for the subtask of every row",
            f"name the subtask in evaluation.extract, or add {OTHERS!r}: whole for all others",
        )
    return rule


def extracted(text: str, rule: str) -> str | None:
    """The answer that a checked rule cuts out of `text`; None where it finds nothing."""
    name, _, argument = rule.partition(":")
    found = _WITH_ARGUMENT[name](text, argument) if name in _WITH_ARGUMENT else _PLAIN[rule](text)
    return found.strip() or None if found is not None else None


def matches(text: str, gold: str, rule: str) -> bool:
    """Whether the rule cuts the gold answer out of `text`: equal as numbers (`last_number`) or as normalised text.

    Text is normalised by case, white space and a full stop at its end. False where the rule finds nothing.
    """
    answer = extracted(text, rule)
    return answer is not None and _normalised(answer, rule) == _normalised(gold, rule)


def exact_match(row: Row, response: str, rule: str) -> float | None:
    """1.0 where the response gives the row's gold answer, else 0.0; None where there is none to compare with.

    The gold answer is `row.answer`, or else what the rule cuts out of the reference response. Under `letter`, where
    the gold answer is the text of a choice, the letter stands for the choice in its place: A for the first one.
    """
    gold = row.answer if row.answer is not None else extracted(row.messages[-1].content, rule)
    if gold is not None and rule == "letter" and row.choices and gold in row.choices and not _LONE.fullmatch(gold):
        return float(_choice(row.choices, extracted(response, rule)) == gold)
    if gold is not None and rule in _READ_FROM_GOLD:
        gold = extracted(gold, rule)
    return None if gold is None else float(matches(response, gold, rule))


def _choice(choices: tuple[str, ...], letter: str | None) -> str | None:
    place = len(choices) if letter is None else ord(letter) - ord("A")
    return choices[place] if place < len(choices) else None


def _check_rule(rule: str, key: str) -> None:
    name, colon, argument = rule.partition(":")
    known = [*_PLAIN, *(f"{other}:..." for other in _WITH_ARGUMENT)]
    if not (rule in _PLAIN or (name in _WITH_ARGUMENT and argument)):
        near = difflib.get_close_matches(name, [*_PLAIN, *_WITH_ARGUMENT], n=1)
        hint = f"did you mean {near[0] + ':...' * (near[0] in _WITH_ARGUMENT)!r}?" if near else "choose one of them"
        raise ConfigError(f"{key}: {rule!r}", f"one of {', '.join(known)}", hint)
    if name == "regex" and colon:
        try:
            re.compile(argument)
        except re.error as error:
            raise ConfigError(f"{key}: {rule!r}: {error}", "a regular expression of Python", "correct it") from error


def _normalised(answer: str, rule: str) -> str | Decimal:
    if rule == "last_number":
        found = _last(_NUMBER, answer)
        if found is not None:
            return _value(found)
    return " ".join(answer.split()).removesuffix(".").rstrip().casefold()


def _value(number: re.Match[str]) -> Decimal:
    sign = "-" if number["sign"] in ("-", "\u2212") else ""
    return Decimal(f"{sign}{number['digits'].replace(',', '')}{number['power'] or ''}")


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007 - the last one is wanted
        continue
    return found


def _first_line(text: str) -> str | None:
    return next((line for line in text.splitlines() if line.strip()), None)


def _last_number(text: str) -> str | None:
    found = _last(_NUMBER, text)
    return None if found is None else found[0]


def _letter(text: str) -> str | None:
    found = next((match for match in (_last(pattern, text) for pattern in _LETTERS) if match), None)
    return None if found is None else found[1]


def _boxed(text: str) -> str | None:
    boxes = (_closed(text, match.end()) for match in reversed(list(_BOX.finditer(text))))
    return next((box for box in boxes if box is not None), None)


def _closed(text: str, start: int) -> str | None:
    """The text from `start` up to the brace that closes the one before it; None where none does."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start : brace.start()]
    return None


def _after(text: str, marker: str) -> str | None:
    _, found, rest = text.rpartition(marker)
    return _first_line(rest) if found else None


def _regex(text: str, pattern: str) -> str | None:
    found = _last(re.compile(pattern), text)
    if found is None:
        return None
    return found[1] if found.re.groups else found[0]


_PLAIN: Mapping[str, Callable[[str], str | None]] = {
    "whole": lambda text: text,
    "first_line": _first_line,
    "last_number": _last_number,
    "letter": _letter,
    "boxed": _boxed,
}
_WITH_ARGUMENT: Mapping[str, Callable[[str, str], str | None]] = {"after": _after, "regex": _regex}
#: Rules that read a gold answer as they read a response: a number or a letter may stand among other words there, too.
_READ_FROM_GOLD = ("last_number", "letter")
