"""Slow references of the rules that rank by similarity, and pools whose ties are exact."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from evoray.selection.local import LocalShards
from evoray.selection.selector import Goal, Request, Selector
from tests.oracles import Array
from tests.selection.pools import tiles_of

#: (shards, tile height), and whether the rows are shuffled.
ARRANGEMENTS = [(1, 1000, False), (3, 5, False), (1, 7, True), (3, 16, True)]


def exact_rows(rng: np.random.Generator, rows: int, dim: int = 6) -> Array:
    """Unit rows of four entries ±0.5: their products are multiples of 1/4, without rounding; many are equal."""
    x = np.zeros((rows, dim))
    for row in x:
        row[rng.choice(dim, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return x


def names(rng: np.random.Generator, rows: int) -> list[str]:
    """Ids whose order is not that of the rows."""
    return [f"row-{number:04d}" for number in rng.permutation(rows)]


def chosen_everywhere(
    selector: Selector, features_ND: Array, ids: Sequence[str], request: Request, excluded: Collection[str] = ()
) -> list[str]:
    """The ids of the picks, which are the same for any tiles, sharding and order: distinct usable rows, ranked."""
    found = []
    for n_shards, height, shuffled in ARRANGEMENTS:
        order = np.random.default_rng(height).permutation(len(ids)) if shuffled else np.arange(len(ids))
        tiles = tiles_of(features_ND[order], height, ids=[ids[row] for row in order])
        picks = selector.select(LocalShards.of_tiles(tiles, n_shards, excluded), request).picks
        assert [pick.rank for pick in picks] == list(range(request.rows))
        assert [tiles[pick.tile].ids[pick.row] for pick in picks] == [pick.id for pick in picks]
        found.append([pick.id for pick in picks])
    assert all(one == found[0] for one in found)
    assert len(set(found[0])) == request.rows
    assert not set(found[0]) & set(excluded)
    return found[0]


def aimed(target_MD: Array, rows: int, **goal: object) -> Request:
    """A request for rows near a target."""
    return Request(k=rows, rows=rows, goal=Goal(align_MD=target_MD, **goal))  # type: ignore[arg-type]


def by_score(score_N: Array, ids: Sequence[str], rows: int, excluded: Collection[str] = ()) -> list[str]:
    """The first rows by (-score, id)."""
    usable = [row for row in range(len(ids)) if ids[row] not in excluded]
    return [ids[row] for row in sorted(usable, key=lambda row: (-score_N[row], ids[row]))[:rows]]


def taken_in_turn(similarity_NM: Array, ids: Sequence[str], rows: int, excluded: Collection[str] = ()) -> list[str]:
    """What the targets take, each its best by (-similarity, id) of what is left."""
    left = [row for row in range(len(ids)) if ids[row] not in excluded]
    taken = []
    for turn in range(rows):
        target = turn % similarity_NM.shape[1]
        row = min(left, key=lambda row: (-similarity_NM[row, target], ids[row]))
        left.remove(row)
        taken.append(ids[row])
    return taken
