"""Facility location on shards: how much better references would be served with one more row, for every row.

A reference is served by the selected row that is most similar to it (0 where none is). Every row keeps an upper bound
of its score, (1 - alpha) gain + alpha quality. Gains only shrink as rows are selected, so an old bound still holds,
and only rows whose bound is high enough to matter are looked at again (lazy greedy). Bounds come from products in
fp32, raised by the largest error that these can have; the driver computes what it decides by exactly.

Similarities are never kept: a block of rows against all references at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evoray.selection.picks import Place
from evoray.selection.shard import Shard
from evoray.selection.stacked import GRID_BITS, Stack, blocks, column_of, rows_at, slack, squares, stack_of

#: Rows of a block: its similarities to 4,096 references are 8 MB.
ROWS = 512
#: Selected rows that a block is compared with at a time.
COMPARED = 4096
#: What the rounding of a bound in fp64 can take away, and much more.
ROUNDING = 1e-9

#: (-bound, id, tile, row in the tile, quality from 0 to 1): ascending is best first.
Offered = tuple[float, str, int, int, float]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a score is made of, beside similarities."""

    alpha: float  # weight of quality, against 1 - alpha of the gain
    low: float  # quality that counts as 0
    span: float  # and how much more counts as 1; 0: every row has the same
    rows: int  # that the references stand for
    references: int

    def quality(self, quality_n: torch.Tensor) -> torch.Tensor:
        """Quality from 0 to 1."""
        return (quality_n - self.low) / self.span if self.span else torch.zeros_like(quality_n)

    def score(self, own_n: torch.Tensor, others_n: torch.Tensor, quality_n: torch.Tensor, mine_n: Any) -> torch.Tensor:
        """Scores: the row's gain for itself, that for all (other) references, its quality, whether it is a reference.

        Other rows than itself are as many as the references (other than itself) stand for.
        """
        stand_for_n = (self.rows - 1) / torch.clamp(self.references - mine_n.double(), min=1.0)
        gain_n = own_n + stand_for_n * others_n
        return (1.0 - self.alpha) * gain_n + self.alpha * quality_n


def prepare(
    shard: Shard, state: dict[str, Any], terms: Terms, references_RD: Any, ids: Sequence[str], scale: float
) -> None:
    """Give every row its first bound: nothing is selected yet."""
    stack = stack_of(shard)
    column = {row_id: number for number, row_id in enumerate(ids)}
    column_N = torch.tensor([column.get(row_id, -1) for row_id in stack.ids], dtype=torch.int64)
    n = len(stack.ids)
    state.update(
        stack=stack,
        terms=terms,
        references_RD=torch.tensor(references_RD).float(),
        column_N=column_N,
        quality_N=terms.quality(column_of(shard, stack, "quality")),
        norm_N=squares(stack, scale) / scale**2,
        served_N=torch.zeros(n, dtype=torch.float64),  # at least so similar to a selected row
        compared_N=torch.zeros(n, dtype=torch.int64),  # with so many of the selected rows
        fresh_N=torch.zeros(n, dtype=torch.int64),  # the bound is of when so many rows were selected
        selected_KD=torch.zeros(0, references_RD.shape[1]),
        # Not finite: never offered.
        bound_N=torch.full((n,), -torch.inf, dtype=torch.float64),
    )
    nothing_R = torch.zeros(len(ids), dtype=torch.float64)
    for span, features_BD in blocks(stack, ROWS):
        position_n = torch.arange(span.start, span.stop)[stack.usable_N[span]]
        if len(position_n):
            _bound(state, position_n, features_BD[stack.usable_N[span]], nothing_R)


def offer(
    _shard: Shard,
    state: dict[str, Any],
    new_PD: Any,
    new: Sequence[Place],
    known: Sequence[tuple[float, int, int]],
    served_R: Any,
    size: int,
) -> tuple[list[Offered], list[Offered]]:
    """Take in the rows selected since, and scores that the driver computed; the `size` first rows, and the next.

    Rows are first by (-bound, id). All that are offered have bounds of now.
    """
    stack: Stack = state["stack"]
    if len(new):
        state["selected_KD"] = torch.cat([state["selected_KD"], torch.tensor(new_PD).float()])
    now, bound_N, fresh_N = len(state["selected_KD"]), state["bound_N"], state["fresh_N"]
    for score, tile, row in known:
        if tile in stack.starts:
            bound_N[stack.position(tile, row)] = score
            fresh_N[stack.position(tile, row)] = now
    for _, tile, row in new:
        if tile in stack.starts:
            bound_N[stack.position(tile, row)] = -torch.inf
    served = torch.tensor(served_R)
    width = size
    while True:
        looked_at, _ = stack.first(bound_N, width)
        stale = looked_at[fresh_N[looked_at] < now]
        for position_n in torch.split(stale, ROWS):
            if len(position_n):
                _bound(state, position_n, rows_at(stack, position_n), served)
        found, following = stack.first(bound_N, size)
        if bool((fresh_N[found] >= now).all()):
            return _entries(state, found), _entries(state, following)
        width = min(2 * width, max(len(stack.ids), 1))


def _bound(state: dict[str, Any], position_n: torch.Tensor, features_nD: torch.Tensor, served_R: torch.Tensor) -> None:
    terms: Terms = state["terms"]
    error = slack(features_nD.shape[1]) / 2.0 ** (2 * GRID_BITS)
    features_nD = features_nD.float()
    less_R = (served_R - 2.0 * error).float()
    # relu(S - served), raised by the error.
    gain_nR = torch.addmm(less_R, features_nD, state["references_RD"].T, beta=-1.0).relu_()
    column_n = state["column_N"][position_n]
    mine_n = column_n >= 0
    row_n = mine_n.nonzero().flatten()
    gain_nR[row_n, column_n[row_n]] = 0.0
    others_n = gain_nR.sum(dim=1).double() * (1.0 + 2.0**-10)
    served_n = _served(state, position_n, features_nD, ~mine_n, error)
    served_n[row_n] = served_R[column_n[row_n]]
    own_n = torch.clamp(state["norm_N"][position_n] - served_n, min=0.0)
    bound_n = terms.score(own_n + ROUNDING, others_n, state["quality_N"][position_n], mine_n) + ROUNDING
    held_n = state["bound_N"][position_n]
    state["bound_N"][position_n] = torch.where(held_n.isfinite(), torch.minimum(held_n, bound_n), bound_n)
    state["fresh_N"][position_n] = len(state["selected_KD"])


def _served(
    state: dict[str, Any], position_n: torch.Tensor, features_nD: torch.Tensor, wanted_n: torch.Tensor, error: float
) -> torch.Tensor:
    """At least how similar each row is to a selected one; looked up for those wanted, in what is new to them."""
    selected_KD, compared_N = state["selected_KD"], state["compared_N"]
    position_w, features_wD = position_n[wanted_n], features_nD[wanted_n]
    first = int(compared_N[position_w].min()) if len(position_w) else len(selected_KD)
    for start in range(first, len(selected_KD), COMPARED):
        nearest_w = (features_wD @ selected_KD[start : start + COMPARED].T).amax(dim=1).double() - error
        state["served_N"][position_w] = torch.maximum(state["served_N"][position_w], nearest_w)
    compared_N[position_w] = len(selected_KD)
    served_n: torch.Tensor = state["served_N"][position_n]
    return served_n


def _entries(state: dict[str, Any], position_n: torch.Tensor) -> list[Offered]:
    places = state["stack"].places(position_n.tolist())
    values = zip(state["bound_N"][position_n].tolist(), places, state["quality_N"][position_n].tolist(), strict=True)
    return [(-bound, *place, quality) for bound, place, quality in values]
