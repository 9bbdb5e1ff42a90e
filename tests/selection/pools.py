"""Small pools for the tests of alignment and selection."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from evoray.selection.local import LocalShards
from evoray.selection.shard import Tile
from tests.oracles import Array, clustered_rows, unit_rows

torch.set_num_threads(1)


def tiles_of(
    features_ND: Array,
    height: int,
    dtype: torch.dtype = torch.float64,
    ids: Sequence[str] = (),
    sources: Sequence[str | None] = (),
) -> list[Tile]:
    """Tiles of a fixed height; ids count the rows unless given."""
    names = list(ids) or [f"row-{row:04d}" for row in range(len(features_ND))]
    starts = range(0, len(features_ND), height)
    return [
        Tile(
            index=index,
            ids=names[start : start + height],
            features_ND=torch.from_numpy(features_ND[start : start + height]).to(dtype),
            sources=sources[start : start + height],
        )
        for index, start in enumerate(starts)
    ]


def local(
    features_ND: Array,
    height: int = 16,
    n_shards: int = 1,
    dtype: torch.dtype = torch.float64,
    excluded: Collection[str] = (),
) -> LocalShards:
    """Shards in this process."""
    return LocalShards.of_tiles(tiles_of(features_ND, height, dtype), n_shards, excluded)


def pool_and_target(seed: int, n: int, m: int, dim: int = 6) -> tuple[Array, Array]:
    """A pool whose rows lie around random centres, and a target around three of them."""
    rng = np.random.default_rng(seed)
    centres = unit_rows(rng, 6, dim)
    return clustered_rows(rng, n, centres, 0.4), clustered_rows(rng, m, centres[:3], 0.3)


def opened(shards: LocalShards, target_MD: Array, b_M: Array, problem: str = "pool") -> LocalShards:
    """Open a problem at uniform weights."""
    usable = sum(count for _, count in shards.call("counts"))
    shards.call("open", problem, target_MD, b_M, -float(np.log(usable)))
    return shards


def kept(shards: LocalShards, name: str, problem: str = "pool") -> Array:
    """A row vector (f_N, log_w_N, diversity_N) of all tiles in order, read from inside the shards."""
    parts = [getattr(rows, name).numpy() for shard in shards._shards for rows in shard._problems[problem].rows.values()]
    return np.concatenate(parts)
