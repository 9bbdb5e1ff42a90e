from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoray.errors import SelectionError
from evoray.selection.knn_uniform import KnnUniform
from evoray.selection.local import LocalShards
from evoray.selection.neighbours import nearest
from evoray.selection.selector import Choice, Goal, Request
from tests.oracles import Array
from tests.selection.pools import local, pool_and_target, tiles_of
from tests.selection.test_uot import exact_rows


def chosen(
    shards: LocalShards, target_MD: Array, rows: int, selector: KnnUniform, weights_M: Array | None = None
) -> Choice:
    goal = Goal(align_MD=target_MD.astype(np.float32), weights_M=weights_M)
    return selector.select(shards, Request(k=rows, rows=rows, goal=goal))


def lists_of(x: Array, y: Array) -> tuple[list[list[int]], Array]:
    """All rows by (-similarity, id) for each target row, and float32 similarities."""
    similarity = (x.astype(np.float32) @ y.astype(np.float32).T).astype(np.float64)
    return [sorted(range(len(x)), key=lambda i: (-similarity[i, j], i)) for j in range(len(y))], similarity


def oracle(
    x: Array, y: Array, b: Array, rows: int, alpha: float, scale: float, limit: int
) -> tuple[list[int], int, Array]:
    """(picks, k, masses): the definition, in loops. limit: of the lists, beside a tenth of the rows."""
    lists, similarity = lists_of(x, y)
    distance = [[1.0 - similarity[i, j] for i in order] for j, order in enumerate(lists)]
    k, limit = 1, min(limit, max(1, len(x) // 10))
    while k < limit:
        cost = sum(b[j] * sum(d[k] - d[place] for place in range(k)) for j, d in enumerate(distance))
        if alpha / scale * cost >= 1.0 - alpha:
            break
        k += 1
    while len({i for order in lists for i in order[:k]}) < rows:
        k += 1
    mass = np.zeros(len(x))
    for j, order in enumerate(lists):
        for i in order[:k]:
            mass[i] += b[j]
    return sorted(range(len(x)), key=lambda i: (-mass[i], i))[:rows], k, mass / k


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("seed", "n", "m", "rows"), [(0, 160, 5, 20), (1, 140, 1, 140), (2, 150, 9, 3), (3, 30, 4, 30), (4, 6, 3, 2)]
)
@pytest.mark.parametrize(("alpha", "limit"), [(0.01, 5000), (0.9, 5000), (0.01, 6)])
def test_picks_are_those_of_the_definition(
    exact: bool, seed: int, n: int, m: int, rows: int, alpha: float, limit: int
) -> None:
    x, y = (exact_rows(seed, n), exact_rows(seed + 50, m)) if exact else pool_and_target(seed, n, m)
    for b in (np.full(m, 1.0 / m), np.arange(1.0, m + 1) / np.arange(1.0, m + 1).sum()):
        expected, k, mass = oracle(x, y, b, rows, alpha, 0.5, limit)
        for height, n_shards in [(16, 1), (7, 3)]:
            selector = KnnUniform(alpha=alpha, scale=0.5, neighbours=limit)
            found = chosen(local(x, height, n_shards, torch.float32), y, rows, selector, b)
            assert [int(pick.id[-4:]) for pick in found.picks] == expected
            assert found.facts["k"] == k
            assert found.facts["picked_mass"] == pytest.approx(mass[expected].sum())


@pytest.mark.parametrize("length", [1, 4, 30, 100])
@pytest.mark.parametrize(("height", "n_shards"), [(64, 1), (5, 3), (1, 2)])
def test_lists_are_exact_with_ties_by_id(
    length: int, height: int, n_shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evoray.selection.neighbours.BLOCK_ENTRIES", 37)
    x, y = exact_rows(1, 64), exact_rows(2, 5)
    lists, similarity = lists_of(x, y)
    order = np.random.default_rng(0).permutation(64)
    tiles = tiles_of(x[order], height, torch.float32, [f"row-{row:04d}" for row in order])
    found = nearest(LocalShards.of_tiles(tiles, n_shards), y.astype(np.float32), length, 1)
    for j, expected in enumerate(lists):
        assert [int(found.ids[number][-4:]) for number in found.number_ML[j]] == expected[:length]
        assert found.similarity_ML[j].tolist() == similarity[expected[:length], j].tolist()
    places = [(tile * height + row) for tile, row in zip(found.tile_U, found.row_U, strict=True)]
    assert [f"row-{order[place]:04d}" for place in places] == list(found.ids) == sorted(found.ids)


def test_lists_grow_until_they_hold_enough_rows() -> None:
    x, y = pool_and_target(3, 50, 2)
    found = nearest(local(x, dtype=torch.float32), y.astype(np.float32), 3, 41)
    assert len(found.ids) >= 41
    assert nearest(local(x, dtype=torch.float32), y.astype(np.float32), 3, 2).number_ML.shape == (2, 3)


def test_excluded_rows_are_in_no_list() -> None:
    x, y = pool_and_target(4, 40, 3)
    out = {"row-0000", "row-0011", "row-0016"}
    keep = [row for row in range(40) if f"row-{row:04d}" not in out]
    expected, _, _ = oracle(x[keep], y, np.full(3, 1 / 3), 37, 0.01, 5.0, 5000)
    for height in (16, 1):
        found = chosen(local(x, height, 2, torch.float32, out), y, 37, KnnUniform())
        assert [int(pick.id[-4:]) for pick in found.picks] == [keep[row] for row in expected]
    with pytest.raises(SelectionError):
        chosen(local(x, excluded=out), y, 38, KnnUniform())


def test_what_ended_the_growth_is_told() -> None:
    x, y = pool_and_target(5, 200, 4)
    shards = local(x)
    assert chosen(shards, y, 5, KnnUniform(alpha=0.2, scale=0.1)).facts["stopped_by"] == "cost"
    assert chosen(shards, y, 5, KnnUniform(neighbours=9)).facts["stopped_by"] == "neighbours"
    assert chosen(shards, y, 200, KnnUniform(neighbours=9)).facts["stopped_by"] == "rows"


def test_of_a_small_pool_a_target_row_sees_a_tenth_and_what_is_chosen_depends_on_it() -> None:
    x, y = pool_and_target(6, 300, 2)
    shards = local(x)
    found = [chosen(shards, y[place : place + 1], 10, KnnUniform()) for place in (0, 1)]
    assert [one.facts["k"] for one in found] == [30, 30]
    assert {pick.id for pick in found[0].picks} != {pick.id for pick in found[1].picks}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 5), st.integers(1, 50), st.data())
def test_any_number_of_distinct_usable_rows_can_be_had(
    seed: int, n: int, m: int, limit: int, data: st.DataObject
) -> None:
    rows = data.draw(st.integers(1, n))
    out = {f"row-{row:04d}" for row in range(n, n + 3)}
    shards = local(exact_rows(seed, n + 3), 4, 2, excluded=out)
    found = chosen(shards, exact_rows(seed + 1, m), rows, KnnUniform(neighbours=limit)).picks
    assert len({pick.id for pick in found} - out) == rows == len(found)
    assert [pick.rank for pick in found] == list(range(rows))
