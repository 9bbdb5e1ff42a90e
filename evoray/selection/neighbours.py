"""The nearest candidates of each target row, exactly, over all shards.

A shard looks at its rows block by block and keeps, for each target row, the best so far: only entries that reach the
worst of these are looked at again. An entry is one integer, its similarity's float32 bits above the row's place in the
order of ids: comparing integers compares (similarity, id), so equal similarities go to the lower id and nothing
depends on order or sharding. What a shard sends is M lists and the ids of the rows in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evoray.selection.picks import Pick, picks_of
from evoray.selection.protocol import Shards, usable_rows
from evoray.selection.ranking import check_count, id_ranks, target_like
from evoray.selection.shard import Shard

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

#: Similarities of one block.
BLOCK_ENTRIES = 2**23
_LOW = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Lists of M target rows, nearest first. A row's number is its place among the U rows in any list, by id."""

    similarity_ML: Floats  # inner products, descending
    number_ML: Numbers
    ids: Sequence[str]  # of the U rows, ascending
    tile_U: Numbers
    row_U: Numbers

    def picks(self, numbers: Iterable[int]) -> tuple[Pick, ...]:
        """Rows by number, as picks in that order."""
        return picks_of((self.ids[number], int(self.tile_U[number]), int(self.row_U[number])) for number in numbers)


def tenth_of_usable(shards: Shards) -> int:
    """A tenth of the usable rows, at least 1: what the authors of TSDS let a list be long."""
    return max(1, usable_rows(shards) // 10)


def nearest(shards: Shards, target_MD: Any, length: int, rows: int) -> Neighbours:
    """Lists of `length` usable rows for each target row, or of all of them; longer ones, doubled, where they hold
    fewer than `rows` rows together. Raises SelectionError where so many are not usable.
    """
    check_count(shards, rows)
    usable = usable_rows(shards)
    while True:
        length = min(length, usable)
        found = merged(shards.call("ask", nearest_of_shard, target_MD, length), length)
        if len(found.ids) >= rows:
            return found
        length = max(2 * length, -(-rows // len(found.number_ML)))


def nearest_of_shard(shard: Shard, target_MD: Any, length: int) -> Neighbours:
    """The same of one shard's rows."""
    ids: list[str] = []
    tiles, rows = [], []
    for tile, usable_N in shard.tiles():
        ids.extend(compress(tile.ids, usable_N.tolist()))
        rows.append(usable_N.numpy().nonzero()[0])
        tiles.append(np.full(len(rows[-1]), tile.index, dtype=np.int64))
    place_N = id_ranks(ids)
    order_N = np.argsort(place_N)
    best_ML = _best(_blocks(shard, target_MD), torch.from_numpy(place_N), len(target_MD), length)
    empty = np.empty(0, np.int64)
    return _listed(best_ML, order_N, ids, np.concatenate([*tiles, empty]), np.concatenate([*rows, empty]))


def merged(parts: Sequence[Neighbours], length: int) -> Neighbours:
    """Lists of several shards as one list a target row."""
    if len(parts) == 1:
        return parts[0]
    ids = [row_id for part in parts for row_id in part.ids]
    order_U = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    place_U = np.empty_like(order_U)
    place_U[order_U] = np.arange(len(ids))
    start, keys = 0, []
    for part in parts:
        places = torch.from_numpy(place_U[start + part.number_ML])
        keys.append(_pack(torch.tensor(part.similarity_ML), places))  # a copy: what Ray shares cannot be written
        start += len(part.ids)
    key_ML = torch.cat(keys, dim=1)
    key_ML = torch.topk(key_ML, min(length, key_ML.shape[1]), dim=1).values
    tile_U = np.concatenate([part.tile_U for part in parts])
    return _listed(key_ML, order_U, ids, tile_U, np.concatenate([part.row_U for part in parts]))


def _listed(key_ML: torch.Tensor, order_U: Numbers, ids: Sequence[str], tile_U: Numbers, row_U: Numbers) -> Neighbours:
    """The lists of some keys, with the rows that are in them. order_U: of the rows by id, which places in keys count
    in."""
    similarity_ML, place_ML = _unpack(key_ML)
    number_ML, wanted_W = _renumbered(place_ML, len(ids))
    position_W = order_U[wanted_W]
    return Neighbours(
        similarity_ML=similarity_ML,
        number_ML=number_ML,
        ids=[ids[position] for position in position_W.tolist()],
        tile_U=tile_U[position_W],
        row_U=row_U[position_W],
    )


def _blocks(shard: Shard, target_MD: Any) -> Iterator[torch.Tensor]:
    """Similarities [M, n] of the usable rows, in order; small tiles are put together, large ones cut.

    Every block is written over the one before.
    """
    width = max(1, BLOCK_ENTRIES // len(target_MD))
    held_MW, filled = torch.empty(len(target_MD), min(width, shard.n_rows)), 0
    for tile, usable_N in shard.tiles():
        features_ND = tile.features_ND if bool(usable_N.all()) else tile.features_ND[usable_N]
        for part_ND in torch.split(features_ND, width):
            if filled + len(part_ND) > width:
                yield held_MW[:, :filled]
                filled = 0
            held_MW[:, filled : filled + len(part_ND)] = target_like(target_MD, part_ND) @ part_ND.T
            filled += len(part_ND)
    if filled:
        yield held_MW[:, :filled]


def _best(blocks: Iterator[torch.Tensor], place_N: torch.Tensor, m: int, length: int) -> torch.Tensor:
    """Keys of the best `length` rows of each target row [M, <= length], descending."""
    best_ML = torch.empty(m, 0, dtype=torch.int64)
    floor_M, start = torch.full((m,), -torch.inf), 0
    for similarity_MN in blocks:
        if not start and similarity_MN.shape[1] > length:  # no floor yet: the block's own keeps most entries out
            floor_M = torch.topk(similarity_MN, length, dim=1, sorted=False).values.amin(dim=1)
        target, row = (similarity_MN >= floor_M[:, None]).nonzero().unbind(1)
        key = _pack(similarity_MN[target, row], place_N[start + row])
        count_M = torch.bincount(target, minlength=m)
        column = torch.arange(len(target)) - (count_M.cumsum(0) - count_M)[target]
        padded_MW = torch.full((m, int(count_M.max())), torch.iinfo(torch.int64).min)
        padded_MW[target, column] = key
        start += similarity_MN.shape[1]
        both_MW = torch.cat([best_ML, padded_MW], dim=1)
        # Rows seen so far fill a list, or all of them are in it: padding is never among the best.
        best_ML = torch.topk(both_MW, min(length, start), dim=1, sorted=False).values
        if start >= length:
            floor_M = torch.from_numpy(_unpack(best_ML.amin(dim=1))[0])
    return best_ML.sort(dim=1, descending=True).values


def _pack(similarity: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Integers that compare as (similarity, -place): larger is better."""
    bits = (similarity.contiguous() + 0.0).view(torch.int32)  # -0 and 0 are the same similarity
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return ordered.long() * 2**32 + (_LOW - place)


def _unpack(key: torch.Tensor) -> tuple[Floats, Numbers]:
    """(similarities, places)."""
    ordered = (key >> 32).int()
    similarity = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).view(torch.float32)
    return similarity.numpy(), (_LOW - (key & _LOW)).numpy()


def _renumbered(place_ML: Numbers, count: int) -> tuple[Numbers, Numbers]:
    """(numbers of places among those that occur, the places that occur, ascending)."""
    occurs = np.zeros(count, dtype=bool)
    occurs[place_ML.ravel()] = True
    return (np.cumsum(occurs) - 1)[place_ML], occurs.nonzero()[0]
