from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoray.errors import SelectionError
from evoray.selection.density import densities
from evoray.selection.knn_kde import KnnKde
from evoray.selection.local import LocalShards
from evoray.selection.neighbours import nearest
from evoray.selection.selector import Choice, Goal, Request
from tests.oracles import Array, clustered_rows, unit_rows
from tests.selection.pools import local, pool_and_target, tiles_of
from tests.selection.test_knn_uniform import lists_of
from tests.selection.test_uot import exact_rows


def chosen(
    shards: LocalShards,
    target_MD: Array,
    rows: int,
    selector: KnnKde,
    weights_M: Array | None = None,
    seed: int = 0,
) -> Choice:
    goal = Goal(align_MD=target_MD.astype(np.float32), weights_M=weights_M)
    return selector.select(shards, Request(k=rows, rows=rows, goal=goal, seed=seed))


def row_numbers(choice: Choice) -> list[int]:
    return [int(pick.id[-4:]) for pick in choice.picks]


def density_of(x: Array, union: list[int], sigma: float, cap: int) -> dict[int, float]:
    """Kernel sums over the nearest rows of the union."""
    rho = {}
    for i in union:
        values = sorted((max(0.0, 1.0 - float(((x[i] - x[j]) ** 2).sum()) / sigma**2) for j in union), reverse=True)
        rho[i] = sum(values[:cap])
    return rho


def oracle(x: Array, y: Array, b: Array, rows: int, selector: KnnKde) -> tuple[Array, float]:
    """(masses, level): the definition, in loops."""
    lists, similarity = lists_of(x, y)
    n, tenth = len(x), max(1, len(x) // 10)
    length = min(selector.neighbours, tenth)
    while len({i for order in lists for i in order[:length]}) < rows:
        length = min(n, max(2 * length, -(-rows // len(lists))))
    lists = [order[:length] for order in lists]
    union = sorted({i for order in lists for i in order})
    rho = density_of(x, union, selector.sigma, min(selector.density_neighbours, tenth))
    levels = [[sum(1.0 / rho[i] for i in order[: place + 1]) for place in range(length)] for order in lists]

    def cost(j: int, s: float) -> float:
        d = [max(2.0 - 2.0 * similarity[i, j], 0.0) ** 0.5 for i in lists[j]]
        k = sum(level <= s for level in levels[j][:-1])
        spent = sum(d[place] / rho[lists[j][place]] for place in range(k))
        return d[k] * levels[j][k - 1] - spent if k else 0.0

    def masses(s: float) -> Array:
        mass = np.zeros(n)
        for j, order in enumerate(lists):
            own = min(s, levels[j][-1])
            for place, i in enumerate(order):
                start = levels[j][place - 1] if place else 0.0
                mass[i] += b[j] * max(min(levels[j][place], own) - start, 0.0) / own
        return mass

    every = sorted({level for own in levels for level in own})
    inner = sorted({level for own in levels for level in own[:-1]})

    def enough(s: float) -> bool:
        total = sum(b[j] * cost(j, s) for j in range(len(b)))
        return selector.alpha / selector.scale * total >= 1.0 - selector.alpha

    level = next((s for s in inner if enough(s)), every[-1])
    while (masses(level) > 1e-9).sum() < rows:
        level = next(s for s in every if s > level * (1.0 + 1e-9))
    return masses(level), level


@pytest.mark.parametrize(("seed", "n", "m", "rows"), [(0, 60, 5, 20), (1, 45, 1, 45), (2, 90, 9, 3), (3, 30, 4, 30)])
@pytest.mark.parametrize(("alpha", "sigma", "neighbours"), [(0.01, 0.75, 5000), (0.2, 0.75, 5000), (0.5, 1.2, 4)])
def test_picks_are_those_of_the_definition(
    seed: int, n: int, m: int, rows: int, alpha: float, sigma: float, neighbours: int
) -> None:
    x, y = pool_and_target(seed, n, m)
    selector = KnnKde(alpha=alpha, sigma=sigma, scale=0.1, neighbours=neighbours)
    for b in (np.full(m, 1.0 / m), np.arange(1.0, m + 1) / np.arange(1.0, m + 1).sum()):
        mass, level = oracle(x, y, b, rows, selector)
        for height, n_shards in [(16, 1), (7, 3)]:
            found = chosen(local(x, height, n_shards), y, rows, selector, b)
            assert found.facts["level"] == pytest.approx(level, rel=1e-5)
            assert_ranked(row_numbers(found), mass)
            assert found.facts["picked_mass"] == pytest.approx(np.sort(mass)[::-1][:rows].sum(), rel=1e-5)


def assert_ranked(rows: list[int], mass: Array) -> None:
    """Masses fall along the picks, and no other row has more, but for rounding."""
    tolerance = 1e-5 * mass.max()
    assert (np.diff(mass[rows]) <= tolerance).all()
    assert mass[rows].min() >= np.sort(mass)[::-1][len(rows) - 1] - tolerance


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("m", [1, 6])
@pytest.mark.parametrize("exact_rows_limit", [20_000, 5])
def test_equal_rows_rank_by_id_whatever_the_order_tiles_and_shards(
    seed: int, m: int, exact_rows_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evoray.selection.density.CLUSTER_ROWS", 8)
    base = exact_rows(seed, 30)
    x, y = np.concatenate([base, base]), exact_rows(seed + 100, m)
    selector = KnnKde(scale=0.1, exact_rows=exact_rows_limit, probes=3)
    expected = row_numbers(chosen(local(x, dtype=torch.float32), y, 40, selector))
    if exact_rows_limit > 60:
        assert_ranked(expected, oracle(x, y, np.full(m, 1.0 / m), 40, selector)[0])
    place = {row: rank for rank, row in enumerate(expected)}
    both = [row for row in range(30) if row in place and row + 30 in place]
    assert m == 1 or both
    assert all(place[row] < place[row + 30] for row in both)
    order = np.random.default_rng(seed).permutation(60)
    ids = [f"row-{row:04d}" for row in order]
    for height, n_shards in [(60, 1), (16, 3), (3, 3)]:
        shards = LocalShards.of_tiles(tiles_of(x[order], height, torch.float32, ids), n_shards)
        assert row_numbers(chosen(shards, y, 40, selector)) == expected


@pytest.mark.parametrize("cap", [1, 7, 1000])
@pytest.mark.parametrize("n_shards", [1, 3])
def test_densities_are_sums_over_the_nearest_rows(cap: int, n_shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evoray.selection.density.BLOCK_ROWS", 9)
    monkeypatch.setattr("evoray.selection.density.HEIGHT", 11)
    x, y = pool_and_target(2, 70, 4)
    shards = local(x, 8, n_shards)
    found = nearest(shards, y.astype(np.float32), 20, 1)
    union = [int(row_id[-4:]) for row_id in found.ids]
    rho = densities(shards, found, sigma=0.9, cap=cap, exact_rows=10**6, probes=1, seed=0)
    expected = density_of(x, union, 0.9, cap)
    assert rho == pytest.approx([expected[row] for row in union], rel=1e-5)


@pytest.mark.parametrize("cap", [5, 1000])
def test_the_inverted_file_finds_near_duplicates_and_the_same_picks(cap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evoray.selection.density.CLUSTER_ROWS", 40)
    rng = np.random.default_rng(0)
    centres = unit_rows(rng, 120, 48)
    x, y = clustered_rows(rng, 2400, centres, 0.07), clustered_rows(rng, 20, centres, 0.1)
    shards = local(x, 256, 2, torch.float32)
    found = nearest(shards, y.astype(np.float32), 400, 1)
    exact, near = (
        densities(shards, found, sigma=0.75, cap=cap, exact_rows=limit, probes=8, seed=0) for limit in (10**6, 1)
    )
    assert (near <= exact * (1.0 + 1e-5)).all()
    assert ((exact - near) / exact).mean() < 0.02
    options = {"density_neighbours": cap, "probes": 8}
    full = row_numbers(chosen(shards, y, 300, KnnKde(**options)))
    fast = row_numbers(chosen(shards, y, 300, KnnKde(exact_rows=1, **options)))
    assert len(set(full) & set(fast)) >= 0.95 * 300


def test_copies_share_the_mass_of_one_row() -> None:
    x, y = np.eye(300), np.zeros((1, 300))
    y[0, :20] = np.linspace(1.0, 0.9, 20)
    y /= np.linalg.norm(y)
    crowd = np.concatenate([x, np.repeat(x[:1], 5, axis=0)])
    shards = local(crowd)
    found = nearest(shards, y.astype(np.float32), 25, 1)
    rho = densities(shards, found, sigma=0.75, cap=30, exact_rows=100, probes=1, seed=0)
    crowded = {0, *range(300, 305)}
    assert rho.tolist() == [6.0 if int(row_id[-4:]) in crowded else 1.0 for row_id in found.ids]
    assert row_numbers(chosen(shards, y, 24, KnnKde()))[:19] == list(range(1, 20))


def test_excluded_rows_take_no_part() -> None:
    x, y = pool_and_target(4, 40, 3)
    out = {"row-0000", "row-0011", "row-0016"}
    keep = [row for row in range(40) if f"row-{row:04d}" not in out]
    mass, _ = oracle(x[keep], y, np.full(3, 1 / 3), 20, KnnKde())
    for height in (16, 1):
        found = row_numbers(chosen(local(x, height, 2, excluded=out), y, 20, KnnKde()))
        assert_ranked([keep.index(row) for row in found], mass)
    with pytest.raises(SelectionError):
        chosen(local(x, excluded=out), y, 38, KnnKde())


def test_a_draw_follows_the_masses_and_its_seed_but_not_the_order() -> None:
    x, y = pool_and_target(5, 60, 4)
    b = np.full(4, 0.25)
    selector = KnnKde(sample=True, neighbours=6)
    mass, _ = oracle(x, y, b, 1, selector)
    draws = [row_numbers(chosen(local(x), y, 1, selector, seed=seed))[0] for seed in range(400)]
    share = np.bincount(draws, minlength=60) / 400
    assert np.abs(share - mass).max() < 4.5 * np.sqrt(0.25 / 400)
    assert (share[mass == 0.0] == 0.0).all()
    order = np.random.default_rng(0).permutation(60)
    shuffled = LocalShards.of_tiles(tiles_of(x[order], 7, ids=[f"row-{row:04d}" for row in order]), 3)
    assert row_numbers(chosen(shuffled, y, 9, selector)) == row_numbers(chosen(local(x), y, 9, selector))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 5), st.booleans(), st.data())
def test_any_number_of_distinct_usable_rows_can_be_had(
    seed: int, n: int, m: int, sample: bool, data: st.DataObject
) -> None:
    rows = data.draw(st.integers(1, n))
    out = {f"row-{row:04d}" for row in range(n, n + 3)}
    shards = local(exact_rows(seed, n + 3), 4, 2, excluded=out)
    found = chosen(shards, exact_rows(seed + 1, m), rows, KnnKde(sample=sample)).picks
    assert len({pick.id for pick in found} - out) == rows == len(found)
    assert [pick.rank for pick in found] == list(range(rows))
