"""The best unused candidates of every target, best first: each shard's own, merged by the driver.

A shard takes the inner products of its rows with a fixed number of targets at a time, whatever its size, so that no
product depends on the sharding. It keeps them between calls as far as a budget of memory goes, and computes the others
again. What leaves it is [M, L] arrays and the ids of those rows alone.

Equal values are told apart by id. The driver knows the ids of what it was sent; a shard has to order its own only
where equal values straddle the end of a target's list, and then does so once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evoray.alignment.reduction import Array
from evoray.errors import SelectionError
from evoray.selection.protocol import Shards
from evoray.selection.ranking import id_ranks, similarity
from evoray.selection.shard import Shard

Integers = npt.NDArray[np.int64]

STATE = "target_tops"
TARGETS_AT_ONCE = 256  # fixed: another width of the product may round differently
CACHE_BYTES = 2**31  # for similarities that are kept, over all shards


@dataclass(frozen=True, kw_only=True)
class Tops:
    """L candidates of each target, by number; those of number u are the row `row_U[u]` of the tile `tile_U[u]`."""

    value_ML: Array  # similarities
    index_ML: Integers
    ids: Sequence[str]
    tile_U: Integers
    row_U: Integers


def open_tops(shards: Shards, target_MD: Any) -> None:
    """Make the state on every shard."""
    count = len(shards.call("begin", STATE))
    shards.call("tell", STATE, _open, target_MD, CACHE_BYTES // count)


def next_tops(shards: Shards, length: int, tile_K: Integers, row_K: Integers) -> Tops:
    """The first `length` usable candidates of each target by (-similarity, id), or all where there are fewer.

    tile_K, row_K: rows that are used from now on, and never offered again.
    """
    return merged(shards.call("tell", STATE, _next, length, tile_K, row_K), length)


def close_tops(shards: Shards) -> None:
    """Free the state's memory."""
    shards.call("close", STATE)


def merged(parts: Sequence[Tops], length: int) -> Tops:
    """The first `length` of each target, of the lists of several shards; these in order, best first."""
    ids = [row_id for part in parts for row_id in part.ids]
    starts = np.cumsum([0, *(len(part.ids) for part in parts)])
    value_ML = np.concatenate([part.value_ML for part in parts], axis=1)
    index_ML = np.concatenate([part.index_ML + start for part, start in zip(parts, starts[:-1], strict=True)], axis=1)
    order_ML = np.lexsort((id_ranks(ids)[index_ML], -value_ML), axis=1)[:, :length]
    return Tops(
        value_ML=np.take_along_axis(value_ML, order_ML, axis=1),
        index_ML=np.take_along_axis(index_ML, order_ML, axis=1),
        ids=ids,
        tile_U=np.concatenate([part.tile_U for part in parts]),
        row_U=np.concatenate([part.row_U for part in parts]),
    )


# On a shard.


def _open(shard: Shard, state: dict[str, Any], target_MD: Any, cache_bytes: int) -> None:
    tiles = shard.tiles()
    dtype = tiles[0][0].features_ND.dtype if tiles else torch.float32
    free = [usable_N for _, usable_N in tiles]
    state["target"] = torch.as_tensor(target_MD, dtype=dtype)
    state["starts"] = np.cumsum([0, *(len(usable_N) for usable_N in free)])
    state["numbers"] = np.array([tile.index for tile, _ in tiles], np.int64)
    state["free"] = torch.cat(free) if free else torch.zeros(0, dtype=torch.bool)
    state["spare"] = cache_bytes
    state["kept"] = {}


def _next(shard: Shard, state: dict[str, Any], length: int, tile_K: Integers, row_K: Integers) -> Tops:
    free_N = state["free"]
    free_N[_positions(state, tile_K, row_K)] = False
    targets, keep = len(state["target"]), min(length, int(free_N.sum()))
    value_ML = torch.zeros(targets, keep, dtype=torch.float64)
    position_ML = torch.zeros(targets, keep, dtype=torch.int64)
    barred = (~free_N).nonzero().flatten()
    for start in range(0, targets if keep else 0, TARGETS_AT_ONCE):
        some = slice(start, start + TARGETS_AT_ONCE)
        similarity_MN = _similarities(shard, state, some).index_fill_(1, barred, -torch.inf)
        value_ML[some], position_ML[some] = _first(shard, state, similarity_MN, keep)
    position_U, index_X = np.unique(position_ML.numpy(), return_inverse=True)
    place_U = np.searchsorted(state["starts"], position_U, side="right") - 1
    row_U = position_U - state["starts"][place_U]
    tiles = [tile for tile, _ in shard.tiles()]
    return Tops(
        value_ML=value_ML.numpy(),
        index_ML=index_X.reshape(targets, keep),
        ids=[tiles[place].ids[row] for place, row in zip(place_U.tolist(), row_U.tolist(), strict=True)],
        tile_U=state["numbers"][place_U],
        row_U=row_U,
    )


def _positions(state: dict[str, Any], tile_K: Integers, row_K: Integers) -> torch.Tensor:
    """Where the given rows stand on this shard; those of others are left out."""
    own_K = np.isin(tile_K, state["numbers"])
    place_K = np.searchsorted(state["numbers"], tile_K[own_K])
    return torch.from_numpy(state["starts"][place_K] + row_K[own_K])


def _similarities(shard: Shard, state: dict[str, Any], some: slice) -> torch.Tensor:
    """Inner products of some targets with all rows of the shard, one row a target; tile by tile, as tiles are fixed."""
    if some.start in state["kept"]:
        found: torch.Tensor = state["kept"][some.start]
        return found
    target_MD, starts = state["target"][some], state["starts"].tolist()
    similarity_MN = torch.empty(len(target_MD), starts[-1], dtype=target_MD.dtype)
    for (tile, _), start in zip(shard.tiles(), starts[:-1], strict=True):
        if len(tile.ids):
            similarity_MN[:, start : start + len(tile.ids)] = similarity(tile, target_MD).T
    size = similarity_MN.numel() * similarity_MN.element_size()
    if size <= state["spare"]:
        state["kept"][some.start] = similarity_MN
        state["spare"] -= size
    return similarity_MN


def _first(
    shard: Shard, state: dict[str, Any], similarity_MN: torch.Tensor, keep: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest `keep` similarities of each target, and their positions; of equal ones the lower ids are in."""
    found = torch.topk(similarity_MN, min(keep + 1, similarity_MN.shape[1]), dim=1)
    value_ML, position_ML = found.values[:, :keep], found.indices[:, :keep]
    if bool(value_ML[:, 0].isnan().any()):  # it counts as the largest
        raise SelectionError("a similarity that is no number", "finite features", "compute the features again")
    if found.values.shape[1] == keep:
        return value_ML, position_ML
    # Which of the equal ones at the end of the list are in is not for `topk` to say.
    for target in (found.values[:, keep] == value_ML[:, -1]).nonzero().flatten().tolist():
        if "rank" not in state:
            state["rank"] = id_ranks([row_id for tile, _ in shard.tiles() for row_id in tile.ids])
        floor = value_ML[target, -1]
        above = int((value_ML[target] > floor).sum())
        equal = (similarity_MN[target] == floor).nonzero().flatten()
        by_id = np.argpartition(state["rank"][equal.numpy()], keep - above - 1)[: keep - above]
        position_ML[target, above:] = equal[torch.from_numpy(by_id)]
    return value_ML, position_ML
