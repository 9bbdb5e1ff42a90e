"""`k_center`: greedy farthest-first traversal (k-center), as DiverseEvol does it (arXiv 2311.08182).

The next pick is always the candidate whose nearest selected row is farthest: L2 on the unweighted mean of the last
hidden states, as long as the model made them. A traversal starts from what earlier rounds selected. Where they
selected nothing it starts from rows drawn at random, counted in K: 100 in the first round of a loop (as the paper),
one in a single selection.

Exact, without a pass over all rows for every pick. Each shard keeps its rows' squared distances to the selected rows
and offers its farthest. Distances only shrink, so while the farthest offered row is farther than any row that was not
offered, it is the next pick: one pass then serves all picks that an offer yields. Distances are exact on the grid of
`stacked`, so that neither the size of offers nor the sharding can change a pick; copies of selected rows are at
distance 0, come last, and go by id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from evoray.selection.picks import Place, picks_of
from evoray.selection.protocol import Shards
from evoray.selection.random import first_at_random
from evoray.selection.ranking import check_count
from evoray.selection.selector import Choice, Needs, Request, Selector
from evoray.selection.shard import Shard
from evoray.selection.stacked import (
    blocks,
    features_of,
    grid_scale,
    on_grid,
    slack,
    squares,
    stack_of,
)

NAME = "k_center"
#: Rows of an offer at first, and at most.
OFFER, LARGEST_OFFER = 256, 4096
#: Selected rows that one pass compares with: their products with a block fit into memory that is fast.
COMPARED = 512
#: Pairs a row up to which they are computed one by one.
FEW = 4
#: Random rows that the first round of a loop starts from, at most.
LOOP_START = 100

#: (-squared distance, id, tile, row in the tile): ascending is farthest first.
Offered = tuple[float, str, int, int]


class KCenter(Selector):
    """The rows that leave no row far from a selected one."""

    needs: ClassVar[Needs] = Needs(target=False, representation="hidden_mean", unit_rows=False)

    start: int | None = Field(None, ge=1)  # random rows, where nothing is selected yet; None: 100 in a loop, else 1

    def select(self, shards: Shards, request: Request) -> Choice:
        """Farthest-first picks, in the order in which they are made."""
        check_count(shards, request.rows)
        scale = grid_scale(shards)
        shards.call("begin", NAME)
        shards.call("tell", NAME, _prepare, scale)
        selected = [place for part in shards.call("ask", _held, frozenset(request.used)) for place in part]
        for first in range(0, len(selected), LARGEST_OFFER):
            part_PD = features_of(shards, selected[first : first + LARGEST_OFFER]).numpy()
            shards.call("tell", NAME, _update, part_PD, [])
        start = 0 if selected else min(self._start(request), request.rows)
        places, radius = _traverse(shards, request, start, scale)
        shards.call("close", NAME)
        # The distance at which the last pick was made: no candidate is farther than that from a selected row.
        return Choice(
            picks=picks_of(places), facts={"start": start, "selected_before": len(selected), "radius": radius}
        )

    def _start(self, request: Request) -> int:
        if self.start is not None:
            return self.start
        return min(LOOP_START, request.k) if request.looped else 1


def _traverse(shards: Shards, request: Request, start: int, scale: float) -> tuple[list[Place], float | None]:
    places = first_at_random(shards, start, request.seed)
    new, size, radius = places, OFFER, None
    new_PD = features_of(shards, [place[1:] for place in new])
    while len(places) < request.rows:
        wanted = request.rows - len(places)
        offered, bound = _merge(shards.call("tell", NAME, _update, new_PD.numpy(), new, size, wanted), size, wanted)
        if offered[0][0] == 0.0:
            new = [entry[1:] for entry in offered[:wanted]]
            radius = 0.0
        else:
            offered_BD = features_of(shards, [entry[2:] for entry in offered])
            chosen, square = _farthest_first(offered, on_grid(offered_BD, scale), bound, wanted)
            new, new_PD = [offered[place][1:] for place in chosen], offered_BD[chosen]
            radius = float(np.sqrt(square)) / scale
            if len(new) * 4 < size:
                size = min(2 * size, LARGEST_OFFER)
        places = places + new
        request.progress(len(places), request.rows)
    return places, radius


def _merge(
    parts: Sequence[tuple[list[Offered], list[Offered]]], size: int, wanted: int
) -> tuple[list[Offered], Offered | None]:
    """The first offers of all shards, and the first row that is not among them.

    Where every distance is 0 no pick changes another: all that are wanted then come at once.
    """
    merged = sorted(entry for offered, _ in parts for entry in offered)
    count = wanted if merged[0][0] == 0.0 else size
    left = [*merged[count : count + 1], *(entry for _, following in parts for entry in following)]
    return merged[:count], min(left, default=None)


def _farthest_first(
    offered: Sequence[Offered], rows_BD: torch.Tensor, bound: Offered | None, wanted: int
) -> tuple[list[int], float]:
    """Positions of the picks that an offer decides, in order, and the squared distance of the last."""
    # By id, so that the first of equal distances is the one to take.
    order = sorted(range(len(offered)), key=lambda place: offered[place][1])
    square_B = np.array([-offered[place][0] for place in order])
    held_BD = rows_BD[order]
    norm_B = held_BD.square().sum(dim=1)
    chosen: list[int] = []
    last = 0.0
    while len(chosen) < wanted:
        best = int(np.argmax(square_B))
        key = (-float(square_B[best]), *offered[order[best]][1:])
        if square_B[best] < 0 or (bound is not None and key > bound):
            break
        chosen.append(order[best])
        last = float(square_B[best])
        to_best_B = (norm_B + norm_B[best] - 2.0 * (held_BD @ held_BD[best])).numpy()
        np.minimum(square_B, to_best_B, out=square_B)
        square_B[best] = -1.0
    return chosen, last


def _held(shard: Shard, wanted: frozenset[str]) -> list[tuple[int, int]]:
    """(tile, row) of the rows with these ids."""
    return [(tile.index, row) for tile, _ in shard.tiles() for row, row_id in enumerate(tile.ids) if row_id in wanted]


def _prepare(shard: Shard, state: dict[str, Any], scale: float) -> None:
    stack = stack_of(shard)
    # A row that cannot be picked is at -inf: never offered, and never nearer.
    square_N = torch.full((len(stack.ids),), -torch.inf, dtype=torch.float64)
    square_N[stack.usable_N] = torch.inf
    state.update(stack=stack, scale=scale, norm_N=squares(stack, scale), square_N=square_N)


def _update(
    _shard: Shard, state: dict[str, Any], new_PD: Any, new: Sequence[Place], size: int = 0, wanted: int = 0
) -> tuple[list[Offered], list[Offered]]:
    """Take in selected rows, of which `new` are this selection's; then the farthest `size` rows, and the one after.

    All that are `wanted` instead, where every distance is 0.
    """
    stack, square_N = state["stack"], state["square_N"]
    for first in range(0, len(new_PD), COMPARED):
        _shrink(state, torch.tensor(new_PD[first : first + COMPARED]))
    for _, tile, row in new:
        if tile in stack.starts:
            square_N[stack.position(tile, row)] = -torch.inf
    if size and len(square_N) and float(square_N.max()) == 0.0:
        size = max(size, wanted)
    found, following = stack.first(square_N, size)
    return _entries(state, found), _entries(state, following)


def _entries(state: dict[str, Any], position_n: torch.Tensor) -> list[Offered]:
    places = state["stack"].places(position_n.tolist())
    return [(-square, *place) for square, place in zip(state["square_N"][position_n].tolist(), places, strict=True)]


def _shrink(state: dict[str, Any], new_PD: torch.Tensor) -> None:
    """Squared distances to the nearest selected row, with these rows among them."""
    scale, norm_N, square_N = state["scale"], state["norm_N"], state["square_N"]
    grid_PD = on_grid(new_PD, scale)
    norm_P = grid_PD.square().sum(dim=1)
    fast_PD, fast_P, margin = grid_PD.float(), norm_P.float(), 2.0 * slack(grid_PD.shape[1])
    for span, features_BD in blocks(state["stack"]):
        # fp32 shows which rows may be nearer to a new pick; only they are computed exactly.
        fast_BP = torch.addmm(fast_P, features_BD.float(), fast_PD.T, alpha=-2.0 * scale)
        least_B = fast_BP.amin(dim=1).double() + norm_N[span]
        nearer_n = (least_B - margin <= square_N[span]).nonzero().flatten()
        if len(nearer_n):
            position_n = nearer_n + span.start
            near_nP = fast_BP[nearer_n]
            near_nP = near_nP <= near_nP.amin(dim=1, keepdim=True) + 2.0 * margin
            exact_n = norm_N[position_n] + _nearest(on_grid(features_BD[nearer_n], scale), grid_PD, norm_P, near_nP)
            square_N[position_n] = torch.minimum(square_N[position_n], exact_n)


def _nearest(grid_nD: torch.Tensor, grid_PD: torch.Tensor, norm_P: torch.Tensor, near_nP: torch.Tensor) -> torch.Tensor:
    """Smallest |p|^2 - 2 <x, p> of each row, exact; `near_nP` has every pair that may be it."""
    row_n, new_n = near_nP.nonzero(as_tuple=True)
    if len(row_n) > FEW * len(grid_nD):
        return torch.addmm(norm_P, grid_nD, grid_PD.T, alpha=-2.0).amin(dim=1)
    value_n = norm_P[new_n] - 2.0 * (grid_nD[row_n] * grid_PD[new_n]).sum(dim=1)
    least_n = torch.full((len(grid_nD),), torch.inf, dtype=torch.float64)
    return least_n.scatter_reduce_(0, row_n, value_n, "amin")
