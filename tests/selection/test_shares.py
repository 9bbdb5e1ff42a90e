from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from evoray.errors import SelectionError, SolverError
from evoray.selection.capped import capped_mass, find_scales, log_mass, scaled
from evoray.selection.evoselect import evoselect
from evoray.selection.evoselect_records import EvoSelectParams, EvoSelectResult
from evoray.selection.local import LocalShards
from evoray.selection.shard import Tile
from evoray.selection.shares import NO_SOURCE, Bounds, Entry, Shares
from tests.oracles import Array, capped_projection, dense_sinkhorn, entropic_value, subsets
from tests.selection.pools import pool_and_target, tiles_of

NAMES = ("a", "b", "c")


def project(log_v_N: Array, source_N: Array, cap: float, low_S: Array, high_S: Array) -> Array:
    log_v, source = torch.from_numpy(log_v_N), torch.from_numpy(source_N)
    log_cap = float(np.log(cap))
    log_scale_S = find_scales(
        lambda scale_S: capped_mass(log_v, scale_S, log_cap, source),
        log_mass(log_v, source, len(low_S)),
        cap,
        low_S,
        high_S,
    )
    return scaled(log_v, log_scale_S, source).clamp(max=log_cap).exp().numpy()


def bisected(v_N: Array, source_N: Array, cap: float, low_S: Array, high_S: Array) -> Array:
    """The same by bisection over everything: over c, and over the scale of each clipped source."""

    def total(scale: float, source: int) -> float:
        return float(np.minimum(cap, scale * v_N[source_N == source]).sum())

    def root(function: Any, wanted: float) -> float:
        low, high = -200.0, 200.0
        for _ in range(200):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if function(np.exp(middle)) < wanted else (low, middle)
        return float(np.exp(high))

    sources = range(len(low_S))
    c = root(lambda s: sum(np.clip(total(s, k), low_S[k], high_S[k]) for k in sources), 1.0 - 1e-14)
    w_N = np.zeros_like(v_N)
    for k in sources:
        wanted = float(np.clip(total(c, k), low_S[k], high_S[k]))
        scale = root(lambda s, k=k: total(s, k), wanted * (1 - 1e-14)) if wanted > 0 else 0.0
        w_N[source_N == k] = np.minimum(cap, scale * v_N[source_N == k])
    return w_N


def feasible_bounds(rng: np.random.Generator, source_N: Array, cap: float) -> tuple[Array, Array]:
    """Random bounds around the shares of some allowed weights."""
    allowed_N = capped_projection(rng.dirichlet(np.ones(len(source_N))), cap)
    share_S = np.bincount(source_N, weights=allowed_N, minlength=3)
    room_S = np.bincount(source_N, minlength=3) * cap
    low_S = np.maximum(0.0, share_S - rng.choice([0.0, 0.1, 1.0], 3) * rng.random(3))
    high_S = np.minimum(room_S, share_S + rng.choice([0.0, 0.1, 1.0], 3) * rng.random(3) + 1e-9)
    return np.minimum(low_S, high_S), high_S


@settings(max_examples=80, deadline=None)
@given(n=st.integers(3, 30), data=st.data(), seed=st.integers(0, 9999), spread=st.floats(0.0, 8.0))
def test_projection_agrees_with_bisection_over_everything(
    n: int, data: st.DataObject, seed: int, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    cap = 1.0 / data.draw(st.integers(1, n))
    log_v_N, source_N = spread * rng.standard_normal(n), rng.integers(0, 3, n)
    low_S, high_S = feasible_bounds(rng, source_N, cap)
    w_N = project(log_v_N, source_N, cap, low_S, high_S)
    share_S = np.bincount(source_N, weights=w_N, minlength=3)
    assert abs(w_N.sum() - 1.0) < 1e-10
    assert w_N.max() <= cap + 1e-15
    assert (share_S >= low_S - 1e-11).all() and (share_S <= high_S + 1e-11).all()
    assert np.allclose(w_N, bisected(np.exp(log_v_N), source_N, cap, low_S, high_S), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_projection_is_the_nearest_point_in_kl_by_a_general_solver(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, cap, source_N = 9, 0.25, np.arange(9) % 3
    log_v_N = 1.5 * rng.standard_normal(n)
    v_N = np.exp(log_v_N) / np.exp(log_v_N).sum()
    low_S, high_S = np.array([0.1, 0.45, 0.0]), np.array([0.25, 0.6, 0.5])
    inside = np.eye(3)[source_N].T
    found = minimize(
        lambda w: float((w * np.log(np.maximum(w, 1e-300) / v_N)).sum()),
        np.full(n, 1.0 / n),
        method="SLSQP",
        bounds=[(1e-12, cap)] * n,
        constraints=[
            {"type": "eq", "fun": lambda w: w.sum() - 1.0},
            {"type": "ineq", "fun": lambda w: inside @ w - low_S},
            {"type": "ineq", "fun": lambda w: high_S - inside @ w},
        ],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert np.allclose(project(log_v_N, source_N, cap, low_S, high_S), found.x, atol=1e-5)


def single_scale(log_v_N: torch.Tensor, cap: float) -> float:
    """The projection without sources, as it was before there were any: Newton's method on one scale."""
    log_scale, capped_before = -float(torch.logsumexp(log_v_N, dim=0)), -1.0
    while True:
        above_N = log_v_N + log_scale >= float(np.log(cap))
        capped, left = float(above_N.sum()), 1.0 - float(above_N.sum()) * cap
        if left <= 1e-13 or capped == capped_before:
            return log_scale
        step = float(np.log(left)) - float(torch.logsumexp((log_v_N + log_scale)[~above_N], dim=0))
        if abs(step) * left <= 1e-12:
            return log_scale
        log_scale, capped_before = log_scale + step, capped


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), data=st.data(), seed=st.integers(0, 999), spread=st.floats(0.0, 20.0))
def test_one_source_is_projected_bit_for_bit_as_no_source(
    n: int, data: st.DataObject, seed: int, spread: float
) -> None:
    cap = 1.0 / data.draw(st.integers(1, n))
    log_v = torch.from_numpy(spread * np.random.default_rng(seed).standard_normal(n))
    (scale,) = find_scales(lambda s: capped_mass(log_v, s, float(np.log(cap))), log_mass(log_v, None, 1), cap)
    assert scale == single_scale(log_v, cap)


def test_weights_hundreds_of_nats_apart_and_sources_of_no_weight_are_projected() -> None:
    log_v_N, source_N = np.array([0.0, -900.0, -900.0, -1800.0, 5.0]), np.array([0, 1, 1, 2, 2])
    w_N = project(log_v_N, source_N, 0.5, np.array([0.0, 0.4, 0.0]), np.array([1.0, 1.0, 0.0]))
    assert np.allclose(w_N, [0.5, 0.25, 0.25, 0.0, 0.0])
    log_w_N = np.log(w_N, out=np.full(5, -np.inf), where=w_N > 0)
    again = project(log_w_N, source_N, 0.5, np.array([0.0, 0.6, 0.0]), np.array([1.0, 1.0, 0.0]))
    assert np.allclose(again, [0.4, 0.3, 0.3, 0.0, 0.0])


def test_bounds_that_no_weights_meet_end_in_an_error() -> None:
    with pytest.raises(SolverError):
        project(np.zeros(3), np.array([0, 1, 2]), 0.5, np.zeros(3), np.array([1.0, 0.2, 0.2]))


def bounds_of(low: list[float], high: list[float], k: int) -> Bounds:
    return Bounds(sources=NAMES, low_S=np.array(low), high_S=np.array(high), k=k)


@pytest.mark.parametrize("seed", range(20))
def test_the_least_value_of_a_linear_function_is_that_of_a_general_solver(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(2, 8)), 24
    source_N, q_N = np.arange(n) % 3, rng.standard_normal(n)
    low_S, high_S = feasible_bounds(rng, source_N, 1.0 / k)
    inside = np.eye(3)[source_N].T
    found = linprog(
        q_N,
        A_ub=np.vstack([inside, -inside]),
        b_ub=np.concatenate([high_S, -low_S]),
        A_eq=np.ones((1, n)),
        b_eq=[1.0],
        bounds=(0.0, 1.0 / k),
    )
    bounds = bounds_of(low_S.tolist(), high_S.tolist(), k)
    smallest = [np.sort(q_N[source_N == s])[:most] for s, most in enumerate(bounds.most_S)]
    assert bounds.least_mean(smallest) == pytest.approx(found.fun, abs=1e-9)


def test_picks_fill_minima_first_and_then_skip_full_sources() -> None:
    bounds = bounds_of([0.0, 0.0, 0.3], [0.45, 1.0, 0.5], 5)  # at most 3 of a, at least 1 of c
    ranked: list[list[Entry]] = [
        [(10.0 * source + rank, 0.0, f"{name}{rank}", 0, 0) for rank in range(5)] for source, name in enumerate(NAMES)
    ]
    chosen = bounds.pick([entries[:most] for entries, most in zip(ranked, bounds.most_S, strict=True)])
    assert [entry[2] for entry in chosen] == ["a0", "a1", "a2", "b0", "c0"]


def shards_of(x: Array, n_shards: int = 1, height: int = 7, sources: tuple[str | None, ...] = NAMES) -> LocalShards:
    """Sources take turns down the rows."""
    names = [sources[row % len(sources)] for row in range(len(x))]
    return LocalShards.of_tiles(tiles_of(x, height, sources=names), n_shards)


def chosen(shards: LocalShards, y: Array, k: int, shares: Shares | None, **settings: Any) -> EvoSelectResult:
    params = EvoSelectParams(k=k, **({"lam": 0.3, "r": 0.5} | settings), shares=shares)
    return evoselect(shards, y, None, None, params)


def counts_of(result: EvoSelectResult) -> list[int]:
    rows = [int(pick.id.removeprefix("row-")) for pick in result.picks]
    return np.bincount(np.array(rows) % 3, minlength=3).tolist()


@pytest.mark.parametrize(
    ("shares", "low", "high"),
    [
        (Shares(bounds={"a": (0.5, 1.0)}), [10, 0, 0], [20, 20, 20]),
        (Shares(bounds={"b": (0.0, 0.1)}), [0, 0, 0], [20, 2, 20]),
        (Shares(bounds={"a": (0.2, 0.2), "c": (0.7, 0.7)}), [4, 2, 14], [4, 2, 14]),
        (Shares(bounds={}, max_share=0.34), [0, 0, 0], [7, 7, 7]),
        (Shares(bounds={"a": (0.0, 1.0)}, max_share=0.0), [20, 0, 0], [20, 0, 0]),
    ],
    ids=str,
)
def test_picks_and_weights_obey_the_shares(shares: Shares, low: list[int], high: list[int]) -> None:
    x, y = pool_and_target(0, 120, 8)
    result = chosen(shards_of(x), y, 20, shares)
    counts = counts_of(result)
    assert len({pick.id for pick in result.picks}) == 20
    assert all(least <= count <= most for least, count, most in zip(low, counts, high, strict=True))
    assert [pick.weight for pick in result.picks] == sorted((p.weight for p in result.picks), reverse=True)  # type: ignore[type-var]
    assert result.certificate.lower_bound <= result.certificate.picked_objective + 1e-9
    assert result.certificate.gap >= 0.0


def test_shares_that_bind_nothing_change_no_pick() -> None:
    x, y = pool_and_target(1, 90, 6)
    free = chosen(shards_of(x), y, 9, None)
    for sources, shares in (
        (NAMES, {"a": (0.0, 1.0)}),
        (("a",), {"a": (1.0, 1.0)}),
        ((None,), {NO_SOURCE: (0.1, 1.0)}),
    ):
        held = chosen(shards_of(x, sources=sources), y, 9, Shares(bounds=shares))
        assert [pick.id for pick in held.picks] == [pick.id for pick in free.picks]
        assert held.certificate.gap == pytest.approx(free.certificate.gap, abs=1e-9)
        if len(sources) == 1:
            assert held.certificate.objective == pytest.approx(free.certificate.objective, abs=1e-12)


def test_shards_keep_no_shares_from_the_selection_before() -> None:
    x, y = pool_and_target(1, 60, 6)
    used = shards_of(x)
    chosen(used, y, 6, Shares(bounds={"a": (0.0, 0.0)}))
    again, fresh = chosen(used, y, 6, None), chosen(shards_of(x), y, 6, None)
    assert (again.picks, again.trace, again.certificate) == (fresh.picks, fresh.trace, fresh.certificate)


@pytest.mark.parametrize("n_shards", [2, 3, 5])
def test_result_is_bitwise_the_same_for_every_number_of_shards(n_shards: int) -> None:
    x, y = pool_and_target(2, 130, 8)
    shares = Shares(bounds={"a": (0.5, 0.6), "b": (0.0, 0.1)}, max_share=0.4)
    one, many = (chosen(shards_of(x, n), y, 15, shares, steps=8) for n in (1, n_shards))
    assert one.picks == many.picks
    assert one.potentials.g_M.tobytes() == many.potentials.g_M.tobytes()
    assert (one.trace, one.certificate) == (many.trace, many.certificate)


def test_the_lower_bound_is_below_every_subset_that_obeys_and_above_those_that_do_not() -> None:
    x, y = pool_and_target(3, 9, 4)
    k, eps = 4, 0.3
    shares = Shares(bounds={"a": (0.5, 0.75), "b": (0.0, 0.25)})  # whole numbers of 4 picks
    result = chosen(shards_of(x, height=4), y, k, shares, lam=0.0, eps=eps, steps=300, eta=0.1, tolerance=1e-10)
    b_M = np.full(4, 0.25)

    def value(rows: tuple[int, ...]) -> float:
        cost_NM, w_N = 1.0 - x[list(rows)] @ y.T, np.full(k, 1.0 / k)
        return entropic_value(dense_sinkhorn(cost_NM, w_N, b_M, eps)[2], cost_NM, w_N, b_M, eps)

    found: dict[bool, list[float]] = {True: [], False: []}
    for rows in subsets(9, k):
        a, b, _ = np.bincount(np.array(rows) % 3, minlength=3)
        found[bool(2 <= a <= 3 and b <= 1)].append(value(rows))
    certificate = result.certificate
    assert certificate.lower_bound <= min(found[True])
    assert min(found[True]) - 1e-6 <= certificate.picked_objective
    assert min(found[False]) < certificate.lower_bound  # the constraint costs something, and the bound knows
    assert certificate.gap < 5e-3


def test_excluded_rows_count_for_no_minimum() -> None:
    x, y = pool_and_target(4, 30, 5)
    barred = {f"row-{row:04d}" for row in range(0, 24, 3)}
    names = [NAMES[row % 3] for row in range(30)]
    shards = LocalShards.of_tiles(tiles_of(x, 7, sources=names), 2, barred)
    assert counts_of(chosen(shards, y, 4, Shares(bounds={"a": (0.5, 1.0)})))[0] == 2
    with pytest.raises(SelectionError, match=r"a: at least 0\.75 of 4 picks from 2 usable rows"):
        chosen(shards, y, 4, Shares(bounds={"a": (0.75, 1.0)}))


@pytest.mark.parametrize(
    ("shares", "named"),
    [
        ({"bounds": {"bb": (0.0, 0.5)}}, "shares of 'bb'"),
        ({"bounds": {}, "max_share": 0.3}, "at most 0.9 of the picks"),
        ({"bounds": {"a": (0.0, 0.2), "b": (0.0, 0.2), "c": (0.1, 0.2)}}, "at most 0.6 of the picks"),
        ({"bounds": {"a": (0.6, 1.0), "b": (0.6, 1.0)}}, "minimum shares that sum to 1.2"),
        ({"bounds": {"a": (0.6, 0.5)}}, r"a: \[0.6, 0.5\]"),
        ({"bounds": {"a": (-0.1, 0.5)}}, r"a: \[-0.1, 0.5\]"),
    ],
)
def test_shares_that_cannot_be_met_are_refused(shares: dict[str, Any], named: str) -> None:
    x, y = pool_and_target(5, 30, 4)
    with pytest.raises(SelectionError, match=named):
        chosen(shards_of(x), y, 10, Shares(**shares))


def test_a_tile_has_a_source_for_each_row_or_none() -> None:
    with pytest.raises(SelectionError, match="2 ids and 1 sources"):
        Tile(index=0, ids=["a", "b"], features_ND=torch.zeros(2, 2), sources=["x"])


def test_small_selections_obey_every_combination_of_bounds() -> None:
    x, y = pool_and_target(6, 24, 4)
    for low, high in product((0.0, 0.25, 0.5), (0.25, 0.5, 1.0)):
        if low <= high:
            counts = counts_of(chosen(shards_of(x), y, 4, Shares(bounds={"b": (low, high)}), steps=3))
            assert 4 * low <= counts[1] <= 4 * high
