"""Pools for selectors that decide by distances: ties and copies that are exact in floating point."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from evoray.selection.local import LocalShards
from evoray.selection.selector import Choice, Request, Selector
from evoray.selection.shard import Tile
from tests.oracles import Array

torch.set_num_threads(1)


def tied_rows(seed: int, rows: int, dim: int = 6) -> Array:
    """Unit rows of four entries +-1/2: few distances, all exact; copies among them."""
    rng = np.random.default_rng(seed)
    features_ND = np.zeros((rows, dim))
    for row in range(rows):
        features_ND[row, rng.choice(dim, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return features_ND


def names(rows: int, seed: int) -> list[str]:
    """Ids whose order is not that of the rows."""
    return [f"row-{place:04d}" for place in np.random.default_rng(seed).permutation(rows)]


def shards_of(
    features_ND: Array,
    ids: Sequence[str],
    quality_N: Sequence[float] | Array = (),
    *,
    height: int = 16,
    n_shards: int = 1,
    excluded: Collection[str] = (),
    order: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> LocalShards:
    """Shards in this process, of rows in the given order, in tiles of one height."""
    placed = list(order) if order is not None else list(range(len(ids)))
    tiles = []
    for index, start in enumerate(range(0, len(placed), height)):
        rows = placed[start : start + height]
        quality = [float(quality_N[row]) for row in rows] if len(quality_N) else []
        tiles.append(
            Tile(
                index=index,
                ids=[ids[row] for row in rows],
                features_ND=torch.from_numpy(features_ND[rows]).to(dtype),
                columns={"quality": torch.tensor(quality, dtype=torch.float64)} if quality else {},
            )
        )
    return LocalShards.of_tiles(tiles, n_shards, excluded)


def chosen(selector: Selector, shards: LocalShards, k: int, **request: object) -> list[str]:
    """Ids of the picks, by rank."""
    return [pick.id for pick in choice(selector, shards, k, **request).picks]


def choice(selector: Selector, shards: LocalShards, k: int, **request: object) -> Choice:
    """What a selector makes of shards; picks are checked to be ranked, distinct and where they say."""
    made = selector.select(shards, Request(**{"k": k, "rows": k, **request}))  # type: ignore[arg-type]
    held = {(tile, row): row_id for part in shards.call("usable_rows") for row_id, tile, row in part}
    assert [pick.rank for pick in made.picks] == list(range(len(made.picks)))
    assert [held.get((pick.tile, pick.row)) for pick in made.picks] == [pick.id for pick in made.picks]
    assert len({pick.id for pick in made.picks}) == len(made.picks)
    return made


def everywhere_equal(selector: Selector, features_ND: Array, ids: Sequence[str], k: int, **given: object) -> list[str]:
    """The picks, the same for several tilings, shardings and orders of the rows."""
    quality_N, request = given.pop("quality_N", ()), given.pop("request", {})
    turned = np.random.default_rng(5).permutation(len(ids)).tolist()
    ways = [(16, 1, None), (16, 3, None), (7, 3, turned), (len(ids), 1, turned), (1, 2, turned)]
    found = [
        chosen(
            selector,
            shards_of(features_ND, ids, quality_N, height=height, n_shards=n, order=order, **given),  # type: ignore[arg-type]
            k,
            **request,  # type: ignore[arg-type]
        )
        for height, n, order in ways
    ]
    assert all(picks == found[0] for picks in found)
    return found[0]
