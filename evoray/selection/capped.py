"""Kullback-Leibler projection onto {sum w = 1, 0 <= w_i <= cap, low_s <= sum of source s <= high_s}.

The projection of v is w = min(cap, c_s v), s the source of the row. The total T_s(c) = sum min(cap, c v_i) of a source
is concave, increasing and piecewise linear, so Newton's method from the left never overshoots and stops at the exact c
once the set of capped rows stands still. Sources within their bounds share one c; one that is clipped has the c_s
that gives its bound, and c is the root of sum_s clip(T_s(c)) = 1. It is found by active sets: the sources that are free
are solved as one and clipped; where the totals then exceed 1, the root lies further left, and whoever is below its
minimum stays there (else: whoever is above its maximum). Those keep their bounds, and the others are solved again.

Each trial costs one reduction of two numbers a source. Without bounds all rows are one source, solved once.
Everything is in logs: v may span hundreds of nats.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from evoray.alignment.reduction import Array
from evoray.errors import SolverError

MAX_PASSES = 200
#: Totals are met to this; a source that is off its bounds by less is within them.
TOLERANCE = 1e-12

#: Log scale of each source -> `capped_mass` over all rows.
Measure = Callable[[Array], tuple[Array, Array]]


def log_mass(log_v_N: torch.Tensor, source_N: torch.Tensor | None, sources: int) -> Array:
    """Log of the total of each source [S] in one tile; `source_N` (int64) None: all rows are of one source."""
    if source_N is None:
        return np.array([float(torch.logsumexp(log_v_N, dim=0)) if len(log_v_N) else -np.inf])
    of_N, log_N = source_N.numpy(), log_v_N.numpy()
    top_S = np.full(sources, -np.inf)
    np.maximum.at(top_S, of_N, log_N)
    base_S = np.where(np.isfinite(top_S), top_S, 0.0)
    total_S = np.bincount(of_N, weights=np.exp(log_N - base_S[of_N]), minlength=sources)
    with np.errstate(divide="ignore"):
        found: Array = np.log(total_S) + base_S
    return found


def capped_mass(
    log_v_N: torch.Tensor, log_scale_S: Array, log_cap: float, source_N: torch.Tensor | None = None
) -> tuple[Array, Array]:
    """(number of rows with c_s v_i >= cap [S], log of the sum of c_s v_i over the others [S]) of one tile."""
    sources = len(log_scale_S)
    scaled_N = scaled(log_v_N, log_scale_S, source_N)
    above_N = scaled_N >= log_cap
    if source_N is None:
        return np.array([float(above_N.sum())]), log_mass(scaled_N[~above_N], None, sources)
    count_S = np.bincount(source_N[above_N].numpy(), minlength=sources).astype(np.float64)
    return count_S, log_mass(scaled_N[~above_N], source_N[~above_N], sources)


def scaled(log_v_N: torch.Tensor, log_scale_S: Array, source_N: torch.Tensor | None) -> torch.Tensor:
    """log of c_s v_i."""
    if source_N is None:
        return log_v_N + float(log_scale_S[0])
    return log_v_N + torch.from_numpy(log_scale_S)[source_N]


def find_scales(
    measure: Measure, log_total_S: Array, cap: float, low_S: Array | None = None, high_S: Array | None = None
) -> Array:
    """log c_s [S] of the projection, each total met to 1e-12; -inf for a source that has to weigh nothing.

    `log_total_S`: log of the sum of v over each source, `cap` and bounds in weight (without: 0 and no end). A source's
    maximum is at most cap times its rows. Raises SolverError where no weights obey all this, or the iteration meets
    numbers that it cannot work with.
    """
    low_S = np.zeros(len(log_total_S)) if low_S is None else low_S
    high_S = np.full(len(log_total_S), np.inf) if high_S is None else high_S
    clipped_S = np.full(len(log_total_S), np.nan)  # totals of the sources at a bound
    while True:
        free_S = np.isnan(clipped_S)
        block_S = np.where(free_S, 0, np.cumsum(~free_S))  # the free sources are one, each of the others its own
        total_B = np.concatenate(([1.0 - clipped_S[~free_S].sum()], clipped_S[~free_S]))
        log_scale_B, total_S = _newton(measure, block_S, total_B, log_total_S, cap)
        below_S, above_S = free_S & (total_S < low_S - TOLERANCE), free_S & (total_S > high_S + TOLERANCE)
        if not (below_S | above_S).any():
            return log_scale_B[block_S]
        excess = float((low_S - total_S)[below_S].sum() - (total_S - high_S)[above_S].sum())
        if excess >= 0.0:
            clipped_S[below_S] = low_S[below_S]
        if excess <= 0.0:
            clipped_S[above_S] = high_S[above_S]


def _newton(
    measure: Measure, block_S: npt.NDArray[np.int64], total_B: Array, log_total_S: Array, cap: float
) -> tuple[Array, Array]:
    """(log c of each block of sources [B], the total of each source there [S]): all blocks move at once."""
    blocks = [block_S == block for block in range(len(total_B))]
    moving = [block for block, total in enumerate(total_B) if total > TOLERANCE]
    log_scale_B, capped_before = np.full(len(total_B), -np.inf), dict.fromkeys(moving, -1.0)
    for block in moving:
        # No row is capped there yet: with its rows uncapped, this is the total that is wanted.
        log_scale_B[block] = np.log(total_B[block]) - np.logaddexp.reduce(log_total_S[blocks[block]])
    for _ in range(MAX_PASSES):
        count_S, log_free_S = measure(log_scale_B[block_S])
        steps: dict[int, float] = {}
        for block in moving:
            capped, log_free = (
                float(count_S[blocks[block]].sum()),
                float(np.logaddexp.reduce(log_free_S[blocks[block]])),
            )
            left = float(total_B[block]) - capped * cap
            if left <= 1e-13 or capped == capped_before[block]:
                continue
            step = float(np.log(left)) - log_free
            if not np.isfinite(step):
                raise _impossible(cap, float(log_scale_B[block]))
            if abs(step) * left > TOLERANCE:
                steps[block], capped_before[block] = step, capped
        moving = list(steps)
        if not moving:
            return log_scale_B, count_S * cap + np.exp(log_free_S)
        log_scale_B[moving] += list(steps.values())
    raise _impossible(cap, float(log_scale_B.max()))


def _impossible(cap: float, log_scale: float) -> SolverError:
    return SolverError(
        f"no weights of at most {cap:g} that sum to 1 (log scale {log_scale:g})",
        "at least 1/cap rows of positive finite weight",
        "lower k, or lower eta",
    )
