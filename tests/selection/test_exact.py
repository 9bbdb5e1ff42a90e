from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.sparse import coo_array

from evoray.errors import SelectionError
from evoray.selection import exact as module
from evoray.selection.evoselect import evoselect
from evoray.selection.evoselect_records import EvoSelectParams
from evoray.selection.exact import ExactResult, exact
from evoray.selection.local import LocalShards
from tests.oracles import Array, unit_rows, vendi_of_kernel
from tests.selection.pools import local, pool_and_target, tiles_of


def cheapest(cost_NM: Array, b_M: Array, k: int) -> float:
    """The optimum of the linear programme, by HiGHS."""
    n, m = cost_NM.shape
    entry = np.arange(n * m)
    ones = np.ones(n * m)
    found = linprog(
        cost_NM.ravel(),
        A_ub=coo_array((ones, (entry // m, entry)), (n, n * m)),
        b_ub=np.full(n, 1.0 / k),
        A_eq=coo_array((ones, (entry % m, entry)), (m, n * m)),
        b_eq=b_M,
        method="highs",
    )
    assert found.success
    return float(found.fun)


def weights(rng: np.random.Generator, m: int) -> Array:
    b_M = rng.random(m) + 0.05
    return b_M / b_M.sum()


def rows_of(result: ExactResult) -> list[int]:
    return [int(pick.id.removeprefix("row-")) for pick in result.picks]


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 24), m=st.integers(1, 12), weighted=st.booleans(), data=st.data(), seed=st.integers(0, 999))
def test_the_objective_is_that_of_a_general_linear_solver(
    n: int, m: int, weighted: bool, data: st.DataObject, seed: int
) -> None:
    k = data.draw(st.integers(1, n))
    rng = np.random.default_rng(seed)
    x, y = unit_rows(rng, n, 4), unit_rows(rng, m, 4)
    b_M = weights(rng, m) if weighted else np.full(m, 1.0 / m)
    result = exact(local(x, 5), y, b_M if weighted else None, k)
    cost_NM = 1.0 - x @ y.T
    assert result.objective == pytest.approx(cheapest(cost_NM, b_M, k), abs=1e-9)
    assert result.dual <= result.objective + 1e-12
    assert result.gap < 1e-9
    assert result.fractional <= m
    assert len({pick.id for pick in result.picks}) == k


@pytest.mark.parametrize(("n", "m", "k"), [(7, 3, 7), (4, 9, 2), (1, 1, 1), (1, 6, 1), (30, 1, 4)], ids=str)
def test_degenerate_sizes_are_solved(n: int, m: int, k: int) -> None:
    rng = np.random.default_rng(n + m)
    x, y, b_M = unit_rows(rng, n, 5), unit_rows(rng, m, 5), weights(rng, m)
    result = exact(local(x, 2), y, b_M, k)
    assert result.objective == pytest.approx(cheapest(1.0 - x @ y.T, b_M, k), abs=1e-9)
    assert len(result.picks) == k


@pytest.mark.parametrize("k", [4, 13, 40])
def test_potentials_are_dual_feasible_and_slack_where_weight_is_left(k: int) -> None:
    rng = np.random.default_rng(k)
    x, y = pool_and_target(k, 40, 6)
    b_M = weights(rng, 6)
    result = exact(local(x), y, b_M, k)
    f_N = (1.0 - x @ y.T - result.g_M).min(axis=1)
    assert b_M @ result.g_M + np.minimum(f_N, 0.0).sum() / k == pytest.approx(result.dual, abs=1e-12)
    for pick, row in zip(result.picks, rows_of(result), strict=True):
        assert pick.potential == pytest.approx(f_N[row], abs=1e-12)
        assert pick.weight is not None and pick.weight <= 1.0 / k
        assert f_N[row] <= 1e-9  # weight is put on no row that is worse than the further column
        if pick.weight < 1.0 / k - 1e-9:
            assert abs(f_N[row]) < 1e-9
    left_out = np.setdiff1d(np.arange(40), rows_of(result))
    assert (f_N[left_out] >= -1e-9).all()
    assert k < 40 or f_N.max() == pytest.approx(0.0, abs=1e-12)


def test_picks_go_by_weight_then_potential_then_id() -> None:
    x, y = pool_and_target(1, 50, 7)
    result = exact(local(x), y, weights(np.random.default_rng(0), 7), 11)
    keys = [(-round(11 * (p.weight or 0.0), 9), round(p.potential or 0.0, 9), p.id) for p in result.picks]
    assert keys == sorted(keys)
    assert [pick.rank for pick in result.picks] == list(range(11))


def test_identical_candidates_are_picked_once_each_and_cost_the_same() -> None:
    x, y = np.tile(np.eye(4)[:1], (30, 1)), np.eye(4)
    result = exact(local(x, 7, 2), y, None, 5)
    assert len(set(rows_of(result))) == 5
    assert result.objective == pytest.approx(0.75)


def test_one_candidate_a_target_row_is_the_best_assignment() -> None:
    x, y = pool_and_target(2, 60, 5, dim=8)
    result = exact(local(x), y, None, 5)
    assert result.fractional == 0
    assert {pick.weight for pick in result.picks} == {0.2}
    assert result.objective == pytest.approx(cheapest(1.0 - x @ y.T, np.full(5, 0.2), 5), abs=1e-9)


def test_picks_carry_their_facts() -> None:
    x, y = pool_and_target(3, 45, 6)
    result = exact(local(x), y, None, 9)
    similarity = x[rows_of(result)] @ y.T
    assert [pick.nearest for pick in result.picks] == similarity.argmax(axis=1).tolist()
    assert np.allclose([pick.similarity for pick in result.picks], similarity.max(axis=1))
    assert [16 * pick.tile + pick.row for pick in result.picks] == rows_of(result)
    assert result.vendi_picks == pytest.approx(vendi_of_kernel(x[rows_of(result)]))
    assert result.vendi_target == pytest.approx(vendi_of_kernel(y))


@pytest.mark.parametrize(("k", "m"), [(8, 8), (10, 7)])
def test_the_entropic_solver_comes_near_from_above_as_eps_falls(k: int, m: int) -> None:
    x, y = pool_and_target(4, 60, m)
    best = exact(local(x), y, None, k)
    excess = []
    for eps in (0.2, 0.05, 0.0125):
        params = EvoSelectParams(k=k, lam=0.0, eps=eps, steps=300, eta=0.03, sinkhorn_passes=20, tolerance=1e-7)
        found = evoselect(local(x), y, None, None, params)
        excess.append(found.certificate.objective - best.objective)
    assert excess[0] > excess[1] > excess[2] > -1e-6  # entropy only adds
    assert excess[2] < 0.05


@pytest.mark.parametrize("n_shards", [2, 3])
def test_result_is_bitwise_the_same_for_every_number_of_shards(n_shards: int) -> None:
    x, y = pool_and_target(5, 150, 9)
    one, many = (exact(local(x, 13, shards), y, None, 20) for shards in (1, n_shards))
    assert one.picks == many.picks
    assert one.g_M.tobytes() == many.g_M.tobytes()
    assert (one.objective, one.dual) == (many.objective, many.dual)


def test_permuting_rows_over_tiles_changes_no_pick() -> None:
    x, y = pool_and_target(6, 80, 6)
    order = np.random.default_rng(0).permutation(80)
    moved = LocalShards.of_tiles(tiles_of(x[order], 17, ids=[f"row-{row:04d}" for row in order]), 3)
    assert rows_of(exact(local(x, 25), y, None, 9)) == rows_of(exact(moved, y, None, 9))


def test_excluded_rows_are_neither_picked_nor_counted() -> None:
    x, y = pool_and_target(7, 40, 5)
    barred = {pick.id for pick in exact(local(x), y, None, 10).picks}
    second = exact(local(x, excluded=barred), y, None, 10)
    assert second.usable == 30
    assert not barred & {pick.id for pick in second.picks}


def test_problems_that_do_not_fit_are_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 199)
    x, y = pool_and_target(8, 20, 10)
    with pytest.raises(SelectionError, match=r"20 usable rows and 10 target rows") as caught:
        exact(local(x), y, None, 3)
    assert "selection.solver: sinkhorn" in caught.value.remedy
    assert len(exact(local(x), y[:9], None, 3).picks) == 3


def test_bad_requests_are_refused() -> None:
    x, y = pool_and_target(9, 20, 4)
    for k in (0, 21):
        with pytest.raises(SelectionError, match=f"k = {k} of 20"):
            exact(local(x), y, None, k)
    with pytest.raises(SelectionError, match="weights"):
        exact(local(x), y, np.zeros(4), 3)
    with pytest.raises(SelectionError, match="dimensions"):
        exact(local(x), y[:, :3], None, 3)
