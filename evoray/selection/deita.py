"""`deita`: the best rows that are not too near to a better one (Deita, arXiv 2312.15685).

Rows are visited by descending quality. One is taken when the squared L2 distance to the nearest row taken before is at
least the threshold: 0.9 of unit rows, at most cosine 0.55. Where too few rows pass, the threshold is halved and the
pass repeated from the first row, so that the result is that of one threshold, which the facts name; below 1e-6 every
row passes. (The source stops with fewer rows.)

Each shard walks down its own rows and offers the first that are far enough from all rows taken so far. The driver
decides among the offers of all shards, in order, down to the first place that some shard has not reached. Distances
are exact on the grid of `stacked`: offers and sharding change nothing, and a distance at the threshold passes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from evoray.selection.picks import Place, picks_of
from evoray.selection.protocol import Shards
from evoray.selection.ranking import check_count
from evoray.selection.selector import Choice, Needs, Request, Selector
from evoray.selection.shard import Shard
from evoray.selection.stacked import (
    BLOCK_ROWS,
    check_column,
    column_of,
    features_of,
    grid_scale,
    on_grid,
    rows_at,
    slack,
    stack_of,
)

NAME = "deita"
#: A threshold below this lets every row pass.
LEAST_THRESHOLD = 1e-6
#: Rows that a shard offers at a time.
OFFER = 512
#: Taken rows that a block of rows is compared with at a time.
COMPARED = 1024

#: (-quality, id, tile, row in the tile): ascending is best first.
Offered = tuple[float, str, int, int]


class Deita(Selector):
    """The best rows that are not too near to a better one."""

    needs: ClassVar[Needs] = Needs(target=False, representation="embed", columns=("quality",))

    threshold: float = Field(0.9, ge=0, le=4)  # squared L2 between unit rows; 0: every row passes

    def select(self, shards: Shards, request: Request) -> Choice:
        """Rows by descending quality, at the largest of the halved thresholds at which enough pass."""
        check_count(shards, request.rows)
        check_column(shards, "quality")
        scale = grid_scale(shards)
        threshold, halved = self.threshold, 0
        places = _pass(shards, request, threshold, scale)
        while len(places) < request.rows:
            threshold, halved = threshold / 2.0, halved + 1
            threshold = threshold if threshold >= LEAST_THRESHOLD else 0.0
            places = _pass(shards, request, threshold, scale)
        return Choice(picks=picks_of(places), facts={"threshold": threshold, "halved": halved})


def _pass(shards: Shards, request: Request, threshold: float, scale: float) -> list[Place]:
    """The rows that pass, at most as many as are wanted."""
    shards.call("begin", NAME)
    shards.call("tell", NAME, _prepare, scale, threshold)
    places: list[Place] = []
    new_PD, decided, more = torch.zeros(0, 0), None, True
    while more and len(places) < request.rows:
        parts = shards.call("tell", NAME, _offer, new_PD.numpy(), decided, OFFER)
        # A shard that has more rows has offered a full number: all before its last are offers, too.
        reached = [offered[-1] for offered, ended in parts if not ended]
        merged = sorted(entry for offered, _ in parts for entry in offered)
        offered = [entry for entry in merged if not reached or entry <= min(reached)]
        more = bool(reached) or len(offered) > OFFER
        offered = offered[:OFFER]
        if offered:
            decided = offered[-1]
            offered_BD = features_of(shards, [entry[2:] for entry in offered])
            taken = _far_apart(on_grid(offered_BD, scale), threshold * scale * scale)[: request.rows - len(places)]
            new_PD = offered_BD[taken]
            places.extend(offered[place][1:] for place in taken)
            request.progress(len(places), request.rows)
    shards.call("close", NAME)
    return places


def _far_apart(rows_BD: torch.Tensor, least: float) -> list[int]:
    """Rows that are at least so far from every one taken before them, in order."""
    norm_B = rows_BD.square().sum(dim=1)
    near_BB = (norm_B[:, None] + norm_B - 2.0 * (rows_BD @ rows_BD.T) < least).numpy()
    open_B = torch.ones(len(rows_BD), dtype=torch.bool).numpy()
    taken: list[int] = []
    for place in range(len(rows_BD)):
        if open_B[place]:
            taken.append(place)
            open_B &= ~near_BB[place]
    return taken


def _prepare(shard: Shard, state: dict[str, Any], scale: float, threshold: float) -> None:
    stack = stack_of(shard)
    quality_N = column_of(shard, stack, "quality")
    best, _ = stack.first(quality_N.masked_fill(~stack.usable_N, torch.inf), len(stack.ids))
    state.update(stack=stack, scale=scale, least=threshold * scale * scale, order=best, quality_N=quality_N)
    # Far enough from all taken rows, and not decided yet; the next of `order` to look at; all rows taken.
    state.update(waiting=best[:0], next=0, taken_PD=None)


def _offer(
    _shard: Shard, state: dict[str, Any], new_PD: Any, decided: Offered | None, size: int
) -> tuple[list[Offered], bool]:
    """Take in the rows taken since, and forget those decided; the next `size` that pass, and whether none follows."""
    stack, order, waiting = state["stack"], state["order"], state["waiting"]
    waiting = waiting[len([entry for entry in _entries(state, waiting) if decided and entry <= decided]) :]
    if len(new_PD):
        new = torch.tensor(new_PD)
        waiting = waiting[_far(state, rows_at(stack, waiting), new)]
        taken_PD = state["taken_PD"]
        state["taken_PD"] = new if taken_PD is None else torch.cat([taken_PD, new])
    while len(waiting) < size and state["next"] < len(order):
        block = order[state["next"] : state["next"] + BLOCK_ROWS]
        if state["taken_PD"] is not None:
            block = block[_far(state, rows_at(stack, block), state["taken_PD"])]
        waiting = torch.cat([waiting, block])
        state["next"] += BLOCK_ROWS
    state["waiting"] = waiting
    return _entries(state, waiting[:size]), len(waiting) <= size and state["next"] >= len(order)


def _far(state: dict[str, Any], features_BD: torch.Tensor, taken_PD: torch.Tensor) -> torch.Tensor:
    """Positions of the rows that are at least as far as the threshold from all these taken rows."""
    scale, least = state["scale"], state["least"]
    left_n = torch.arange(len(features_BD))
    for first in range(0, len(taken_PD), COMPARED):
        grid_PD = on_grid(taken_PD[first : first + COMPARED], scale)
        norm_P = grid_PD.square().sum(dim=1)
        margin = 2.0 * slack(grid_PD.shape[1])
        held_nD = features_BD[left_n]
        norm_n = on_grid(held_nD, scale).square_().sum(dim=1)
        fast_nP = torch.addmm(norm_P.float(), held_nD.float(), grid_PD.float().T, alpha=-2.0 * scale)
        square_n = fast_nP.amin(dim=1).double() + norm_n
        # fp32 decides all but those near the threshold.
        close_n = ((square_n - least).abs() <= margin).nonzero().flatten()
        exact_nP = torch.addmm(norm_P, on_grid(held_nD[close_n], scale), grid_PD.T, alpha=-2.0)
        square_n[close_n] = exact_nP.amin(dim=1) + norm_n[close_n]
        left_n = left_n[square_n >= least]
    return left_n


def _entries(state: dict[str, Any], position_n: torch.Tensor) -> list[Offered]:
    places = state["stack"].places(position_n.tolist())
    return [(-quality, *place) for quality, place in zip(state["quality_N"][position_n].tolist(), places, strict=True)]
