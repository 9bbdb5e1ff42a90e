"""How results of the Python interface show themselves: as text where they are printed, as tables in a notebook.

A class is decorated with its view: what of a report's page says most about one of its objects.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap
from typing import Any, TypeVar

from rich.console import Console, Group, RenderableType
from rich.text import Text

from evoray.report.page import Prose, Table, render_result
from evoray.report.table import UNKNOWN, Grid, count, grid_table, one_line

Kind = TypeVar("Kind")
View = Sequence[Prose | Table]

_FIRST = 3  # of many values


def shown(view: Callable[[Any], View]) -> Callable[[type[Kind]], type[Kind]]:
    """Have objects of a class show a view of themselves: to `repr` as text, to rich, and to notebooks as HTML."""

    def decorate(kind: type[Kind]) -> type[Kind]:
        hooks: dict[str, Callable[[Any], Any]] = {
            "__repr__": lambda result: plain(view(result)),
            "__rich__": lambda result: Group(*_renderables(view(result))),
            "_repr_html_": lambda result: render_result(view(result)),
        }
        for name, hook in hooks.items():
            setattr(kind, name, hook)
        return kind

    return decorate


def print_view(view: View, console: Console) -> None:
    """A view on a console. Lines are broken between words alone: a path stays whole."""
    for one in _renderables(view):
        if isinstance(one, Text):
            lines = wrap(one.plain, console.width, break_long_words=False, break_on_hyphens=False)
            console.print(Text("\n".join(lines)), soft_wrap=True)
        else:
            console.print(one)


def plain(view: View) -> str:
    """A view as text without colours, as wide as the terminal."""
    console = Console(file=io.StringIO(), color_system=None, force_terminal=False, force_jupyter=False)
    with console.capture() as captured:
        print_view(view, console)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _renderables(view: View) -> list[RenderableType]:
    """Tables, and a text for each line; an empty one between parts."""
    found: list[RenderableType] = []
    for part in view:
        found += [Text()] if found else []
        if isinstance(part, Table):
            found.append(grid_table(part.grid, title=part.caption or None))
        else:
            found += [Text(one_line(line), overflow="fold") for line in part.lines]
    return found


def fields_view(result: Any) -> View:
    """The fields of a dataclass, each with its value; of those that are mappings, a table each."""
    found = {one.name: getattr(result, one.name) for one in dataclasses.fields(result) if one.repr}
    mappings = {name: value for name, value in found.items() if isinstance(value, Mapping)}
    tables = {type(result).__name__: {name: value for name, value in found.items() if name not in mappings}, **mappings}
    return [_values(name, entries) for name, entries in tables.items() if entries]


def _values(name: str, entries: Mapping[str, Any]) -> Table:
    rows = tuple((str(key), _in_words(value)) for key, value in entries.items())
    return Table(caption="", grid=Grid(header=(name, ""), rows=rows))


def _in_words(value: Any) -> str:
    """A JSON value in few words: of many values the first few, and how many there are."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return count(value) if isinstance(value, int) else f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(entry)}" for name, entry in value.items()) or UNKNOWN
    if isinstance(value, list | tuple):
        simple = not any(isinstance(entry, Mapping | list | tuple) for entry in value)
        first = ", ".join(map(_in_words, value[:_FIRST])) if simple else ""
        more = ", …" if first and len(value) > _FIRST else ""
        return f"{count(len(value))}: {first}{more}" if first else f"{count(len(value))} entries"
    return str(value)
