"""Which plots the page of a run has, what they say in words, and the tables that say the same."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from evoray.report.inline_svg import inline
from evoray.report.map_plot import feature_map
from evoray.report.page import Plot
from evoray.report.plot_canvas import style, svg
from evoray.report.run_plots import accuracies, curves, gaps, losses, marginal_errors, path, sources
from evoray.report.run_tables import curve_grid, map_grid, path_grid, source_grid
from evoray.report.summary import RunSummary
from evoray.report.table import Grid

_MOST_ROUNDS = 4  # that have a plot of their own: the last ones, and the one that was kept


def result_plots(run: RunSummary) -> list[Plot]:
    """The models side by side."""
    with style():
        plots = [_plot("losses", "Loss of each model", "Points with their intervals; left is better.", losses(run))]
        if any(arm.accuracy is not None for arm in run.arms):
            text = "Points with their intervals; right is better."
            plots.append(_plot("accuracies", "Accuracy of each model", text, accuracies(run)))
    return plots


def source_plot(run: RunSummary) -> Plot | None:
    """Shares of sources, where there are any."""
    if not run.choice.sources:
        return None
    text = "Where a blue bar is the longer one, the choice prefers this source."
    with style():
        return _plot("sources", "Sources of the pool and of the choice", text, sources(run), source_grid(run))


def map_plot(run: RunSummary) -> Plot | None:
    """The map, where features were kept."""
    found = run.feature_map
    if found is None or not any(cloud.places for cloud in found.clouds):
        return None
    text = (
        f"The {found.representation} features of round {found.round}, in the two directions that vary most in the pool."
    )
    with style():
        return _plot("map", "Map of pool, target and choice", text, feature_map(found), map_grid(found))


def path_plots(run: RunSummary) -> list[Plot]:
    """One a round: the settings that were tried."""
    plots = []
    for number in _shown(run, [point.round for point in run.path]):
        points = [point for point in run.path if point.round == number]
        text = (
            "Each point is a setting that was tried, lambda beside it. Bold ones were trained: the one with the least "
            "loss on the validate rows is chosen."
            if any(point.validate_loss is not None for point in points)
            else "Each point is a setting that was tried, lambda beside it; the least cost is chosen."
        )
        with style():
            title = f"Round {number}: alignment against diversity"
            plots.append(_plot(f"path-{number}", title, text, path(points), path_grid(points)))
    return plots


def curve_plots(run: RunSummary) -> list[Plot]:
    """One a round: its trainings."""
    plots = []
    for number in _shown(run, [curve.round for curve in run.curves]):
        found = [curve for curve in run.curves if curve.round == number and curve.steps]
        with style():
            title = f"Round {number}: training loss"
            text = "Loss of the batches, step by step. Rows of the batches differ: a curve is no measure of the model."
            plots.append(_plot(f"curves-{number}", title, text, curves(found), curve_grid(found)))
    return plots


def convergence_plots(run: RunSummary) -> list[Plot]:
    """How the weights and the transport plan came to rest."""
    if not run.trace:
        return []
    with style():
        return [
            _plot(
                "gaps",
                "Convergence of the weights",
                "Frank-Wolfe gap: the objective is at most this far above the least possible.",
                gaps(run.trace),
            ),
            _plot(
                "errors",
                "Convergence of the transport plan",
                "Sinkhorn: how far the plan is from the target's weights. The last solve goes on to its tolerance.",
                marginal_errors(run.trace),
            ),
        ]


def _shown(run: RunSummary, rounds: Sequence[int]) -> list[int]:
    """Few rounds are all shown; of many the last, and the one that was kept."""
    found = list(dict.fromkeys(rounds))
    kept = [number for number in found[:-_MOST_ROUNDS] if run.best == f"round {number}"]
    return [*kept, *found[-_MOST_ROUNDS:]]


def _plot(key: str, title: str, text: str, figure: Figure, grid: Grid | None = None) -> Plot:
    return Plot(key=key, title=title, text=text, svg=inline(svg(figure), key, title, text), grid=grid)
