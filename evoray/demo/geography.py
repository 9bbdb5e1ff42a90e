"""Countries: continent, capital, whose capital a city is, and internet domain, from the package `countryinfo`.

Dependent territories, very small countries and entries on which sources differ (several capitals,
two continents, a recent change of name) are left out, so that every question has one answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from countryinfo import all_countries

from evoray.demo.fact import Fact, ask

_SMALLEST_POPULATION = 300_000
_NOT_SOVEREIGN_OR_DISPUTED = {
    "Burma",  # a second entry of Myanmar
    "Guadeloupe",
    "Hong Kong",
    "Israel",
    "Macau",
    "Martinique",
    "Palestine",
    "Puerto Rico",
    "Republic of Macedonia",
    "Réunion",
    "Scotland",
    "Serbia and Montenegro",
    "Swaziland",
    "Taiwan",
    "Western Sahara",
}
_CAPITAL_UNSETTLED = {
    "Benin",
    "Bolivia",
    "Burundi",
    "Equatorial Guinea",
    "Indonesia",
    "Ivory Coast",
    "Kazakhstan",
    "Netherlands",
    "South Africa",
    "Sri Lanka",
}
_TWO_CONTINENTS = {
    "Armenia",
    "Azerbaijan",
    "Cyprus",
    "Egypt",
    "Georgia",
    "Indonesia",
    "Kazakhstan",
    "Russia",
    "Trinidad and Tobago",
    "Turkey",
}

_CONTINENT = (
    "On which continent is {}?",
    "{} is a country in which part of the world?",
    "Name the continent of {}.",
    "Which continent does {} belong to?",
)
_CAPITAL = (
    "What is the capital of {}?",
    "Name the capital city of {}.",
    "Which city is the capital of {}?",
    "{} has which city as its capital?",
)
_COUNTRY = (
    "{} is the capital of which country?",
    "Which country has {} as its capital?",
    "Name the country whose capital is {}.",
    "Of which state is {} the capital city?",
)
_DOMAIN = (
    "Which internet domain ending belongs to {}?",
    "What is the country code domain of {}?",
    "Web addresses in {} end in what?",
    "Give the top-level domain of {}.",
)


@dataclass(frozen=True, kw_only=True)
class _Country:
    name: str
    continent: str
    capital: str
    domain: str


@cache
def _countries() -> tuple[_Country, ...]:
    found = {}
    for entry in all_countries():
        data = entry.info()
        usable = data.get("capital") and data.get("region") and data.get("tld")
        if not usable or (data.get("population") or 0) < _SMALLEST_POPULATION:
            continue
        if data["name"] in _NOT_SOVEREIGN_OR_DISPUTED:
            continue
        continent = data["region"]
        if continent == "Americas":
            is_south = data.get("intermediateregion") == "South America"
            continent = "South America" if is_south else "North America"
        name = data["name"].removeprefix("The ")
        found[name] = _Country(name=name, continent=continent, capital=data["capital"], domain=data["tld"][0])
    return tuple(found[name] for name in sorted(found))


def continent_facts() -> list[Fact]:
    """Country -> one of six continents."""
    countries = [country for country in _countries() if country.name not in _TWO_CONTINENTS]
    names = tuple(sorted({country.continent for country in countries}))
    return [ask("continent", _CONTINENT, country.name, country.continent, names) for country in countries]


def _with_capital() -> list[_Country]:
    # A capital that shares a word with its country gives the answer away (Kuwait City, Bissau).
    return [c for c in _countries() if c.name not in _CAPITAL_UNSETTLED and not _words(c.name) & _words(c.capital)]


def _words(name: str) -> set[str]:
    return set(re.findall(r"\w+", name))


def capital_facts() -> list[Fact]:
    """Country -> capital; the false answers are the other capitals of the same continent."""
    countries = _with_capital()
    return [
        ask("capital", _CAPITAL, c.name, c.capital, (o.capital for o in countries if o.continent == c.continent))
        for c in countries
    ]


def country_facts() -> list[Fact]:
    """Capital -> country; the false answers are the other countries of the same continent."""
    countries = _with_capital()
    return [
        ask(
            "country",
            _COUNTRY,
            c.capital,
            c.name,
            (o.name for o in countries if o.continent == c.continent),
            entity=c.name,
        )
        for c in countries
    ]


def domain_facts() -> list[Fact]:
    """Country -> internet domain ending; the false answers are the other endings."""
    countries = _countries()
    endings = tuple(country.domain for country in countries)
    return [ask("domain", _DOMAIN, country.name, country.domain, endings) for country in countries]
