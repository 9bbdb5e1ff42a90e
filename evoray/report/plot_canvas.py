"""What all plots share: their style, grids of panels, text that may be anybody's, and SVG that is always the same."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evoray.report.summary import Interval

#: Colour, marker and fill.
Look = tuple[str, str, str]

#: A colour has one role and a role has one colour: a page that shows a plot in the dark puts others in their places.
SURFACE, LINE, TICK, AXIS, GRID, REST = "#ffffff", "#222222", "#444b55", "#9aa1ab", "#e3e6ea", "#b9bec6"
#: They stay apart for colour-blind readers; shapes say the same.
BETTER, WORSE, UNCLEAR = "#1f6fb4", "#c8501e", "#6d7480"
#: Dark enough for text in ON_MARK; they come again after ten, the numbers on them do not.
MARKS = (
    *(BETTER, WORSE, "#2f8a4c", "#7b4fa3", "#a3343c"),
    *("#5b6b7a", "#9a6b00", "#0b7c86", "#b0407f", "#3f4ea8"),
)
ON_MARK = "#fffffe"
#: Areas side by side; Paul Tol's "muted" set, made for colour-blind readers.
AREAS = (
    *("#332288", "#88ccee", "#44aa99", "#117733", "#999933"),
    *("#ddcc77", "#cc6677", "#882255", "#aa4499"),
)

_LONGEST_LABEL = 28
_HANDLE_WIDTH, _LETTER_WIDTH, _TITLE_LETTER_WIDTH = 0.6, 0.085, 0.115  # inches; letters rather too wide than cut off
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "evoray",  # names inside the file come from its content alone
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "text.parse_math": False,  # a dollar sign in a name is no formula
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": LINE,
    "axes.labelcolor": LINE,
    "axes.edgecolor": AXIS,
    "axes.axisbelow": True,
    "xtick.color": TICK,
    "ytick.color": TICK,
    "legend.frameon": False,
    "axes.facecolor": SURFACE,
    "figure.facecolor": SURFACE,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save inside of it: whatever settings the process has, the figures look the same."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The viewer of the file chooses the font, so that ours lacks a letter only makes its width a guess.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def panels(
    count: int, width: float, height: float, *, columns: int = 3, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of `columns`, each of this size in inches."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns + 1.2, height * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    axes: list[Axes] = list(grid.flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def names_down(axes: Axes, names: Sequence[str], *, show: bool = True) -> None:
    """One line a name, the first on top."""
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelleft=show)
    axes.grid(axis="x", color=GRID, linewidth=0.8)


def interval_mark(axes: Axes, row: int, value: Interval, look: Look) -> None:
    """A value with its interval, on the line of this row."""
    colour, marker, fill = look
    axes.plot([value.low, value.high], [row, row], color=colour, linewidth=1.6, solid_capstyle="round")
    axes.plot([value.value], [row], marker, color=colour, markerfacecolor=fill, markersize=6, markeredgewidth=1.3)


def headline(figure: Figure, text: str, budget: str | None, reference: str) -> None:
    """The title over all panels, with the budget and the reference by their names."""
    named = text.replace("the reference", label(reference))
    where = "" if budget is None else f" (budget {label(budget)})"
    lines = textwrap.wrap(named + where, max(1, int(figure.get_figwidth() / _TITLE_LETTER_WIDTH)))
    figure.suptitle("\n".join(lines), fontsize=11, fontweight="bold", x=0.01, ha="left")


def legend_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """One legend for all panels, beneath them, with as many columns as the figure is wide."""
    if handles:
        names = [label(one) for one in labels]
        column = _HANDLE_WIDTH + _LETTER_WIDTH * max(map(len, names))
        columns = max(1, int(figure.get_figwidth() / column))
        figure.legend(handles, names, loc="outside lower center", ncols=min(columns, len(names)))


def label(text: str) -> str:
    """One short line of printable letters: others could not be written to the file."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= _LONGEST_LABEL else line[: _LONGEST_LABEL - 1] + "…"


def svg(figure: Figure) -> bytes:
    """The figure as a file without date: the same figure is the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
