"""The plots of a run: how its models compare, where the choice comes from, and how training and solver went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from evoray.report.evidence import Curve
from evoray.report.plot_canvas import (
    BETTER,
    GRID,
    LINE,
    MARKS,
    REST,
    SURFACE,
    UNCLEAR,
    WORSE,
    Look,
    interval_mark,
    legend_below,
    names_down,
    panels,
)
from evoray.report.summary import Arm, Interval, PathPoint, RunSummary, SourceShare, TraceStep

_WIDTH, _HEIGHT = 3.3, 2.2  # inches of what is drawn in; letters stay readable where it fills the width of a phone
_LINE = 0.24  # inches of one line of bars or points
_MOST_MODELS, _MOST_SOURCES = 25, 14
_MARKERS = "osD^v"


def losses(run: RunSummary) -> Figure:
    """One line a model: its loss with the interval, told apart from random rows or not."""
    arms = _shown(run)
    figure, axes = _models(run, [arm.loss for arm in arms], [_look(arm) for arm in arms])
    axes.set_xlabel("loss, nats a token [95%]")
    looks = {_look(arm): None for arm in arms}
    legend_below(figure, [_handle(look) for look in looks], [_MEANING[look] for look in looks])
    return figure


def accuracies(run: RunSummary) -> Figure:
    """One line a model: its accuracy with the interval."""
    arms = _shown(run)
    figure, axes = _models(run, [arm.accuracy for arm in arms], [_PLAIN for _ in arms])
    axes.set_xlabel("accuracy [95%]")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def _models(run: RunSummary, values: Sequence[Interval | None], looks: Sequence[Look]) -> tuple[Figure, Axes]:
    figure, axes = _panel(_LINE * len(values) + 0.5)
    for row, (value, look) in enumerate(zip(values, looks, strict=True)):
        if value is not None:
            interval_mark(axes, row, value, look)
    names_down(axes, [f"{arm.name} (kept)" if arm.name == run.best else arm.name for arm in _shown(run)])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def _shown(run: RunSummary) -> list[Arm]:
    """Of many models the first, the kept and the last ones."""
    last = len(run.arms) - _MOST_MODELS
    return [arm for place, arm in enumerate(run.arms) if not place or place > last or arm.name == run.best]


_PLAIN: Look = (LINE, "o", LINE)
_OTHER: Look = (LINE, "s", SURFACE)
_BETTER: Look = (BETTER, "o", BETTER)
_UNCLEAR: Look = (UNCLEAR, "o", SURFACE)
_WORSE: Look = (WORSE, "X", WORSE)
_MEANING = {
    _OTHER: "untrained or random rows",
    _BETTER: "better than random rows",
    _UNCLEAR: "not told apart",
    _WORSE: "worse",
}


def _look(arm: Arm) -> Look:
    if arm.against_random is None:
        return _OTHER
    if arm.against_random.high < 0:
        return _BETTER
    return _WORSE if arm.against_random.low > 0 else _UNCLEAR


def _handle(look: Look) -> Artist:
    colour, marker, fill = look
    return Line2D([], [], color=colour, marker=marker, markerfacecolor=fill, linewidth=1.6)


def sources(run: RunSummary) -> Figure:
    """Two bars a source: its share of the pool and of the choice."""
    shown = _largest(run.choice.sources)
    pool = sum(one.pool for one in shown) or 1
    chosen = sum(one.chosen for one in shown) or 1
    figure, axes = _panel(1.3 * _LINE * len(shown) + 0.4)
    for row, one in enumerate(shown):
        axes.barh(row - 0.2, one.pool / pool, height=0.36, color=REST)
        axes.barh(row + 0.2, one.chosen / chosen, height=0.36, color=BETTER)
    names_down(axes, [one.source for one in shown])
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    legend_below(figure, [Patch(color=REST), Patch(color=BETTER)], ["share of the pool", "share of the chosen rows"])
    return figure


def _largest(found: Sequence[SourceShare]) -> list[SourceShare]:
    """The sources with the most chosen rows, then the largest; what is too many becomes one line."""
    ordered = sorted(found, key=lambda one: (-one.chosen, -one.pool, one.source))
    if len(ordered) <= _MOST_SOURCES:
        return ordered
    first, rest = ordered[: _MOST_SOURCES - 1], ordered[_MOST_SOURCES - 1 :]
    name = f"{len(rest)} others"
    others = SourceShare(source=name, pool=sum(one.pool for one in rest), chosen=sum(one.chosen for one in rest))
    return [*first, others]


def path(points: Sequence[PathPoint]) -> Figure:
    """Alignment against diversity of each setting of one round; where diversity is not known, against lambda."""
    diverse = all(point.vendi is not None for point in points)
    figure, axes = _panel(_HEIGHT)
    handles: list[Artist] = []
    ratios = list(dict.fromkeys(point.r for point in points))
    for number, r in enumerate(ratios):
        along = sorted((point for point in points if point.r == r), key=lambda point: point.lam)
        places = [point.vendi if diverse and point.vendi is not None else point.lam for point in along]
        look: dict[str, Any] = {"color": MARKS[number % len(MARKS)], "marker": _MARKERS[number % len(_MARKERS)]}
        axes.plot(places, [point.transport_cost for point in along], **look, markersize=5, linewidth=1)
        handles.append(Line2D([], [], **look, linewidth=1))
        for place, point in zip(places, along, strict=True):
            _describe(axes, place, point)
    axes.set_xlabel("Vendi score of the picks: more is more diverse" if diverse else "lambda, the weight of diversity")
    axes.set_ylabel("cost to validate: less is nearer")
    axes.grid(color=GRID, linewidth=0.8)
    axes.margins(0.14)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    ring = Line2D([], [], color=LINE, marker="o", markerfacecolor="none", markersize=10, linestyle="")
    legend_below(figure, [*handles, ring], [*(f"r = {r:g}" for r in ratios), "chosen"])
    return figure


def _describe(axes: Axes, place: float, point: PathPoint) -> None:
    """Lambda beside a point, what was trained in bold; a ring around what was chosen."""
    cost = point.transport_cost
    if point.chosen:
        axes.plot([place], [cost], "o", color=LINE, markerfacecolor="none", markersize=12, markeredgewidth=1.5)
    weight = "normal" if point.validate_loss is None else "bold"
    axes.annotate(
        f"{point.lam:g}", (place, cost), (0, 8), textcoords="offset points", ha="center", fontsize=7, fontweight=weight
    )


def curves(found: Sequence[Curve]) -> Figure:
    """Losses over the steps of the trainings of one round."""
    figure, axes = _panel(_HEIGHT)
    looks: dict[str, dict[str, Any]] = {
        "tried": {"color": UNCLEAR, "linestyle": ":", "linewidth": 1.3},
        "random": {"color": WORSE, "linestyle": "--", "linewidth": 1.5},
        "chosen": {"color": BETTER, "linestyle": "-", "linewidth": 2.0},
    }
    ordered = sorted(found, key=lambda one: list(looks).index(one.kind))
    for one in ordered:
        few: dict[str, Any] = (
            {"marker": "o", "markersize": 3.5} if len(one.steps) < 12 or one.measure == "validate_loss" else {}
        )
        axes.plot(one.steps, one.values, **looks[one.kind], **few)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, nats a token")
    axes.grid(color=GRID, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    handles = [Line2D([], [], **looks[one.kind]) for one in reversed(ordered)]
    legend_below(figure, handles, [_curve_name(one) for one in reversed(ordered)])
    return figure


def _curve_name(one: Curve) -> str:
    return one.name if one.measure == "loss" else f"{one.name}, on validate"


def gaps(trace: Sequence[TraceStep]) -> Figure:
    """How far the weights of each round are from the best possible, step by step."""
    return _by_step(trace, [step.gap for step in trace], "gap to the optimum, at most")


def marginal_errors(trace: Sequence[TraceStep]) -> Figure:
    """How far the transport plan is from the target's weights, step by step."""
    return _by_step(trace, [step.marginal_error for step in trace], "L1 error of the marginal")


def _by_step(trace: Sequence[TraceStep], values: Sequence[float], axis: str) -> Figure:
    """One line a round on a logarithmic axis; what is not above zero is left out."""
    figure, axes = _panel(_HEIGHT)
    handles: list[Artist] = []
    rounds = list(dict.fromkeys(step.round for step in trace))
    for place, number in enumerate(rounds):
        line = [
            (step.step, value)
            for step, value in zip(trace, values, strict=True)
            if step.round == number and math.isfinite(value) and value > 0
        ]
        look: dict[str, Any] = {"color": MARKS[place % len(MARKS)], "marker": _MARKERS[place % len(_MARKERS)]}
        axes.plot([step for step, _ in line], [value for _, value in line], **look, markersize=3.5, linewidth=1.4)
        handles.append(Line2D([], [], **look, markersize=3.5, linewidth=1.4))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("step of the descent")
    axes.set_ylabel(axis)
    axes.grid(color=GRID, linewidth=0.8)
    legend_below(figure, handles, [f"round {number}" for number in rounds])
    return figure


def _panel(height: float) -> tuple[Figure, Axes]:
    figure, (axes,) = panels(1, _WIDTH, height)
    return figure, axes
