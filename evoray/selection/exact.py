"""EvoSelect's transport solved exactly, for pools that fit: a cross-check of the entropic solver, and a way without it.

Minimises <P, C> over plans P >= 0 with column sums b and row sums of at most 1/K: what `evoselect` tends to at
lambda = 0 as eps -> 0, its weights w being the row sums. A further column of cost 0 takes what the caps leave over, and
the network simplex of POT (Bonneel et al. 2011) solves the balanced problem that this makes. In units of 1/K a
candidate supplies 1, target row j asks for K b_j and the further column for N - K, so that whole numbers stay exact.

The dual is the largest <b, g> + sum_i min(0, f_i) / K with f_i = min_j (C_ij - g_j), the limit of the entropic f. Its
constant is that of the further column: f < 0 for rows used up to the cap, f = 0 for rows used in part, f >= 0 for rows
left out. Without that column (N = K) the worst row gets f = 0. Any g gives a lower bound, so the gap needs no trust in
the solver. A vertex of the plans has at most N + M entries, so at most M rows are used in part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from evoray.alignment.reduction import Array
from evoray.diversity.energies import moment_of, vendi_score
from evoray.errors import SelectionError, SolverError
from evoray.selection.picked import PICKED
from evoray.selection.picks import Pick
from evoray.selection.protocol import Shards, usable_rows
from evoray.selection.weights import target_weights

#: Entries of the cost matrix that the driver takes: 160 MB, and a few times that in the solver.
MAX_ENTRIES = 20_000_000
#: Shares of a cap and potentials that differ by less are equal: the solver's rounding orders no rows.
_DIGITS = 9
_MAX_PIVOTS = 100_000_000
_OPTIMAL = 1  # POT's code for a solved problem


@dataclass(frozen=True, kw_only=True)
class ExactResult:
    """The picks, and the plan's value between its bounds. Cost units."""

    picks: tuple[Pick, ...]
    objective: float  # <P, C>
    dual: float  # no plan costs less
    fractional: int  # rows whose weight is strictly between 0 and 1/K
    g_M: Array  # fp64 target potentials
    vendi_picks: float  # of uniform weights, full dimension, unsmoothed
    vendi_target: float
    usable: int  # rows to choose from

    @property
    def gap(self) -> float:
        """The plan costs at most this more than the cheapest: rounding alone."""
        return self.objective - self.dual


def exact(shards: Shards, target_MD: npt.NDArray[np.floating], weights_M: Array | None, k: int) -> ExactResult:
    """Select `k` usable rows for a target: the first by (-w, f, id) of the cheapest plan.

    `target_MD`: unit rows. `weights_M`: positive target weights, scaled to sum 1; None: uniform.
    Raises SelectionError where k is not from 1 to the usable rows, or usable rows times target rows exceed
    MAX_ENTRIES; SolverError where the simplex does not end at an optimum.
    """
    target = np.asarray(target_MD, dtype=np.float64)
    b_M = target_weights(weights_M, len(target))
    usable = usable_rows(shards)
    _check_size(k, usable, len(target))
    rows, cost_NM = _costs(shards, target)
    plan_NM, g_M = _network_simplex(cost_NM, k * b_M, k)
    f_N = (cost_NM - g_M).min(axis=1)
    share_N = plan_NM.sum(axis=1).clip(0.0, 1.0)
    rounded_N = share_N.round(_DIGITS)
    order = np.lexsort((np.arange(usable), f_N.round(_DIGITS), -rounded_N))[:k]  # rows are in the order of their ids
    picks = tuple(
        Pick(
            id=rows[place][0],
            tile=rows[place][1],
            row=rows[place][2],
            rank=rank,
            weight=float(share_N[place]) / k,
            potential=float(f_N[place]),
            similarity=1.0 - float(cost_NM[place].min()),
            nearest=int(cost_NM[place].argmin()),
        )
        for rank, place in enumerate(order)
    )
    return ExactResult(
        picks=picks,
        objective=float((plan_NM * cost_NM).sum()) / k,
        dual=float(b_M @ g_M) + float(np.minimum(f_N, 0.0).sum()) / k,
        fractional=int(((rounded_N > 0.0) & (rounded_N < 1.0)).sum()),
        g_M=g_M,
        vendi_picks=_vendi(shards, picks, target, b_M),
        vendi_target=vendi_score(moment_of(torch.from_numpy(target), torch.from_numpy(b_M), "second")),
        usable=usable,
    )


def _check_size(k: int, usable: int, m: int) -> None:
    if not 1 <= k <= usable:
        raise SelectionError(f"k = {k} of {usable} usable rows", "1 <= k <= usable rows", "lower k or add rows")
    if usable * m > MAX_ENTRIES:
        raise SelectionError(
            f"{usable:,} usable rows and {m:,} target rows, {usable * m:,} costs for the exact solver",
            f"at most {MAX_ENTRIES:,} costs",
            "set selection.solver: sinkhorn, or give a smaller pool",
        )


def _costs(shards: Shards, target_MD: Array) -> tuple[list[tuple[str, int, int]], Array]:
    """(id, tile, row in the tile) of every usable row, by id, and their costs C [N, M], fp64."""
    parts = shards.call("similarities", target_MD)
    rows = [row for part, _ in parts for row in part]
    order = sorted(range(len(rows)), key=rows.__getitem__)
    place_N = np.empty(len(rows), dtype=np.int64)
    place_N[order] = np.arange(len(rows))
    cost_NM = np.empty((len(rows), len(target_MD)))
    start = 0
    for part, similarity_NM in parts:
        cost_NM[place_N[start : start + len(part)]] = 1.0 - similarity_NM
        start += len(part)
    return [rows[index] for index in order], cost_NM


def _network_simplex(cost_NM: Array, demand_M: Array, k: int) -> tuple[Array, Array]:
    """(P [N, M] in units of 1/K, g [M] at the constant of the module's docstring)."""
    import ot

    spare = len(cost_NM) - k
    demand, padded = (np.append(demand_M, spare), np.pad(cost_NM, ((0, 0), (0, 1)))) if spare else (demand_M, cost_NM)
    plan, log = ot.emd(np.ones(len(cost_NM)), demand, padded, numItermax=_MAX_PIVOTS, log=True, center_dual=False)
    if log["result_code"] != _OPTIMAL:
        raise SolverError(
            f"the network simplex ended with: {log['warning'] or log['result_code']}",
            "finite costs, and an optimum",
            "set selection.solver: sinkhorn",
        )
    m = len(demand_M)
    g_M: Array = log["v"][:m] - (log["v"][m] if spare else 0.0)
    if not spare:
        g_M = g_M + float((cost_NM - g_M).min(axis=1).max())
    return plan[:, :m], g_M


def _vendi(shards: Shards, picks: tuple[Pick, ...], target_MD: Array, b_M: Array) -> float:
    chosen: dict[int, list[int]] = {}
    for tile, row in sorted((pick.tile, pick.row) for pick in picks):
        chosen.setdefault(tile, []).append(row)
    shards.call("open", PICKED, target_MD, b_M, -float(np.log(len(picks))), chosen)
    (sigma_DD,) = shards.reduce("moment", PICKED, "second", True)
    shards.call("close", PICKED)
    return vendi_score(sigma_DD)
