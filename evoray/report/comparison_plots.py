"""The plots of a comparison as SVG files, one panel a target; selectors stand in the order of their overall rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from evoray.report.comparison import ComparisonSummary, DecileAnalysis, SelectorResult
from evoray.report.comparison_figures import PlannedFigure, planned, seconds, shown_groups
from evoray.report.comparison_lines import differences, lengths, losses, sources
from evoray.report.plot_canvas import (
    BETTER,
    GRID,
    LINE,
    MARKS,
    ON_MARK,
    SURFACE,
    UNCLEAR,
    headline,
    label,
    legend_below,
    panels,
    style,
    svg,
)

_DEEPEST = 0.6  # alpha of a share of 1: the number on it stays readable, by day and in the dark


def draw(summary: ComparisonSummary, *, titled: bool = True) -> dict[str, bytes]:
    """Every figure of `planned` by its file name. The same summary gives the same bytes.

    titled: for files of their own; a page says above a plot what it is.
    """
    drawers: dict[str, Callable[[ComparisonSummary, PlannedFigure], Figure]] = {
        "losses": losses,
        "differences": differences,
        "distance": partial(_scatter, value=lambda one: one.distance, axis="OT distance to held-out target rows"),
        "overlap": _overlap,
        "sources": sources,
        "length": lengths,
        "cost": partial(_scatter, value=seconds, axis="seconds to select and to train"),
        "training": partial(_scatter, value=lambda one: one.training_tokens, axis="training tokens"),
        "deciles": _deciles,
    }
    drawn = {}
    with style():
        for plan in planned(summary):
            figure = drawers[plan.kind](summary, plan)
            if not titled:
                figure.suptitle("")
            drawn[plan.name] = svg(figure)
    return drawn


def _scatter(
    summary: ComparisonSummary, plan: PlannedFigure, value: Callable[[SelectorResult], float | None], axis: str
) -> Figure:
    """A numbered point a selector; the legend tells the numbers."""
    groups = shown_groups(summary, plan)
    order = list(summary.order(plan.budget))
    figure, axes = panels(len(groups), 3.4, 2.9)
    for one, group in zip(axes, groups, strict=True):
        for result in group.results:
            place = value(result)
            if place is not None:
                number = order.index(result.selector)
                one.plot([place], [result.loss.value], "o", color=_colour(number), markersize=11, alpha=0.85)
                _inside(one, place, result.loss.value, str(number + 1), ON_MARK)
        one.margins(0.1)
        one.set_title(label(group.target), loc="left")
        one.set_xlabel(axis)
        one.set_ylabel("test loss")
        one.grid(color=GRID, linewidth=0.8)
        one.xaxis.set_major_locator(MaxNLocator(4))
        one.xaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    handles = [Line2D([], [], color=_colour(number), marker="o", linestyle="") for number in range(len(order))]
    legend_below(figure, handles, [f"{number + 1} {name}" for number, name in enumerate(order)])
    headline(figure, plan.title, plan.budget, summary.reference)
    return figure


def _inside(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    """Small text that the layout need not find room for."""
    axes.text(x, y, text, color=colour, fontsize=7, ha="center", va="center", in_layout=False)


def _colour(number: int) -> str:
    return MARKS[number % len(MARKS)]


def _overlap(summary: ComparisonSummary, plan: PlannedFigure) -> Figure:
    groups = [group for group in shown_groups(summary, plan) if group.overlap is not None]
    most = max(len(group.overlap.selectors) for group in groups if group.overlap is not None)
    side = max(2.6, 1.2 + 0.29 * most)
    figure, axes = panels(len(groups), side, side, columns=2 if most > 8 else 3)
    for one, group in zip(axes, groups, strict=True):
        if group.overlap is not None:
            places = _in_order(group.overlap.selectors, summary.order(plan.budget))
            shares = [[group.overlap.shares[a][b] for b in places] for a in places]
            _heat(one, [group.overlap.selectors[place] for place in places], shares)
        one.set_title(label(group.target), loc="left")
    headline(figure, plan.title, plan.budget, summary.reference)
    return figure


def _in_order(names: Sequence[str], order: Sequence[str]) -> list[int]:
    return sorted(range(len(names)), key=lambda place: order.index(names[place]))


def _heat(axes: Axes, names: Sequence[str], shares: Sequence[Sequence[float | None]]) -> None:
    """Squares with the share in percent; an unknown one stays empty, and so does the diagonal."""
    size = len(names)
    axes.set_facecolor(GRID)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(len(names)), [label(name) for name in names], rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.tick_params(length=0)
    for a, line in enumerate(shares):
        for b, share in enumerate(line):
            if share is not None and a != b:
                for colour, alpha in ((SURFACE, 1.0), (BETTER, _DEEPEST * share)):
                    axes.add_patch(Rectangle((b - 0.5, a - 0.5), 1, 1, color=colour, alpha=alpha, linewidth=0))
                _inside(axes, b, a, f"{100 * share:.0f}", LINE)


def _deciles(summary: ComparisonSummary, plan: PlannedFigure) -> Figure:
    """Loss of each decile; the predicted alignment on an axis of its own."""
    figure, axes = panels(len(summary.deciles), 3.4, 2.7)
    for one, analysis in zip(axes, summary.deciles, strict=True):
        _decile_panel(one, analysis)
    handles = [Line2D([], [], color=BETTER, marker="o"), Line2D([], [], color=UNCLEAR, marker="s", linestyle="--")]
    legend_below(figure, handles, ["test loss [95% over seeds]", "predicted alignment"])
    headline(figure, plan.title, None, summary.reference)
    return figure


def _decile_panel(axes: Axes, analysis: DecileAnalysis) -> None:
    places = [decile.index for decile in analysis.deciles]
    values = np.array([decile.loss.value for decile in analysis.deciles])
    low = np.array([decile.loss.low for decile in analysis.deciles])
    high = np.array([decile.loss.high for decile in analysis.deciles])
    errors = np.maximum(0, [values - low, high - values])
    axes.errorbar(places, values, yerr=errors, color=BETTER, marker="o", markersize=5, capsize=2.5, linewidth=1.4)
    axes.set_xticks(places)
    axes.set_xlabel("decile, 1 is the best aligned")
    axes.set_ylabel("test loss", color=BETTER)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    budget = "" if analysis.budget is None else f", {analysis.budget}"
    axes.set_title(f"{label(analysis.target)}\n{label(analysis.selector + budget)}", loc="left")
    if analysis.spearman is not None:
        axes.set_title(f"Spearman {analysis.spearman:+.2f}", loc="right", fontweight="normal", color=LINE)
    known = [(decile.index, decile.alignment) for decile in analysis.deciles if decile.alignment is not None]
    if known:
        beside = axes.twinx()
        beside.plot(*zip(*known, strict=True), color=UNCLEAR, marker="s", markersize=3, linestyle="--", linewidth=1)
        beside.set_ylabel("alignment", color=UNCLEAR)
