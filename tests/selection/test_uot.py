from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoray.errors import SelectionError
from evoray.selection.local import LocalShards
from evoray.selection.selector import Choice, Goal, Request
from evoray.selection.uot import Uot
from tests.oracles import Array, log_sum_exp
from tests.selection.pools import local, pool_and_target, tiles_of


def chosen(shards: LocalShards, target_MD: Array, rows: int, selector: Uot, weights_M: Array | None = None) -> Choice:
    goal = Goal(align_MD=target_MD.astype(np.float32), weights_M=weights_M)
    return selector.select(shards, Request(k=rows, rows=rows, goal=goal))


def exact_rows(seed: int, n: int, dim: int = 8) -> Array:
    """Unit rows with four entries of 0.5 or -0.5: their products are exact, and many rows are equal."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, dim))
    for row in x:
        row[rng.choice(dim, 4, replace=False)] = rng.choice([0.5, -0.5], 4)
    return x


def masses_of(cost_NM: Array, b_M: Array, eps: float, rho: float) -> Array:
    """Row sums of the plan, by alternating updates of both potentials in the log domain."""
    n, power = len(cost_NM), rho / (rho + eps)
    g_M = np.zeros(len(b_M))
    for _ in range(20_000):
        f_N = -power * eps * log_sum_exp(np.log(b_M) + (g_M - cost_NM) / eps, axis=1)
        moved_M = -eps * log_sum_exp(-np.log(n) + (f_N - cost_NM.T) / eps, axis=1)
        done = np.abs(moved_M - g_M).max() < 1e-14
        g_M = moved_M
        if done:
            break
    f_N = -power * eps * log_sum_exp(np.log(b_M) + (g_M - cost_NM) / eps, axis=1)
    return (b_M * np.exp((f_N[:, None] + g_M - cost_NM) / eps)).sum(axis=1) / n


def cost(x_ND: Array, y_MD: Array) -> Array:
    return (1.0 - x_ND @ y_MD.astype(np.float32).astype(np.float64).T) / 2.0


def ranked(mass_N: Array) -> list[str]:
    rounded = np.round(np.log(mass_N), 9)
    return [f"row-{row:04d}" for row in np.lexsort((np.arange(len(mass_N)), -rounded))]


@pytest.mark.parametrize(("seed", "n", "m"), [(0, 60, 5), (1, 33, 1), (2, 80, 12), (3, 20, 20)])
@pytest.mark.parametrize(("eps", "rho"), [(0.01, 1e-4), (0.05, 0.02), (0.02, 0.5)])
def test_picks_are_those_of_the_largest_mass_of_the_plan(seed: int, n: int, m: int, eps: float, rho: float) -> None:
    x, y = pool_and_target(seed, n, m)
    b = np.random.default_rng(seed).dirichlet(np.full(m, 5.0))
    mass = masses_of(cost(x, y), b, eps, rho)
    selector = Uot(eps=eps, rho=rho, tolerance=1e-10, max_iterations=20_000)
    found = chosen(local(x), y, n, selector, b)
    assert [pick.id for pick in found.picks] == ranked(mass)
    assert found.facts["converged"] and found.facts["picked_mass"] == pytest.approx(1.0, abs=1e-8)
    some = chosen(local(x), y, n // 3, selector, b)
    assert some.facts["picked_mass"] == pytest.approx(np.sort(mass)[::-1][: n // 3].sum(), abs=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_plan_is_that_of_an_independent_library(seed: int) -> None:
    x, y = pool_and_target(seed, 30, 6)
    b, eps, rho = np.full(6, 1 / 6), 0.05, 0.02
    plan = ot.unbalanced.sinkhorn_unbalanced(
        np.full(30, 1 / 30), b, cost(x, y), eps, (rho, float("inf")), reg_type="kl", numItermax=50_000, stopThr=1e-14
    )
    assert masses_of(cost(x, y), b, eps, rho) == pytest.approx(plan.sum(axis=1), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_equal_rows_rank_by_id_in_any_order_of_the_pool(seed: int) -> None:
    base = exact_rows(seed, 25)
    x, y = np.concatenate([base, base]), exact_rows(seed + 100, 4)
    order = np.random.default_rng(seed).permutation(50)
    ids = [f"row-{row:04d}" for row in order]
    for height, n_shards in [(50, 1), (7, 3), (3, 1)]:
        for dtype in (torch.float32, torch.float64):
            shards = LocalShards.of_tiles(tiles_of(x[order], height, dtype, ids), n_shards)
            selector = Uot(tolerance=1e-6)
            assert in_order(x, y, [pick.id for pick in chosen(shards, y, 50, selector).picks])


def in_order(x: Array, y: Array, ids: list[str]) -> bool:
    """Whether masses fall, but for rounding, and rows that the target sees alike follow each other by id."""
    rows = [int(name[-4:]) for name in ids]
    mass = masses_of(cost(x, y), np.full(len(y), 1 / len(y)), 0.01, 1e-4)
    alike: dict[bytes, list[int]] = {}
    for row in rows:
        alike.setdefault((x[row] @ y.T + 0.0).tobytes(), []).append(row)
    by_id = all(group == sorted(group) for group in alike.values())
    return bool((np.diff(np.log(mass[rows])) < 1e-4).all()) and by_id


@pytest.mark.parametrize("m", [1, 7])
def test_shards_tiles_order_and_what_is_kept_do_not_change_the_picks(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pool_and_target(5, 90, m)
    expected = [pick.id for pick in chosen(local(x), y, 40, Uot()).picks]
    order = np.random.default_rng(0).permutation(90)
    ids = [f"row-{row:04d}" for row in order]
    for height, n_shards in [(90, 1), (16, 3), (5, 3)]:
        shards = LocalShards.of_tiles(tiles_of(x[order], height, torch.float32, ids), n_shards)
        assert [pick.id for pick in chosen(shards, y, 40, Uot()).picks] == expected
    monkeypatch.setattr("evoray.selection.uot.CACHE_BYTES", 0)
    assert [pick.id for pick in chosen(local(x), y, 40, Uot()).picks] == expected


def test_excluded_rows_take_no_part() -> None:
    x, y = pool_and_target(6, 40, 4)
    out = {"row-0000", "row-0011", "row-0016"}
    keep = [row for row in range(40) if f"row-{row:04d}" not in out]
    mass = masses_of(cost(x[keep], y), np.full(4, 0.25), 0.01, 1e-4)
    expected = [f"row-{keep[row]:04d}" for row in np.argsort(-mass, kind="stable")]
    for height in (16, 1):
        found = chosen(local(x, height, excluded=out), y, 37, Uot(tolerance=1e-10))
        assert [pick.id for pick in found.picks] == expected
    with pytest.raises(SelectionError):
        chosen(local(x, excluded=out), y, 38, Uot())


def test_picks_know_their_nearest_target_row() -> None:
    x, y = pool_and_target(7, 30, 4)
    for pick in chosen(local(x), y, 5, Uot()).picks:
        similarity = x[int(pick.id[-4:])] @ y.T
        assert pick.nearest == similarity.argmax()
        assert pick.similarity == pytest.approx(similarity.max(), abs=1e-6)


def test_a_limit_of_passes_is_told_and_not_raised() -> None:
    x, y = pool_and_target(8, 50, 9)
    facts = chosen(local(x), y, 5, Uot(rho=1.0, max_iterations=2, tolerance=1e-9)).facts
    assert facts["iterations"] == 2 and not facts["converged"] and facts["marginal_error"] > 1e-9


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 5), st.data())
def test_any_number_of_distinct_usable_rows_can_be_had(seed: int, n: int, m: int, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, n))
    out = {f"row-{row:04d}" for row in range(n, n + 3)}
    x = exact_rows(seed, n + 3)
    found = chosen(local(x, 4, 2, excluded=out), exact_rows(seed + 1, m), rows, Uot()).picks
    assert len({pick.id for pick in found} - out) == rows == len(found)
    assert [pick.rank for pick in found] == list(range(rows))
