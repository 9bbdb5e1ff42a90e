"""Candidates in the order of a score, without the scores leaving their shards: only each shard's best do.

Equal scores are told apart by id, so that neither the order of the pool nor its sharding matters.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evoray.errors import SelectionError
from evoray.selection.picks import Pick, picks_of
from evoray.selection.protocol import Shards, usable_rows
from evoray.selection.shard import Shard, Tile

#: (tile, arguments) to one score a row, higher is better. A function of a module, so that any worker finds it.
Score = Callable[..., torch.Tensor]
#: (-score, id, tile, row in the tile): ascending is best first.
Ranked = tuple[float, str, int, int]


def best(shards: Shards, count: int, score: Score, *arguments: Any) -> tuple[Pick, ...]:
    """The first `count` usable rows by (-score, id).

    Raises SelectionError where there are fewer, and for a score that is no number.
    """
    check_count(shards, count)
    parts = shards.call("ask", best_of_shard, count, score, *arguments)
    return picks_of(entry[1:] for entry in heapq.nsmallest(count, (entry for part in parts for entry in part)))


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


def best_of_shard(shard: Shard, count: int, score: Score, *arguments: Any) -> list[Ranked]:
    """The same of one shard."""
    tiles = [(tile, usable_N) for tile, usable_N in shard.tiles() if len(tile.ids)]
    if not tiles or not count:
        return []
    scores = [score(tile, *arguments).double().masked_fill(~usable_N, -torch.inf) for tile, usable_N in tiles]
    usable_N = torch.cat([mask_N for _, mask_N in tiles])
    score_N = torch.cat(scores)
    if bool(score_N.isnan().any()):
        raise SelectionError("a score that is no number", "a finite score for each row", "look at the features")
    keep = min(count, int(usable_N.sum()))
    if not keep:
        return []
    floor = torch.topk(score_N, keep).values[-1]
    wanted_N = (score_N >= floor) & usable_N
    start, found = 0, []
    for tile, _ in tiles:
        stop = start + len(tile.ids)
        for row in wanted_N[start:stop].nonzero().flatten().tolist():
            found.append((-float(score_N[start + row]), tile.ids[row], tile.index, row))
        start = stop
    return heapq.nsmallest(keep, found)


def with_nearest(shards: Shards, picks: Sequence[Pick], target_MD: Any) -> tuple[Pick, ...]:
    """The picks with their largest similarity to a target row, and which it is."""
    wanted: dict[int, list[int]] = {}
    for pick in picks:
        wanted.setdefault(pick.tile, []).append(pick.row)
    parts = shards.call("ask", _nearest, wanted, target_MD)
    # What is told of a tile comes in the order in which it was asked.
    told = {tile: zip(*of_tile, strict=True) for part in parts for tile, of_tile in part.items()}
    described = ((pick, *next(told[pick.tile])) for pick in picks)
    return tuple(replace(pick, similarity=largest, nearest=index) for pick, largest, index in described)


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
