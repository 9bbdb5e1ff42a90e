"""English words: plurals, numbers in words and ordinals, from the package `inflect`; Roman numerals by rule."""

from __future__ import annotations

import inflect

from evoray.demo.fact import Fact, ask

#: Words of both regular and irregular plural; none with two plurals in use (cactus, fish, hoof).
_NOUNS = (
    "alley analysis apple army arrow axis baby bacterium bakery basis bead bean beach bench berry bird body bone "
    "book box boy branch bridge brush bus bush butterfly calf candle castle cat chair cherry chief child church "
    "city class cliff cloud coach copy country criterion crisis cross curve daisy day desk diagnosis dish dog "
    "donkey door dress eagle elf enemy engine essay family farm fairy flag flower foot forest fox galaxy garden "
    "gas giraffe glass goose guess half hammer hand hat hero horse house hypothesis island jacket jelly jersey "
    "journey judge jury key king kiss kite knife lady lake lamp leaf library lion loaf lorry lunch man map "
    "match memory mirror monkey mouse mountain needle nurse oasis orchid owl ox parenthesis party peach pebble "
    "phenomenon piano pocket policy pony poppy potato prize puppy pulley quiz ray reef river rose ruby safe "
    "sandwich sheep shelf ship sky spy star stimulus stitch stone story stork studio switch synthesis table tax "
    "thesis tiger tomato tooth torch toy tree turkey turtle valley video wall watch wave wife window wish "
    "witch wolf woman worry yacht zebra zoo"
)

_PLURAL = (
    "What is the plural of {}?",
    "Give the plural form of the word {}.",
    "How do you write more than one {}?",
    "One {}, two what?",
)
_WORDS = (
    "Write the number {} in words.",
    "How is {} spelled out?",
    "Spell the number {}.",
    "What is {} in words?",
)
_ORDINAL = (
    "Write {} as an ordinal word.",
    "Which ordinal comes from the number {}?",
    "Give the ordinal of {} in words.",
    "Number {} in a line stands in which place?",
)
_ROMAN = (
    "Write {} as a Roman numeral.",
    "What is {} in Roman numerals?",
    "How did the Romans write {}?",
    "Give the Roman numeral for {}.",
)
_ROMAN_PARTS = {
    900: "CM", 500: "D", 400: "CD", 100: "C", 90: "XC", 50: "L", 40: "XL", 10: "X", 9: "IX", 5: "V", 4: "IV", 1: "I",
}  # fmt: skip


def _plural_guesses(noun: str) -> tuple[str, ...]:
    """What the rules give when they are applied to the wrong noun."""
    stem = noun[:-1]
    return (noun, f"{noun}s", f"{noun}es", f"{noun}en", f"{stem}ies", f"{stem}ves", f"{noun}'s")


def plural_facts() -> list[Fact]:
    """Noun -> plural; the false answers follow the rule of another noun."""
    engine = inflect.engine()
    return [
        ask("plural", _PLURAL, noun, str(engine.plural_noun(noun)), _plural_guesses(noun)) for noun in _NOUNS.split()
    ]


def _near(number: int) -> list[int]:
    """Numbers that are easily taken for this one: other units, other tens, digits turned round."""
    turned = int(str(number)[::-1])
    return [turned, number + 1, number + 10, number - 1, number - 10, number + 2, number + 20]


def number_word_facts() -> list[Fact]:
    """21 .. 199 in digits -> in words."""
    engine = inflect.engine()
    return [
        ask(
            "number word",
            _WORDS,
            str(n),
            str(engine.number_to_words(n)),
            (str(engine.number_to_words(m)) for m in _near(n)),
        )
        for n in range(21, 200)
    ]


def ordinal_facts() -> list[Fact]:
    """21 .. 199 -> the ordinal word; the false answers are malformed ones and neighbours."""
    engine = inflect.engine()
    facts = []
    for number in range(21, 200):
        cardinal = str(engine.number_to_words(number))
        wrong = (cardinal, f"{cardinal}st", f"{cardinal}th", f"{cardinal}nd", f"{cardinal}rd")
        facts.append(ask("ordinal", _ORDINAL, str(number), str(engine.ordinal(cardinal)), wrong))
    return facts


def roman_numeral(number: int) -> str:
    """The standard form with subtraction, for 1 .. 999."""
    letters = ""
    for value, part in _ROMAN_PARTS.items():
        count, number = divmod(number, value)
        letters += part * count
    return letters


def roman_facts() -> list[Fact]:
    """21 .. 199 -> the Roman numeral; the false answers are those of numbers easily taken for it."""
    return [
        ask("roman numeral", _ROMAN, str(n), roman_numeral(n), (roman_numeral(m) for m in _near(n)))
        for n in range(21, 200)
    ]
