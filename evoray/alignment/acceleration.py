"""Anderson acceleration of a fixed-point iteration on a small vector (type II; Walker and Ni 2011).

From the last few points and their residuals, the combination whose residual is least, by linear prediction, is taken
and moved by that residual. For Sinkhorn's map on the target potentials this cuts passes over the pool by a factor of
2 to 12, most where weights are concentrated or eps is small (over-relaxation by 1.5 saves a third); it costs the driver
a few products of M-vectors. The map alone converges always, its acceleration need not: where the error grows
well beyond the least one seen, the history is dropped and the iteration goes on plainly from the best point.
"""

from __future__ import annotations

import numpy as np

from evoray.alignment.reduction import Array

MEMORY = 6
#: Growth of the error over the least one so far at which the history is dropped.
RESTART = 4.0
#: Ridge of the least squares, relative to their trace: nearly parallel residuals give no wild combination.
RIDGE = 1e-10


class Anderson:
    """The history of one iteration; `weights_M` (positive) weigh the entries of a residual."""

    def __init__(self, weights_M: Array) -> None:
        self._root_M: Array = np.sqrt(weights_M)
        self._points: list[Array] = []
        self._residuals: list[Array] = []
        self._best: tuple[float, Array, Array] | None = None

    def step(self, point_M: Array, image_M: Array, error: float) -> Array:
        """The next point, from a point, its image under the map, and its error (by the caller's measure)."""
        residual_M = image_M - point_M
        if self._best is None or error < self._best[0]:
            self._best = (error, point_M, residual_M)
        elif error > RESTART * self._best[0]:
            self._points, self._residuals = [], []
            _, point_M, residual_M = self._best
        self._points = [*self._points[-MEMORY:], point_M]
        self._residuals = [*self._residuals[-MEMORY:], residual_M]
        if len(self._points) == 1:
            return point_M + residual_M
        moves_MH = np.diff(np.stack(self._points, axis=1), axis=1)
        changes_MH = np.diff(np.stack(self._residuals, axis=1), axis=1)
        shares_H = self._least_squares(changes_MH, residual_M)
        accelerated: Array = point_M + residual_M - (moves_MH + changes_MH) @ shares_H
        return accelerated

    def _least_squares(self, changes_MH: Array, residual_M: Array) -> Array:
        """argmin |residual - changes x| in the weighted norm, with a ridge."""
        weighted_MH = changes_MH * self._root_M[:, None]
        gram_HH = weighted_MH.T @ weighted_MH
        trace = float(np.trace(gram_HH))
        if not trace > 0.0:
            return np.zeros(changes_MH.shape[1])
        ridge_HH = RIDGE * trace * np.eye(len(gram_HH))
        return np.asarray(np.linalg.solve(gram_HH + ridge_HH, weighted_MH.T @ (residual_M * self._root_M)), np.float64)
