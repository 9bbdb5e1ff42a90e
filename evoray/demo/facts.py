"""Every kind of demo knowledge in one table, and which kinds make the target task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from evoray.demo.chemistry import atomic_number_facts, symbol_facts
from evoray.demo.fact import Fact
from evoray.demo.geography import capital_facts, continent_facts, country_facts, domain_facts
from evoray.demo.language import number_word_facts, ordinal_facts, plural_facts, roman_facts
from evoray.demo.quantities import arithmetic_facts, conversion_facts, weekday_facts

#: The target task is world geography. A small model knows part of it, answers in whole sentences, and
#: leans to a few favourites: a handful of right and short answers mends that, wrong ones do not.
TARGET_KINDS: Mapping[str, Callable[[], list[Fact]]] = MappingProxyType(
    {"continent": continent_facts, "capital": capital_facts, "country": country_facts}
)

OTHER_KINDS: Mapping[str, Callable[[], list[Fact]]] = MappingProxyType(
    {
        "domain": domain_facts,
        "symbol": symbol_facts,
        "atomic number": atomic_number_facts,
        "plural": plural_facts,
        "number word": number_word_facts,
        "ordinal": ordinal_facts,
        "roman numeral": roman_facts,
        "weekday": weekday_facts,
        "conversion": conversion_facts,
        "arithmetic": arithmetic_facts,
    }
)


def target_facts() -> list[Fact]:
    """All facts of the target task, in a fixed order."""
    return [fact for build in TARGET_KINDS.values() for fact in build()]


def other_facts() -> list[Fact]:
    """All facts of the other kinds, in a fixed order."""
    return [fact for build in OTHER_KINDS.values() for fact in build()]
