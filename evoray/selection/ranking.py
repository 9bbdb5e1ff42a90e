"""Candidates in the order of a score, without the scores leaving their shards: only each shard's best do.

Equal scores are told apart by id, so that neither the order of the pool nor its sharding matters.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evoray.errors import SelectionError
from evoray.selection.picks import Pick, picks_of
from evoray.selection.protocol import Shards, usable_rows
from evoray.selection.shard import Shard, Tile
from evoray.selection.smallest import kth_smallest, smallest

#: (tile, arguments) to one score a row, higher is better. A function of a module, so that any worker finds it.
Score = Callable[..., torch.Tensor]
#: A tile, the mask of its usable rows, and a key for each row: the smallest are first.
Keyed = tuple[Tile, torch.Tensor, npt.NDArray[Any]]
#: (shard, arguments) to the keys of its rows. A function of a module.
Keys = Callable[..., Iterator[Keyed]]
#: (key, id, tile, row in the tile).
Ranked = tuple[Any, str, int, int]
_HELD = "ranking"


def best(shards: Shards, count: int, score: Score, *arguments: Any) -> tuple[Pick, ...]:
    """The first `count` usable rows by (-score, id).

    Raises SelectionError where there are fewer, and for a score that is no number.
    """
    check_count(shards, count)
    return picks_of(entry[1:] for entry in first_rows(shards, count, _negated, score, *arguments))


def first_rows(shards: Shards, count: int, keys: Keys, *arguments: Any) -> list[Ranked]:
    """The first usable rows of all shards by (key, id), `count` of them or all. Raises SelectionError for a key NaN.

    Keys of all shards come first, then the rows whose keys are as small as the last one wanted: else there would be
    `count` tuples of Python's from each shard.
    """
    if not count:
        return []
    shards.call("begin", _HELD)
    last = kth_smallest(shards.call("tell", _HELD, _hold, count, keys, *arguments), count)
    parts = shards.call("tell", _HELD, _up_to, count, last)
    shards.call("close", _HELD)
    return heapq.nsmallest(count, list(chain.from_iterable(parts)))


def id_ranks(ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """The place of each id among all of them in order: what tells equal scores apart, as numbers."""
    rank_N = np.empty(len(ids), np.int64)
    rank_N[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return rank_N


def check_count(shards: Shards, rows: int) -> None:
    """Raise SelectionError where so many usable rows cannot be had, or none is asked for."""
    usable = usable_rows(shards)
    if not 1 <= rows <= usable:
        raise SelectionError(
            f"k = {rows} of {usable} usable rows", "1 <= k <= usable rows", "lower k or enlarge the pool"
        )


def _negated(shard: Shard, score: Score, *arguments: Any) -> Iterator[Keyed]:
    for tile, usable_N in shard.tiles():
        if len(tile.ids):
            yield tile, usable_N, -score(tile, *arguments).double().numpy()


def _hold(shard: Shard, state: dict[str, Any], count: int, keys: Keys, *arguments: Any) -> npt.NDArray[Any]:
    """Keep the keys of usable rows; the `count` smallest."""
    held: list[tuple[Tile, npt.NDArray[np.int64], npt.NDArray[Any]]] = []
    for tile, usable_N, key_N in keys(shard, *arguments):
        row_N = usable_N.numpy().nonzero()[0]
        held.append((tile, row_N, key_N[row_N]))
    state["held"] = held
    key_N = np.concatenate([part for *_, part in held] or [np.empty(0)])
    if np.isnan(key_N).any():
        raise SelectionError("a score that is no number", "a finite score for each row", "look at the features")
    return smallest(key_N, count)


def _up_to(_shard: Shard, state: dict[str, Any], count: int, last: float) -> list[Ranked]:
    """The first rows by (key, id) whose keys are at most `last`, `count` of them or all."""
    found: list[Ranked] = []
    for tile, row_N, key_N in state["held"]:
        place_n = (key_N <= last).nonzero()[0]
        rows = row_N[place_n].tolist()
        found.extend(zip(key_N[place_n].tolist(), (tile.ids[row] for row in rows), repeat(tile.index), rows))
    return heapq.nsmallest(count, found)


def with_nearest(shards: Shards, picks: Sequence[Pick], target_MD: Any) -> tuple[Pick, ...]:
    """The picks with their largest similarity to a target row, and which it is."""
    wanted: dict[int, list[int]] = {}
    for pick in picks:
        wanted.setdefault(pick.tile, []).append(pick.row)
    parts = shards.call("ask", _nearest, wanted, target_MD)
    # What is told of a tile comes in the order in which it was asked.
    told = {tile: zip(*of_tile, strict=True) for part in parts for tile, of_tile in part.items()}
    described = ((pick, *next(told[pick.tile])) for pick in picks)
    return tuple(pick._replace(similarity=largest, nearest=index) for pick, largest, index in described)


def _nearest(shard: Shard, wanted: dict[int, list[int]], target_MD: Any) -> dict[int, tuple[list[float], list[int]]]:
    told: dict[int, tuple[list[float], list[int]]] = {}
    for tile, _ in shard.tiles():
        if tile.index in wanted:
            best_K = similarity(tile, target_MD, wanted[tile.index]).max(dim=1)
            told[tile.index] = (best_K.values.tolist(), best_K.indices.tolist())
    return told


def similarity(tile: Tile, target_MD: Any, rows: Sequence[int] | None = None) -> torch.Tensor:
    """Inner products [n, M] of a tile's rows, or of some of them, with a target's, in the features' dtype."""
    features_ND = tile.features_ND if rows is None else tile.features_ND[list(rows)]
    return features_ND @ target_like(target_MD, features_ND).T


def target_like(target_MD: Any, features_ND: torch.Tensor) -> torch.Tensor:
    """A target's rows in the features' dtype. Raises SelectionError where they are of another space."""
    target = torch.as_tensor(target_MD, dtype=features_ND.dtype)
    if features_ND.shape[1] != target.shape[1]:
        raise SelectionError(
            f"pool features of {features_ND.shape[1]} dimensions, target features of {target.shape[1]}",
            "features of one proxy and one dim for both",
            "compute both with the same model, adapter, seed and features.dim",
        )
    return target
