"""`kmeans_quality` and `kmeans_random`: k-means clusters, and an equal draw from each (arXiv 2409.11378).

The pool is cut into clusters (512, but at most a quarter of K). From each the same number of rows is drawn without
replacement, a row in proportion to exp(quality) of the rows that are left, or each row alike. What does not divide
evenly, and what small clusters lack, goes one row at a time to the largest clusters, in turn. As the largest clusters
come first in every turn, that is one order: first the first draws of all clusters, the largest cluster first, then
their second draws, and so on; a selection is a prefix of it, however long.

Drawing so is the same as taking the largest sums of quality and a Gumbel variate, which each row has of its id and the
seed: a draw depends on no order, and a row's chance in its cluster on nothing but the qualities there.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from evoray.alignment.reduction import Array
from evoray.selection.clusters import cluster
from evoray.selection.picks import Place, picks_of
from evoray.selection.protocol import Shards
from evoray.selection.ranking import check_count
from evoray.selection.selector import Choice, Needs, Request, Selector
from evoray.selection.shard import Shard
from evoray.selection.stacked import check_column, column_of, random_keys

NAME = "kmeans"
#: A cluster gets at least so many rows of K on average.
LEAST_OF_CLUSTER = 4

#: (-key, id, tile, row in the tile): ascending is the order of draws from a cluster.
Drawn = tuple[float, str, int, int]


class KMeansQuality(Selector):
    """Rows of every cluster, those of high quality the likelier."""

    needs: ClassVar[Needs] = Needs(target=False, representation="embed", columns=("quality",))

    clusters: int = Field(512, ge=1)  # at most; no more than K / 4
    iterations: int = Field(20, ge=1)  # of k-means, at most

    def select(self, shards: Shards, request: Request) -> Choice:
        """Draws of all clusters in turn, by quality."""
        check_column(shards, "quality")
        return _draw_in_turn(shards, request, self.clusters, self.iterations, "quality")


class KMeansRandom(Selector):
    """Rows of every cluster, each as likely as another."""

    needs: ClassVar[Needs] = Needs(target=False, representation="embed")

    clusters: int = Field(512, ge=1)  # at most; no more than K / 4
    iterations: int = Field(20, ge=1)  # of k-means, at most

    def select(self, shards: Shards, request: Request) -> Choice:
        """Draws of all clusters in turn, uniform."""
        return _draw_in_turn(shards, request, self.clusters, self.iterations, None)


def _draw_in_turn(shards: Shards, request: Request, clusters: int, iterations: int, column: str | None) -> Choice:
    check_count(shards, request.rows)
    count = max(1, min(clusters, request.k // LEAST_OF_CLUSTER))
    shards.call("begin", NAME)
    found = cluster(shards, NAME, count, request.seed, iterations)
    take_C = shared_out(found.sizes_C, request.rows)
    drawn: list[list[Drawn]] = [[] for _ in range(count)]
    for part in shards.call("tell", NAME, first_of_each, take_C, request.seed, column):
        for number, entries in part.items():
            drawn[number].extend(entries)
    shards.call("close", NAME)
    places: list[tuple[int, int, Place]] = []
    for turn, number in enumerate(_largest_first(found.sizes_C)):
        chosen = sorted(drawn[number])[: take_C[number]]
        places.extend((draw, turn, entry[1:]) for draw, entry in enumerate(chosen))
    places.sort()
    facts = {
        "clusters": count,
        "empty_clusters": int((found.sizes_C == 0).sum()),
        "largest_cluster": int(found.sizes_C.max()),
        "iterations": found.iterations,
        "converged": found.converged,
        "trained_rows": found.trained,
    }
    return Choice(picks=picks_of(place for *_, place in places), facts=facts)


def shared_out(sizes_C: npt.NDArray[np.int64], rows: int) -> npt.NDArray[np.int64]:
    """How many rows each cluster gives: one of each in turn, the largest first, as long as it has some."""
    ascending_C = np.sort(sizes_C)
    # With every cluster cut at `level`, that many are given in whole turns.
    given = np.concatenate([[0], np.cumsum(ascending_C)])
    low, high = 0, int(ascending_C[-1])
    while low < high:
        level = (low + high + 1) // 2
        full = int(np.searchsorted(ascending_C, level))
        if given[full] + level * (len(sizes_C) - full) <= rows:
            low = level
        else:
            high = level - 1
    take_C = np.minimum(sizes_C, low)
    last = [number for number in _largest_first(sizes_C) if sizes_C[number] > low]
    take_C[last[: rows - int(take_C.sum())]] += 1
    return take_C


def gumbel(keys_N: npt.NDArray[np.uint64]) -> Array:
    """A standard Gumbel variate of each random key."""
    # 52 bits and a half: strictly between 0 and 1 in fp64.
    uniform_N = ((keys_N >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52
    gumbel_N: Array = -np.log(-np.log(uniform_N))
    return gumbel_N


def _largest_first(sizes_C: npt.NDArray[np.int64]) -> list[int]:
    order: list[int] = np.argsort(-sizes_C, kind="stable").tolist()
    return order


def first_of_each(
    shard: Shard, state: dict[str, Any], take_C: npt.NDArray[np.int64], seed: int, column: str | None
) -> dict[int, list[Drawn]]:
    """Of each cluster the rows of this shard with the largest keys, as many as the cluster gives."""
    stack = state["stack"]
    row_n = stack.usable_N.nonzero().flatten()
    key_n = gumbel(random_keys((stack.ids[row] for row in row_n.tolist()), seed))
    if column is not None:
        key_n += column_of(shard, stack, column)[row_n].numpy()
    number_n = state["cluster_N"][row_n].numpy()
    sorted_n = np.lexsort((stack.order_N[row_n].numpy(), -key_n, number_n))
    number_n, key_n = number_n[sorted_n], key_n[sorted_n]
    rank_n = np.arange(len(number_n)) - np.searchsorted(number_n, number_n)
    kept_n = np.flatnonzero(rank_n < take_C[number_n])
    places = stack.places(row_n.numpy()[sorted_n[kept_n]].tolist())
    drawn: dict[int, list[Drawn]] = {}
    for number, key, place in zip(number_n[kept_n].tolist(), key_n[kept_n].tolist(), places, strict=True):
        drawn.setdefault(number, []).append((-key, *place))
    return drawn
