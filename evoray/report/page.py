"""One offline page: sections of facts, tables, plots and texts, rendered through one template.

Whoever opens the file loads nothing else: style, script and plots stand in it, and its policy forbids all requests and
all scripts but the one that sorts and filters. Text may be anybody's: it is escaped, kept on its line and cut.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evoray.report.evidence import Example
from evoray.report.table import Grid

#: Letters of a cell, of a text of a row, and of a whole file that is shown.
CELL, TEXT, FILE = 240, 600, 40_000

_JOINERS = "\u200c\u200d"  # they shape letters; all other marks without width could hide or turn text


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One of the few numbers that stand on top."""

    name: str
    value: str
    beside: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Numbers side by side."""

    kind: ClassVar[str] = "facts"

    facts: Sequence[Fact]


@dataclass(frozen=True, kw_only=True)
class Prose:
    """Paragraphs, or a list of notes."""

    kind: ClassVar[str] = "prose"

    lines: Sequence[str]
    listed: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that can be sorted, and where it is long filtered."""

    kind: ClassVar[str] = "table"

    caption: str
    grid: Grid
    folded: bool = False  # behind its caption, for who wants to know


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot, what it shows in words, and its numbers as a table."""

    key: str  # no other plot of the page has it
    title: str
    text: str
    svg: str  # as `inline` gives it
    grid: Grid | None = None  # None: a table of the same section has the numbers
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Plots:
    """Plots side by side where there is room."""

    kind: ClassVar[str] = "plots"

    plots: Sequence[Plot]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Chosen rows beside the rows of the target that are nearest to them."""

    kind: ClassVar[str] = "examples"

    examples: Sequence[Example]


@dataclass(frozen=True, kw_only=True)
class Code:
    """Text to copy."""

    kind: ClassVar[str] = "code"

    caption: str
    text: str
    folded: bool = False


Part = Facts | Prose | Table | Plots | Examples | Code


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page that the table of contents names. key: letters for the link."""

    key: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True, kw_only=True)
class Page:
    """All of it."""

    title: str
    lead: str  # the verdict
    tone: str  # of the verdict: better, worse or unclear
    sections: Sequence[Section]
    footer: str = ""


def render_page(page: Page) -> str:
    """The file."""
    environment = _environment()
    script = environment.loader.get_source(environment, "page.js")[0]  # type: ignore[union-attr]
    style = environment.loader.get_source(environment, "page.css")[0]  # type: ignore[union-attr]
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    template = environment.get_template("page.html.jinja")
    return template.render(page=page, policy=policy, style=Markup(style), script=Markup(script))


def render_result(view: Sequence[Prose | Table]) -> str:
    """Parts as a piece of a page that is not ours: of a notebook."""
    return _environment().get_template("result.html.jinja").render(view=view)


def _digest(text: str) -> str:
    """How a policy names the one style, or script, that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evoray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters |= {"cell": cell, "text": text_of, "file": file_of, "svg": Markup}
    environment.tests |= {"numeric": _is_numeric}
    return environment


def cell(text: str) -> str:
    """One short line."""
    return _cut(" ".join(_printable(text).split()), CELL)


def text_of(text: str) -> str:
    """A text of a row, with its line breaks."""
    return _cut(_printable(text), TEXT)


def file_of(text: str) -> str:
    """A file, with its line breaks."""
    return _cut(_printable(text), FILE)


def _is_numeric(grid: Grid, column: int) -> bool:
    """Whether a column stands to the right, and is sorted as numbers."""
    return grid.numeric[column]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _printable(value: Any) -> Any:
    """Text without what steers its reader: control characters, marks of direction, halves of letters."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(one if one.isprintable() or one in _JOINERS or one == "\n" else " " for one in value)
