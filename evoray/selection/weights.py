"""Weights of the target's rows, as every aligned selection takes them."""

from __future__ import annotations

import numpy as np

from evoray.alignment.reduction import Array
from evoray.errors import SelectionError


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
