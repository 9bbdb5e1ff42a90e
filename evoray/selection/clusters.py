"""Lloyd's k-means over shards. Assignments stay with the rows; the driver holds the centroids.

Seeded: the first centroids are rows drawn at random. Where a pool has more than 256 rows a cluster, the centroids are
trained on a random sample of that many, and every row is assigned once at the end: more rows hardly move them. A row
that is as near to two centroids goes to the lower number. A cluster that no row is nearest to keeps its centroid, and
may stay empty.

Rows and centroids lie on the grid of `stacked`: distances, sums and so the clusters do not depend on the order of rows
or on how they are sharded, and a step adds up only the rows that moved. Products in fp32 settle all rows but those
that are nearly as near to a second centroid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evoray.alignment.reduction import Array
from evoray.selection.protocol import Shards
from evoray.selection.shard import Shard
from evoray.selection.smallest import kth_smallest, smallest
from evoray.selection.stacked import (
    BLOCK_ROWS,
    blocks,
    features_of,
    grid_scale,
    on_grid,
    random_keys,
    rows_at,
    slack,
    stack_of,
)

#: Rows that the centroids are trained on, for each of them.
TRAINED_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """What a clustering came to. The number of each row's cluster is in its shard's state, `cluster_N`."""

    sizes_C: npt.NDArray[np.int64]  # usable rows
    centroids_CD: Array
    iterations: int
    converged: bool  # no row moved any more
    trained: int  # rows that the centroids were trained on


def cluster(
    shards: Shards, name: str, count: int, seed: int, iterations: int = 20, *, everyone: bool = False
) -> Clusters:
    """Cluster the usable rows, at least `count`, in the state `name` of every shard, which has to be begun.

    The state then has `stack` (see `stacked.stack_of`) and `cluster_N`: int32, -1 for rows that are not usable.
    everyone: the clusters are those of all rows, and `everyone_N` has the numbers of all.
    """
    scale = grid_scale(shards)
    wanted = count * TRAINED_ROWS
    keys = shards.call("tell", name, _prepare, seed, scale, wanted, everyone)
    trained = min(sum(len(key_n) for key_n in keys), wanted)
    shards.call("tell", name, _draw, kth_smallest(keys, wanted))
    drawn = sorted(entry for part in shards.call("tell", name, _first_drawn, count) for entry in part)[:count]
    centroids_CD = on_grid(features_of(shards, [(tile, row) for *_, tile, row in drawn]), scale).numpy()
    sums_CD, held_C = np.zeros_like(centroids_CD), np.zeros(count)
    done, converged = 0, False
    while done < iterations and not converged:
        moves = shards.call("tell", name, _move, centroids_CD)
        converged = not any(moved for *_, moved in moves)
        for change_CD, change_C, _ in moves:
            sums_CD += change_CD
            held_C += change_C
        filled_C = held_C > 0
        centroids_CD = centroids_CD.copy()
        centroids_CD[filled_C] = np.round(sums_CD[filled_C] / held_C[filled_C, None])
        done += 1
    sizes_C = np.sum(shards.call("tell", name, _assign, centroids_CD), axis=0)
    return Clusters(
        sizes_C=sizes_C, centroids_CD=centroids_CD / scale, iterations=done, converged=converged, trained=trained
    )


def _prepare(
    shard: Shard, state: dict[str, Any], seed: int, scale: float, wanted: int, everyone: bool
) -> npt.NDArray[np.uint64]:
    """Draw a number for each row that is clustered; the smallest `wanted`."""
    stack = stack_of(shard)
    position_n = torch.arange(len(stack.ids)) if everyone else stack.usable_N.nonzero().flatten()
    # Not the number that the id gives alone: what is drawn from a cluster must not depend on where it began.
    key_n = random_keys((f"clusters\0{stack.ids[row]}" for row in position_n.tolist()), seed)
    state.update(stack=stack, scale=scale, position_n=position_n, key_n=key_n)
    return smallest(key_n, wanted)


def _draw(_shard: Shard, state: dict[str, Any], largest: float) -> None:
    """Train on the rows whose number is at most this."""
    taken_n = torch.from_numpy(state["key_n"] <= largest)
    state["position_n"], state["key_n"] = state["position_n"][taken_n], state["key_n"][taken_n.numpy()]
    state["trained_n"] = torch.full((len(state["position_n"]),), -1, dtype=torch.int64)


def _first_drawn(_shard: Shard, state: dict[str, Any], count: int) -> list[tuple[int, str, int, int]]:
    """(number, id, tile, row) of the rows with the smallest numbers. They are needed no longer."""
    stack, key_n = state["stack"], state.pop("key_n")
    first = np.lexsort((stack.order_N[state["position_n"]].numpy(), key_n))[:count]
    places = stack.places(state["position_n"][torch.from_numpy(first)].tolist())
    return [(key, *place) for key, place in zip(key_n[first].tolist(), places, strict=True)]


def _move(_shard: Shard, state: dict[str, Any], centroids_CD: Array) -> tuple[Array, Array, int]:
    """Assign the rows that are trained on: what that changes in the sums and counts of each cluster, and in how many.

    Whole numbers all: adding what came and taking away what went gives the same sums as starting afresh.
    """
    nearest = _Nearest(centroids_CD, state["scale"])
    change_CD = torch.zeros(centroids_CD.shape, dtype=torch.float64)
    change_C = torch.zeros(len(centroids_CD), dtype=torch.float64)
    moved = 0
    for first in range(0, len(state["position_n"]), BLOCK_ROWS):
        span = slice(first, first + BLOCK_ROWS)
        features_BD = rows_at(state["stack"], state["position_n"][span])
        new_B, old_B = nearest(features_BD), state["trained_n"][span]
        moved_n = (new_B != old_B).nonzero().flatten()
        grid_nD = on_grid(features_BD[moved_n], state["scale"])
        one_n = torch.ones(len(moved_n), dtype=torch.float64)
        change_CD.index_add_(0, new_B[moved_n], grid_nD)
        change_C.index_add_(0, new_B[moved_n], one_n)
        went_n = (old_B[moved_n] >= 0).nonzero().flatten()  # none in the first step
        change_CD.index_add_(0, old_B[moved_n[went_n]], grid_nD[went_n], alpha=-1.0)
        change_C.index_add_(0, old_B[moved_n[went_n]], one_n[went_n], alpha=-1.0)
        state["trained_n"][span] = new_B
        moved += len(moved_n)
    return change_CD.numpy(), change_C.numpy(), moved


def _assign(_shard: Shard, state: dict[str, Any], centroids_CD: Array) -> npt.NDArray[np.int64]:
    """Assign every row; the usable rows of each cluster."""
    stack, nearest = state["stack"], _Nearest(centroids_CD, state["scale"])
    cluster_N = torch.empty(len(stack.ids), dtype=torch.int32)
    for span, features_BD in blocks(stack):
        cluster_N[span] = nearest(features_BD)
    state["everyone_N"], state["cluster_N"] = cluster_N, cluster_N.masked_fill(~stack.usable_N, -1)
    del state["position_n"], state["trained_n"]
    return np.bincount(cluster_N[stack.usable_N].numpy(), minlength=len(centroids_CD)).astype(np.int64)


class _Nearest:
    """The number of the nearest centroid of each row; the lower one of equal ones."""

    def __init__(self, centroids_CD: Array, scale: float) -> None:
        self._grid_CD = torch.tensor(centroids_CD)
        self._norm_C = self._grid_CD.square().sum(dim=1)
        self._fast_CD, self._fast_C = self._grid_CD.float(), self._norm_C.float()
        self._scale = scale
        self._margin = 4.0 * slack(centroids_CD.shape[1])  # of the difference of two squared distances

    def __call__(self, features_BD: torch.Tensor) -> torch.Tensor:
        fast_BC = torch.addmm(self._fast_C, features_BD.float(), self._fast_CD.T, alpha=-2.0 * self._scale)
        least_B, nearest_B = fast_BC.min(dim=1)
        second_B = fast_BC.scatter_(1, nearest_B[:, None], torch.inf).amin(dim=1)
        close_n = (second_B - least_B <= self._margin).nonzero().flatten()
        if len(close_n):
            grid_nD = on_grid(features_BD[close_n], self._scale)
            exact_nC = torch.addmm(self._norm_C, grid_nD, self._grid_CD.T, alpha=-2.0)
            # numpy promises the first of equal ones.
            nearest_B[close_n] = torch.from_numpy(exact_nC.numpy().argmin(axis=1))
        return nearest_B
