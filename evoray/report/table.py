"""Tables as rows of text: the same cells in a terminal, as Markdown and in the page."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.table import Table
from rich.text import Text

from evoray.report.summary import Arm, Interval

Cells = tuple[str, ...]

Columns = list[tuple[str, list[str]]]

_MARKDOWN_CONTROL = re.compile(r"([\\`*_{}\[\]|#~$])")
UNKNOWN = "-"
_NUMERIC = re.compile(r"[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?%?( (\[|\(|of ).*)?", re.DOTALL)
_NO_NUMBERS = ("", UNKNOWN, "best")  # that may stand among numbers
_WORD = 12  # characters that a column of a narrow terminal keeps together


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table: a title a column, and rows of as many cells."""

    header: Cells
    rows: tuple[Cells, ...]
    total: Cells | None = None  # a last row that stays where it is

    @cached_property
    def numeric(self) -> tuple[bool, ...]:
        """Of each column whether all that its cells have are numbers."""
        return tuple(is_numeric([row[place] for row in self.rows]) for place in range(len(self.header)))

    @classmethod
    def of_columns(cls, columns: Columns) -> Grid:
        """From columns of equal length; those without any value are left out."""
        kept = known_columns(columns)
        rows = [tuple(cells[row] for _, cells in kept) for row in range(len(columns[0][1]))]
        return cls(header=tuple(title for title, _ in kept), rows=tuple(rows))


def known_columns(columns: Columns) -> Columns:
    """The columns in which some cell has a value."""
    return [(title, cells) for title, cells in columns if any(cell not in ("", UNKNOWN) for cell in cells)]


def markdown_of(grid: Grid | None) -> str:
    """The table as Markdown; of none, nothing."""
    if grid is None:
        return ""
    return markdown_table(grid.header, grid.rows if grid.total is None else (*grid.rows, grid.total))


def result_rows(arms: Sequence[Arm]) -> tuple[Cells, list[Cells]]:
    """Header and one row of cells an arm; columns that no arm has a value for are left out."""
    columns: Columns = [
        ("model", [arm.name for arm in arms]),
        ("loss [95%]", [interval(arm.loss) for arm in arms]),
        ("loss - random [95%]", [interval(arm.against_random, signed=True) for arm in arms]),
        ("accuracy [95%]", [interval(arm.accuracy, percent=True) for arm in arms]),
        ("good rows", [UNKNOWN if arm.good_share is None else f"{arm.good_share:.1%}" for arm in arms]),
        ("rows", [count(arm.rows) for arm in arms]),
        ("tokens", [count(arm.tokens) for arm in arms]),
        ("steps", [count(arm.steps) for arm in arms]),
    ]
    kept = [(title, cells) for title, cells in columns if any(cell != UNKNOWN for cell in cells)]
    header = tuple(title for title, _ in kept)
    return header, [tuple(cells[row] for _, cells in kept) for row in range(len(arms))]


def rich_table(header: Cells, rows: Sequence[Cells], title: str | None = None) -> Table:
    """Terminal table, numbers to the right; text from data is shown as it is, never read as rich markup."""
    table = Table(title=None if title is None else Text(one_line(title)), show_edge=False)
    for place, name in enumerate(header):
        words = [word for row in (header, *rows) for word in one_line(row[place]).split()]
        width = min(_WORD, max(map(len, words), default=0))  # a number is never cut in two, a long name may be
        right = place > 0 and is_numeric([row[place] for row in rows])
        table.add_column(Text(one_line(name)), justify="right" if right else "left", min_width=width, overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    return table


def grid_table(grid: Grid, title: str | None = None) -> Table:
    """As `rich_table`, with the last row that stays where it is."""
    return rich_table(grid.header, [*grid.rows, *([] if grid.total is None else [grid.total])], title=title)


def is_numeric(cells: Sequence[str]) -> bool:
    """Whether all that the cells of a column have are numbers."""
    known = [one for one in cells if one not in _NO_NUMBERS]
    return bool(known) and all(_NUMERIC.fullmatch(one) for one in known)


def markdown_table(header: Cells, rows: Sequence[Cells]) -> str:
    """Markdown table, numbers to the right, every cell escaped."""
    ruler = [":--", *["--:"] * (len(header) - 1)]
    lines = [[escape(cell) for cell in header], ruler, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escape(text: str) -> str:
    """Text as one line that Markdown and HTML show literally: it may come from anybody's data."""
    return _MARKDOWN_CONTROL.sub(r"\\\1", html.escape(one_line(text), quote=False))


def interval(value: Interval | None, *, percent: bool = False, signed: bool = False) -> str:
    """`value [low, high]`, or a dash for an unknown one."""
    if value is None:
        return UNKNOWN
    style = ("+" if signed else "") + (".1%" if percent else ".4f")
    return f"{value.value:{style}} [{value.low:{style}}, {value.high:{style}}]"


def count(value: int | None) -> str:
    """Thousands separated, or a dash for an unknown count."""
    return UNKNOWN if value is None else f"{value:,}"


def number(value: float | None, style: str) -> str:
    """A formatted number, or a dash for an unknown one."""
    return UNKNOWN if value is None else f"{value:{style}}"


def one_line(text: str) -> str:
    """Line breaks would end a table row and control characters would steer a terminal: both become spaces."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
