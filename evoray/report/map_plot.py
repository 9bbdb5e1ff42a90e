"""The map: the pool, the target and what was chosen of the one for the other, in two dimensions of the features."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from evoray.report.evidence import Cloud, FeatureMap
from evoray.report.plot_canvas import AXIS, BETTER, REST, SURFACE, WORSE, legend_below, panels

_SIDE = 3.3  # inches


def feature_map(found: FeatureMap) -> Figure:
    """Points of each kind, the few above the many."""
    figure, (axes,) = panels(1, _SIDE, _SIDE)
    clouds = {cloud.kind: cloud for cloud in found.clouds}
    if "pool" in clouds:
        _dots(axes, clouds["pool"])
    for kind, colour, marker, size in (("target", WORSE, "D", 5.0), ("chosen", BETTER, "o", 5.5)):
        if kind in clouds:
            # One patch of many dots has no edges, which tell points apart that lie on each other.
            axes.plot(
                *np.array(clouds[kind].places).reshape(-1, 2).T, marker, color=colour, markersize=size,
                markeredgecolor=SURFACE, markeredgewidth=0.7, linestyle="",
            )  # fmt: skip
    axes.set(xticks=[], yticks=[], xlabel=_axis(1, found), ylabel=_axis(2, found))
    axes.spines[["bottom", "left"]].set_color(AXIS)
    axes.margins(0.04)
    axes.autoscale_view()
    handles = [
        Line2D([], [], color=REST, marker="o", linestyle="", markersize=4),
        Line2D([], [], color=WORSE, marker="D", linestyle="", markersize=5),
        Line2D([], [], color=BETTER, marker="o", linestyle="", markersize=5.5),
    ]
    legend_below(figure, handles, ["pool", "target", "chosen"])
    return figure


def _dots(axes: Axes, cloud: Cloud) -> None:
    """Thousands of dots as one path of lines without length: a tenth of the bytes that as many markers take."""
    if not cloud.places:
        return
    places = np.repeat(np.array(cloud.places), 2, axis=0)
    path = Path(places, [Path.MOVETO, Path.LINETO] * len(cloud.places))
    path.should_simplify = False  # what has no length would be left out
    axes.add_patch(PathPatch(path, edgecolor=REST, linewidth=3.2, capstyle="round", facecolor="none"))
    axes.update_datalim(places)


def _axis(number: int, found: FeatureMap) -> str:
    return f"direction {number} of the pool ({found.explained[number - 1]:.0%} of its variance)"
