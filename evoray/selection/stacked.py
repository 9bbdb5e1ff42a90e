"""The rows of a shard as one list, in blocks, and on a grid on which their products are exact.

Greedy selectors decide by comparing distances, and a matrix product rounds differently with every block size. Here
features are first rounded to multiples of a power of two, fine enough to change nothing that matters (2^-25 of the
longest row or less) and coarse enough that every product and partial sum of two rows is an integer below 2^53. In
fp64 such products are exact: they depend on no order of rows, tiles, shards or additions, equal rows are at distance
zero, and ties are ties. Products in fp32 are within `slack` of them: faster, and enough for what is not near a tie.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evoray.alignment.reduction import Array
from evoray.errors import SelectionError
from evoray.selection.picks import Place, random_key
from evoray.selection.protocol import Shards
from evoray.selection.ranking import id_ranks
from evoray.selection.shard import Shard

#: Rows of one block: its products with a few hundred others stay in the processor's cache.
BLOCK_ROWS = 2048
#: Bits of the longest row's norm on the grid: a sum of four squares of it stays below 2^53.
GRID_BITS = 25


@dataclass(frozen=True, kw_only=True)
class Stack:
    """All rows of a shard, tile by tile."""

    ids: list[str]
    features: list[torch.Tensor]  # of each tile that has rows, as they are stored
    usable_N: torch.Tensor
    order_N: torch.Tensor  # place of each row in the order of ids
    starts: dict[int, int]  # of each tile, ascending

    def position(self, tile: int, row: int) -> int:
        """Where a row of a tile is in the list."""
        return self.starts[tile] + row

    def places(self, positions: Sequence[int]) -> list[Place]:
        """Id, tile and row of some positions."""
        tiles, first = list(self.starts), np.fromiter(self.starts.values(), np.int64, len(self.starts))
        of_tile = np.searchsorted(first, np.asarray(positions, dtype=np.int64), side="right") - 1
        return [
            (self.ids[position], tiles[tile], position - int(first[tile]))
            for position, tile in zip(positions, of_tile.tolist(), strict=True)
        ]

    def first(self, score_N: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions of the `count` finite scores that are first by (-score, id), and that next score's, if any."""
        open_N = score_N.isfinite().nonzero().flatten()
        wanted = min(count + 1, len(open_N))
        if not wanted:
            return open_N, open_N
        values = score_N[open_N]
        floor = torch.topk(values, wanted, sorted=False).values.min()
        above_N, level_N = open_N[values > floor], open_N[values == floor]
        missing = wanted - len(above_N)
        level_N = level_N[torch.topk(self.order_N[level_N], missing, largest=False).indices]
        found = torch.cat([above_N, level_N])
        # Two stable sorts: by id, then by score.
        found = found[torch.argsort(self.order_N[found])]
        found = found[torch.argsort(score_N[found], descending=True, stable=True)]
        return found[:count], found[count:]


def stack_of(shard: Shard) -> Stack:
    """The rows of a shard that has any feature."""
    tiles = [(tile, usable_N) for tile, usable_N in shard.tiles() if len(tile.ids)]
    ids = [row_id for tile, _ in tiles for row_id in tile.ids]
    starts, start = {}, 0
    for tile, _ in tiles:
        starts[tile.index] = start
        start += len(tile.ids)
    usable_N = torch.cat([usable_N for _, usable_N in tiles] or [torch.zeros(0, dtype=torch.bool)])
    features = [tile.features_ND for tile, _ in tiles]
    return Stack(ids=ids, features=features, usable_N=usable_N, order_N=torch.from_numpy(id_ranks(ids)), starts=starts)


def blocks(stack: Stack, rows: int = BLOCK_ROWS) -> Iterator[tuple[slice, torch.Tensor]]:
    """Features of consecutive rows of the whole list, as they are stored: small tiles together, large ones in parts."""
    parts: list[torch.Tensor] = []
    start = held = 0
    for features_ND in stack.features:
        for part_ND in torch.split(features_ND, rows):
            if parts and held + len(part_ND) > rows:
                yield slice(start, start + held), torch.cat(parts) if len(parts) > 1 else parts[0]
                start, held, parts = start + held, 0, []
            parts.append(part_ND)
            held += len(part_ND)
    if parts:
        yield slice(start, start + held), torch.cat(parts) if len(parts) > 1 else parts[0]


def rows_at(stack: Stack, position_n: torch.Tensor) -> torch.Tensor:
    """Features [n, D] of some positions, in their order, as they are stored."""
    if not len(position_n):
        return stack.features[0][:0] if stack.features else torch.zeros(0, 0)
    sorted_n, back_n = torch.sort(position_n)
    starts = list(stack.starts.values())
    cut_t = torch.searchsorted(sorted_n, torch.tensor([*starts, len(stack.ids)], dtype=torch.int64))
    hit = (cut_t[1:] > cut_t[:-1]).nonzero().flatten().tolist()
    cuts = cut_t.tolist()
    first_ND = stack.features[hit[0]]
    found_nD = torch.empty(len(position_n), first_ND.shape[1], dtype=first_ND.dtype)
    for tile in hit:
        span = slice(cuts[tile], cuts[tile + 1])
        torch.index_select(stack.features[tile], 0, sorted_n[span] - starts[tile], out=found_nD[span])
    if torch.equal(sorted_n, position_n):
        return found_nD
    ordered_nD = torch.empty_like(found_nD)
    ordered_nD[back_n] = found_nD
    return ordered_nD


def grid_scale(shards: Shards) -> float:
    """The power of two that puts the features of these shards onto the grid of whole numbers."""
    longest = max(shards.call("ask", _longest), default=0.0)
    # A thousandth of leeway: rows of norm 1, which are never exactly so, all give the same scale.
    exponent = math.frexp(longest / 1.001)[1] if longest > 0 else 0
    return math.ldexp(1.0, GRID_BITS - exponent)


def on_grid(features_ND: torch.Tensor, scale: float) -> torch.Tensor:
    """Features as whole numbers in fp64."""
    return (features_ND.to(torch.float64, copy=True)).mul_(scale).round_()


def squares(stack: Stack, scale: float) -> torch.Tensor:
    """Squared norm of every row, exact on the grid."""
    # Into one tensor: small results kept between large temporary ones would pin the memory of those.
    square_N = torch.empty(len(stack.ids), dtype=torch.float64)
    for span, features_BD in blocks(stack):
        square_N[span] = on_grid(features_BD, scale).square_().sum(dim=1)
    return square_N


def slack(dim: int) -> float:
    """The largest error of an inner product in fp32, in units of the grid: features and grid rounded, D additions."""
    return (dim + 8) * math.ldexp(1.0, 2 * GRID_BITS - 22)


def features_of(shards: Shards, places: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Stored features [n, D] of rows by (tile, row), in the order of `places`."""
    wanted: dict[int, list[int]] = {}
    for tile, row in places:
        wanted.setdefault(tile, []).append(row)
    found = {tile: features_nD for part in shards.call("ask", _of_tiles, wanted) for tile, features_nD in part.items()}
    taken = dict.fromkeys(wanted, 0)
    order: list[Any] = []
    for tile, _ in places:
        order.append(found[tile][taken[tile]])
        taken[tile] += 1
    return torch.from_numpy(np.stack(order)) if order else torch.zeros(0, 0)


def random_keys(ids: Iterable[str], seed: int) -> npt.NDArray[np.uint64]:
    """`random_key` of each id."""
    return np.fromiter((random_key(row_id, seed) for row_id in ids), np.uint64)


def column_of(shard: Shard, stack: Stack, name: str) -> torch.Tensor:
    """A column of all rows in fp64; NaN where a tile or a row has none."""
    nothing = torch.full((len(stack.ids),), torch.nan, dtype=torch.float64)
    parts = [
        tile.columns[name].double() if name in tile.columns else nothing[: len(tile.ids)]
        for tile, _ in shard.tiles()
        if len(tile.ids)
    ]
    return torch.cat(parts) if parts else nothing


def check_column(shards: Shards, name: str) -> None:
    """Raises SelectionError where a usable row has no finite value in a column."""
    lacking = sum(shards.call("ask", _lacking, name))
    if lacking:
        raise SelectionError(
            f"{lacking} usable rows without a finite {name}",
            f"a number {name} for each candidate",
            f"add the column {name} to the pool, or drop the rows that have none",
        )


def _longest(shard: Shard) -> float:
    longest = [
        float(part_ND.double().square().sum(dim=1).max())
        for tile, _ in shard.tiles()
        for part_ND in torch.split(tile.features_ND, BLOCK_ROWS)
        if len(part_ND)
    ]
    return math.sqrt(max(longest, default=0.0))


def _of_tiles(shard: Shard, wanted: dict[int, list[int]]) -> dict[int, Array]:
    return {
        tile.index: tile.features_ND[wanted[tile.index]].numpy() for tile, _ in shard.tiles() if tile.index in wanted
    }


def _lacking(shard: Shard, name: str) -> int:
    stack = stack_of(shard)
    return int((~column_of(shard, stack, name).isfinite() & stack.usable_N).sum())
