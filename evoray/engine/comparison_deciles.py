"""Does predicted alignment order the pool as the measured loss does? The pool is ranked, cut into ten and trained on.

Losses are means over test rows. Intervals are over seeds alone: all deciles answer the same rows, so what rows differ
in is common to them and would only hide how the deciles differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from evoray.engine.comparison_cells import Cell, losses_SR, mean
from evoray.evaluation.intervals import bootstrap_mean, named
from evoray.report.comparison import Decile, DecileAnalysis
from evoray.report.summary import Interval

_BOOTSTRAP_SEED = 0
_LEAST_POINTS = 3  # a rank correlation of two points is always 1 or -1


def analyse_deciles(cells: Sequence[Cell]) -> tuple[DecileAnalysis, ...]:
    """One analysis for every target, selector and budget among these cells, all of kind `decile`."""
    places = dict.fromkeys((cell.target, cell.selector, cell.budget) for cell in cells)
    return tuple(
        _analysis([cell for cell in cells if (cell.target, cell.selector, cell.budget) == place]) for place in places
    )


def _analysis(cells: Sequence[Cell]) -> DecileAnalysis:
    by_index: dict[int, list[tuple[float, float | None]]] = {}
    for cell in cells:
        if cell.decile is not None:
            loss = float(np.nanmean(losses_SR([cell])))
            by_index.setdefault(cell.decile.index, []).append((loss, cell.decile.alignment))
    points = [(loss, alignment) for found in by_index.values() for loss, alignment in found if alignment is not None]
    spearman = None
    if len(points) >= _LEAST_POINTS and all(len(set(values)) > 1 for values in zip(*points, strict=True)):
        spearman = float(stats.spearmanr(*zip(*points, strict=True)).statistic)
    return DecileAnalysis(
        target=cells[0].target,
        selector=cells[0].selector,
        budget=cells[0].budget,
        deciles=tuple(
            Decile(
                index=index,
                loss=Interval(**named(bootstrap_mean([loss for loss, _ in found], _BOOTSTRAP_SEED))),
                alignment=mean([alignment for _, alignment in found]),
            )
            for index, found in sorted(by_index.items())
        ),
        points=len(points),
        spearman=spearman,
    )
