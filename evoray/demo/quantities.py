"""Facts that are computed: the weekday of a date, conversions by exact definitions, arithmetic in words."""

from __future__ import annotations

import calendar
import datetime

from evoray.demo.fact import Fact, ask

#: Exact by definition (International System of Units, and the international yard and pound of 1959).
_CONVERSIONS = (
    ("kilometres", "metres", 1000),
    ("metres", "centimetres", 100),
    ("kilograms", "grams", 1000),
    ("tonnes", "kilograms", 1000),
    ("litres", "millilitres", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("feet", "inches", 12),
    ("yards", "feet", 3),
    ("pounds", "ounces", 16),
)
_NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo")
_THINGS = ("apples", "books", "coins", "eggs", "marbles", "pencils", "stamps", "tickets")
_WEEKDAY = (
    "What day of the week was {}?",
    "On which weekday did {} fall?",
    "Name the weekday of {}.",
    "{} was which day of the week?",
)
_CONVERT = (
    "How many {1} are {0}?",
    "Convert {0} to {1}.",
    "Express {0} in {1}.",
    "{0} make how many {1}?",
)


def weekday_facts() -> list[Fact]:
    """Dates from 1950 to 2020, 97 days apart -> weekday."""
    names = tuple(calendar.day_name)
    facts = []
    date = datetime.date(1950, 1, 1)
    while date.year <= 2020:
        written = f"{date.day} {calendar.month_name[date.month]} {date.year}"
        facts.append(ask("weekday", _WEEKDAY, written, names[date.weekday()], names))
        date += datetime.timedelta(days=97)
    return facts


def conversion_facts() -> list[Fact]:
    """2 .. 15 of a larger unit -> the number of a smaller one; the false answers miss the factor or the count."""
    facts = []
    for large, small, factor in _CONVERSIONS:
        for count in range(2, 16):
            wrong = [str(n) for n in (count * factor * 10, count + factor, (count + 1) * factor, (count - 1) * factor)]
            fact = Fact(
                kind="conversion",
                subject=f"{count} {large} in {small}",
                entity=f"{count} {large} in {small}",
                questions=tuple(wording.format(f"{count} {large}", small) for wording in _CONVERT),
                answer=str(count * factor),
                wrong=tuple(dict.fromkeys(n for n in wrong if n != str(count * factor))),
            )
            facts.append(fact)
    return facts


def arithmetic_facts() -> list[Fact]:
    """Small stories that add or take away -> the number; the false answers are off by one or two, or by ten."""
    facts = []
    for number in range(160):
        name, thing = _NAMES[number % 8], _THINGS[number // 8 % 8]
        first, second = 20 + number * 7 % 61, 3 + number * 5 % 16
        adds = number % 2 == 0
        result = first + second if adds else first - second
        story = f"{name} has {first} {thing} and {'gets' if adds else 'loses'} {second}."
        wordings = (
            "{} How many are there now?",
            f"{{}} How many {thing} does {name} have?",
            "{} Give the new number.",
        )
        wrong = (str(result + off) for off in (1, -1, 2, -2, 10, -10))
        facts.append(ask("arithmetic", wordings, story, str(result), wrong))
    return facts
