"""The plots of a comparison that have one line a selector: losses, differences, sources and lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from evoray.report.comparison import ComparisonSummary, Group, SelectorResult
from evoray.report.comparison_figures import PlannedFigure, shown_groups
from evoray.report.plot_canvas import (
    AREAS,
    BETTER,
    LINE,
    REST,
    SURFACE,
    UNCLEAR,
    WORSE,
    Look,
    headline,
    interval_mark,
    label,
    legend_below,
    names_down,
    panels,
)

_LINE_HEIGHT = 0.21  # inches of one selector's line
_REACH = 0.6  # part of the selectors' range by which a panel grows to show the untrained model
_POOL, _OTHERS = "the pool itself", "others"

_VERDICTS = {
    "interval below zero (better)": (BETTER, "o", BETTER),
    "interval contains zero": (UNCLEAR, "o", SURFACE),
    "interval above zero (worse)": (WORSE, "X", WORSE),
}


def losses(summary: ComparisonSummary, plan: PlannedFigure) -> Figure:
    """Mean losses with intervals; the reference and the untrained model as lines."""
    figure, places, order = _rows_of_panels(summary, plan, "test loss, nats a token [95%]")
    for axes, group in places:
        for result in group.results:
            interval_mark(axes, order.index(result.selector), result.loss, _look(result))
        reference = group.result(summary.reference)
        if reference is not None:
            axes.axvline(reference.loss.value, color=LINE, linestyle="--", linewidth=1, zorder=0)
        _untrained_line(axes, group)
    handles = [*_verdict_handles(), Line2D([], [], color=LINE, linestyle="--"), Line2D([], [], color=LINE, ls=":")]
    names = ["better than the reference", "not told apart", "worse", label(summary.reference), "untrained"]
    legend_below(figure, handles, names)
    return figure


def _untrained_line(axes: Axes, group: Group) -> None:
    """A line where it is near; where it would press the selectors together, its value in the corner."""
    if group.untrained is None:
        return
    low, high = min(one.loss.low for one in group.results), max(one.loss.high for one in group.results)
    value, reach = group.untrained.loss.value, _REACH * (high - low)
    if low - reach <= value <= high + reach:
        axes.axvline(value, color=LINE, linestyle=":", linewidth=1.3, zorder=0)
        return
    text = f"untrained {value:.3f} →" if value > high else f"← untrained {value:.3f}"
    axes.set_title(text, loc="right", fontsize=7.5, fontweight="normal", color=UNCLEAR)


def differences(summary: ComparisonSummary, plan: PlannedFigure) -> Figure:
    """Paired differences to the reference with intervals, around zero."""
    axis = f"loss - loss of {label(summary.reference)} [95%]"
    figure, places, order = _rows_of_panels(summary, plan, axis)
    for axes, group in places:
        axes.axvline(0, color=LINE, linewidth=1, zorder=0)
        for result in group.results:
            if result.against is not None:
                interval_mark(axes, order.index(result.selector), result.against, _look(result))
    legend_below(figure, _verdict_handles(), list(_VERDICTS))
    return figure


def sources(summary: ComparisonSummary, plan: PlannedFigure) -> Figure:
    """Shares of the picks by source, stacked, above them the pool's own."""
    figure, places, order = _rows_of_panels(summary, plan, "share of the picks")
    named = _largest_sources(summary, [group for _, group in places])
    colours = dict(zip(named, AREAS, strict=False))
    whole = sum(summary.pool_sources.values())
    pool = {name: rows / whole for name, rows in summary.pool_sources.items()} if whole else {}
    for number, (axes, group) in enumerate(places):
        names_down(axes, [_POOL, *order], show=number % min(3, len(places)) == 0)
        _stack(axes, 0, pool, colours)
        for result in group.results:
            _stack(axes, 1 + order.index(result.selector), result.sources, colours)
        axes.axhline(0.5, color=LINE, linewidth=0.8)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    handles: list[Artist] = [Patch(color=colour) for colour in colours.values()]
    legend_below(figure, [*handles, Patch(color=REST)], [*colours, _OTHERS])
    return figure


def _largest_sources(summary: ComparisonSummary, groups: list[Group]) -> list[str]:
    """The sources with the largest shares, over the pool and all selections."""
    whole = sum(summary.pool_sources.values()) or 1
    total = {name: rows / whole for name, rows in summary.pool_sources.items()}
    for result in (result for group in groups for result in group.results):
        for name, share in result.sources.items():
            total[name] = total.get(name, 0.0) + share
    return sorted(total, key=lambda name: (-total[name], name))[: len(AREAS)]


def _stack(axes: Axes, row: int, shares: Mapping[str, float], colours: Mapping[str, Any]) -> None:
    left = 0.0
    parts = [(shares.get(name, 0.0), colour) for name, colour in colours.items()]
    parts.append((sum(share for name, share in shares.items() if name not in colours), REST))
    for share, colour in parts:
        if share > 0:
            axes.barh(row, share, left=left, height=0.78, color=colour, edgecolor=SURFACE, linewidth=0.5)
            left += share


def lengths(summary: ComparisonSummary, plan: PlannedFigure) -> Figure:
    """Bars from 1, the mean length of the pool."""
    figure, places, order = _rows_of_panels(summary, plan, "tokens of a pick / of a pool row")
    for axes, group in places:
        axes.axvline(1, color=LINE, linewidth=1)
        for result in group.results:
            bias = result.length_bias
            if bias is not None:
                row = order.index(result.selector)
                axes.barh(row, bias - 1, left=1, height=0.7, color=UNCLEAR)
                side, nudge = ("left", 4) if bias >= 1 else ("right", -4)
                axes.annotate(
                    f"{bias:.2f}", (bias, row), (nudge, 0), textcoords="offset points", ha=side, va="center", fontsize=7
                )
        axes.margins(x=0.18)
    return figure


def _rows_of_panels(
    summary: ComparisonSummary, plan: PlannedFigure, axis: str
) -> tuple[Figure, list[tuple[Axes, Group]], list[str]]:
    """One panel a target, one line a selector, the same lines in all."""
    groups = shown_groups(summary, plan)
    order = list(summary.order(plan.budget))
    figure, axes = panels(len(groups), 3.3, max(2.4, 0.7 + _LINE_HEIGHT * (len(order) + 1)), share_y=True)
    columns = min(3, len(groups))
    for number, (one, group) in enumerate(zip(axes, groups, strict=True)):
        names_down(one, order, show=number % columns == 0)
        one.set_title(label(group.target), loc="left")
        one.set_xlabel(axis)
        one.xaxis.set_major_locator(MaxNLocator(5))
    headline(figure, plan.title, plan.budget, summary.reference)
    return figure, list(zip(axes, groups, strict=True)), order


def _look(result: SelectorResult) -> Look:
    """Colour, marker and fill by the difference to the reference."""
    better, unclear, worse = _VERDICTS.values()
    if result.wins:
        return better
    return worse if result.loses else unclear


def _verdict_handles() -> list[Artist]:
    return [
        Line2D([], [], color=colour, marker=marker, markerfacecolor=fill, linewidth=1.6)
        for colour, marker, fill in _VERDICTS.values()
    ]
