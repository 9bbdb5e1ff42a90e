"""Kullback-Leibler projection onto the capped simplex {sum w = 1, 0 <= w_i <= cap}.

The projection of v is w = min(cap, c v). The total F(c) = sum min(cap, c v_i) is concave, increasing and
piecewise linear, so Newton's method from the left never overshoots and stops at the exact c once the
set of capped rows stands still; each trial c costs one reduction of two numbers. Everything is in logs:
v may span hundreds of nats.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from evoray.errors import SolverError

MAX_PASSES = 200


def capped_mass(log_v_N: torch.Tensor, log_scale: float, log_cap: float) -> tuple[float, float]:
    """(number of rows with c v_i >= cap, log of the sum of c v_i over the others) of one tile, c = exp(log_scale)."""
    scaled_N = log_v_N + log_scale
    above_N = scaled_N >= log_cap
    free_N = scaled_N[~above_N]
    return float(above_N.sum()), float(torch.logsumexp(free_N, dim=0)) if len(free_N) else -np.inf


def find_scale(measure: Callable[[float], tuple[float, float]], log_start: float, cap: float) -> float:
    """log c with sum min(cap, c v) = 1, to 1e-12.

    `measure(log c)` gives `capped_mass` over all rows, the total at `log_start` being at most 1 (v normalised).
    Raises SolverError where cap * rows < 1 or the iteration meets numbers it cannot work with.
    """
    log_scale, capped_before = log_start, -1.0
    for _ in range(MAX_PASSES):
        capped, log_free = measure(log_scale)
        left = 1.0 - capped * cap
        if left <= 1e-13 or capped == capped_before:
            return log_scale
        if not np.isfinite(log_free):
            break
        step = float(np.log(left)) - log_free
        if abs(step) * left <= 1e-12:
            return log_scale
        log_scale += step
        capped_before = capped
    raise SolverError(
        f"no weights of at most {cap:g} that sum to 1 (log scale {log_scale:g})",
        "at least 1/cap rows of positive finite weight",
        "lower k, or lower eta",
    )
