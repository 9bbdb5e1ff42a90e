"""Rows and weights of the target, as every aligned selection takes them."""

from __future__ import annotations

import numpy as np

from evoray.alignment.reduction import Array
from evoray.errors import SelectionError
from evoray.selection.selector import Goal, Matrix


def target_weights(weights_M: Array | None, rows: int) -> Array:
    """fp64 weights b [M], positive, sum 1; None: uniform. Raises SelectionError for any that are not positive."""
    b_M = np.ones(rows) if weights_M is None else np.asarray(weights_M, dtype=np.float64)
    if rows == 0 or b_M.shape != (rows,) or not np.isfinite(b_M).all() or not (b_M > 0.0).all():
        raise SelectionError(
            f"target weights of shape {b_M.shape} for {rows} target rows, all positive: {bool((b_M > 0.0).all())}",
            "one positive weight for each of at least one target row",
            "correct the weights, or leave them out",
        )
    normal: Array = b_M / b_M.sum()
    return normal


def target_rows(goal: Goal) -> Matrix:
    """The features [M, D] of the target. Raises SelectionError where there are none, or some are no numbers."""
    target_MD = goal.align_MD
    if target_MD.ndim != 2 or not len(target_MD) or not np.isfinite(target_MD).all():
        raise SelectionError(
            f"target features of shape {target_MD.shape}, all finite: {bool(np.isfinite(target_MD).all())}",
            "finite features of at least one target row",
            "compute the features of the target again",
        )
    return target_MD
