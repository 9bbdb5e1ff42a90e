"""Shards in this process: for tests, and for pools that fit into one machine's memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from evoray.alignment.reduction import Array, merge
from evoray.errors import SelectionError
from evoray.selection.problem import State
from evoray.selection.protocol import split_tiles
from evoray.selection.shard import Shard, Tile


class LocalShards:
    """Shards in this process: for tests and for pools that fit into one machine's memory."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        if not shards:
            raise SelectionError("no shard", "at least one shard", "build the shards from at least one tile")
        self._shards = list(shards)
        self._saved: dict[str, list[State]] = {}

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

    def save(self, problem: str, key: str) -> None:
        """Keep the weights of a problem under a name."""
        self._saved[key] = self.call("save", problem)

    def restore(self, problem: str, key: str) -> None:
        """An open problem as it was when it was saved, bit for bit."""
        for shard, state in zip(self._shards, self._saved[key], strict=True):
            shard.restore(problem, state)
