"""The picked rows as a transport problem of their own: K rows, uniform, in fp64, wherever they lie.

What a relaxed optimum promises is judged on the set that was picked: its transport cost to held-out rows, its
objective against a lower bound, its Vendi score, and its part in the memory of later rounds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evoray.alignment.reduction import Array
from evoray.alignment.sinkhorn import Potentials, solve
from evoray.diversity.energies import Memory
from evoray.selection.descent import Descent
from evoray.selection.picks import Pick
from evoray.selection.protocol import Shards

PICKED = "picked"


def solve_picked(
    shards: Shards,
    descent: Descent,
    target_MD: Array,
    weights_M: Array,
    *,
    eps: float,
    anneal_from: float,
    tolerance: float,
    max_iterations: int,
    rho: float | None = None,
) -> Potentials:
    """OT between the picks, uniform, and a target; leaves the problem `PICKED` open on the shards."""
    rows: dict[int, list[int]] = {}
    for _, _, _, tile, row in sorted(descent.top, key=lambda entry: entry[3:]):
        rows.setdefault(tile, []).append(row)
    shards.call("open", PICKED, target_MD, weights_M, -float(np.log(len(descent.top))), rows)
    return solve(
        shards,
        PICKED,
        weights_M,
        eps=eps,
        rho=rho,
        anneal_from=anneal_from,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


def remember(shards: Shards, before: Memory | None, k: int) -> Memory:
    """Earlier rounds and the open problem `PICKED` together."""
    (mean_D,) = shards.reduce("moment", PICKED, "mean")
    (second_DD,) = shards.reduce("moment", PICKED, "second")
    if before is None:
        return Memory(mean_D=mean_D, second_DD=second_DD, rows=k)
    return Memory(
        mean_D=before.total(mean_D, "mean", k), second_DD=before.total(second_DD, "second", k), rows=before.rows + k
    )


def pick_records(shards: Shards, descent: Descent) -> tuple[Pick, ...]:
    """The picks, best first, with their nearest rows of the target that `PICKED` is open against."""
    nearest: Mapping[tuple[int, int], tuple[float, int]] = {
        (tile, row): (best, index) for part in shards.call("describe", PICKED) for tile, row, best, index in part
    }
    return tuple(
        Pick(
            id=row_id,
            tile=tile,
            row=row,
            rank=rank,
            weight=float(np.exp(-negative_log_w)),
            potential=f,
            similarity=nearest[tile, row][0],
            nearest=nearest[tile, row][1],
        )
        for rank, (negative_log_w, f, row_id, tile, row) in enumerate(descent.top)
    )
