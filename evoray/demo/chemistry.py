"""Chemical elements: symbol and atomic number, from the package `periodictable`."""

from __future__ import annotations

import periodictable

from evoray.demo.fact import Fact, ask

_SYMBOL = (
    "What is the chemical symbol of {}?",
    "Which symbol stands for {} in the periodic table?",
    "How do chemists abbreviate {}?",
    "Give the symbol of the element {}.",
)
_NUMBER = (
    "What is the atomic number of {}?",
    "How many protons does an atom of {} have?",
    "At which number does {} stand in the periodic table?",
    "Give the number of protons in {}.",
)


def _elements() -> list[tuple[int, str, str]]:
    # The package counts the bare neutron as element 0.
    return [(e.number, str(e.symbol), str(e.name)) for e in periodictable.elements if e.number > 0]


def symbol_facts() -> list[Fact]:
    """Element -> symbol; the false answers are symbols with the same first letter, then the others."""
    elements = _elements()
    facts = []
    for _, symbol, name in elements:
        alike = [other for _, other, _ in elements if other[0] == symbol[0]]
        others = [other for _, other, _ in elements if other[0] != symbol[0]]
        wrong = alike if len(alike) > 3 else alike + others
        facts.append(ask("symbol", _SYMBOL, name, symbol, wrong))
    return facts


def atomic_number_facts() -> list[Fact]:
    """Element -> number of protons; the false answers lie at most ten away."""
    return [
        ask("atomic number", _NUMBER, name, str(number), (str(n) for n in range(max(1, number - 10), number + 11)))
        for number, _, name in _elements()
    ]
