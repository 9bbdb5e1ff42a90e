"""The seam between a selector's driver loop and the shards that hold the rows.

A driver names a method of `Shard`; where the shards live (in this process or behind actors) is the
business of the implementation. Every shard method is a deterministic function of the calls before it,
so a lost shard is rebuilt by loading its tiles and calling again what changed it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Protocol

from evoray.alignment.reduction import Array

#: Methods of `Shard` that begin a problem or a state; that make it what it is; that bring it back to its beginning; and
#: that change it. They are what is called again on a shard that is loaded anew; all others but `close`, `save` and
#: `restore` leave it as it is.
BEGINNING = ("open", "begin")
MAKING = (*BEGINNING, "divide", "prepare_diversity")
RESETTING = ("reset",)
CHANGING = ("set_diversity", "sinkhorn_kernel", "sinkhorn_log", "mirror_step", "accept", "tell")


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

    def save(self, problem: str, key: str) -> None:
        """Keep the weights of a problem under a name."""

    def restore(self, problem: str, key: str) -> None:
        """An open problem as it was when it was saved, bit for bit."""


def split_tiles(n_tiles: int, n_shards: int) -> list[range]:
    """Contiguous ranges of tile numbers, one a shard; where tiles are fewer, only that many shards."""
    count = max(1, min(n_shards, n_tiles))
    edges = [n_tiles * shard // count for shard in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]


def usable_rows(shards: Shards) -> int:
    """How many rows all shards together offer."""
    return sum(int(usable) for _, usable in shards.call("counts"))
