"""The seam between a selector's driver loop and the shards that hold the rows.

A driver names a method of `Shard`; where the shards live (in this process or behind actors) is the
business of the implementation. Every shard method is a deterministic function of the calls before it,
so a lost shard is rebuilt by loading its tiles and replaying its calls.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any, Protocol

from evoray.alignment.reduction import Array, merge
from evoray.errors import SelectionError
from evoray.selection.shard import Shard, Tile


class Shards(Protocol):
    """Every tile of the pool, held by one or more shards in tile order."""

    @property
    def n_rows(self) -> int:
        """Rows of all tiles, excluded ones too."""

    @property
    def n_tiles(self) -> int:
        """Tiles of the pool, over all shards."""

    def call(self, method: str, *args: Any) -> list[Any]:
        """Run a method of `Shard` on every shard; the results in shard order."""

    def reduce(self, method: str, *args: Any) -> tuple[Array, ...]:
        """Run a method that returns Partials on every shard and merge them over the fixed tree."""


class LocalShards:
    """Shards in this process: for tests and for pools that fit into one machine's memory."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        if not shards:
            raise SelectionError("no shard", "at least one shard", "build the shards from at least one tile")
        self._shards = list(shards)

    @classmethod
    def of_tiles(cls, tiles: Sequence[Tile], n_shards: int = 1, excluded: Collection[str] = ()) -> LocalShards:
        """Spread tiles 0..T-1, in order, over `n_shards` shards of nearly equal tile counts."""
        spans = split_tiles(len(tiles), n_shards)
        return cls([Shard(tiles[span.start : span.stop], len(tiles), excluded) for span in spans])

    @property
    def n_rows(self) -> int:
        """Rows of all tiles, excluded ones too."""
        return sum(shard.n_rows for shard in self._shards)

    @property
    def n_tiles(self) -> int:
        """Tiles of the pool, over all shards."""
        return self._shards[0].n_tiles

    def call(self, method: str, *args: Any) -> list[Any]:
        """Run a method of `Shard` on every shard; the results in shard order."""
        return [getattr(shard, method)(*args) for shard in self._shards]

    def reduce(self, method: str, *args: Any) -> tuple[Array, ...]:
        """Run a method that returns Partials on every shard and merge them over the fixed tree."""
        return merge(self.call(method, *args), self.n_tiles)


def split_tiles(n_tiles: int, n_shards: int) -> list[range]:
    """Contiguous ranges of tile numbers, one a shard; where tiles are fewer, only that many shards."""
    count = max(1, min(n_shards, n_tiles))
    edges = [n_tiles * shard // count for shard in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]
