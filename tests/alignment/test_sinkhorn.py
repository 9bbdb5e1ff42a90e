from __future__ import annotations

from typing import Any

import numpy as np
import ot
import pytest
import torch

from evoray.alignment.potentials import extend
from evoray.alignment.reduction import Array
from evoray.alignment.sinkhorn import solve
from evoray.errors import SolverError
from evoray.selection.local import LocalShards
from tests.oracles import dense_sinkhorn, entropic_value
from tests.selection.pools import kept, local, opened, pool_and_target


def _weights(n: int, seed: int = 5) -> Array:
    w_N = np.random.default_rng(seed).uniform(0.2, 1.0, n)
    return w_N / w_N.sum()


def _set_weights(shards: LocalShards, w_N: Array) -> None:
    start = 0
    for shard in shards._shards:
        for rows in shard._problems["pool"].rows.values():
            stop = start + len(rows.log_w_N)
            rows.log_w_N = torch.from_numpy(np.log(w_N[start:stop]))
            start = stop


@pytest.mark.parametrize("eps", [0.05, 0.5])
def test_objective_and_plan_agree_with_pot(eps: float) -> None:
    x, y = pool_and_target(0, 40, 7)
    b, w = _weights(7, 1), _weights(40)
    shards = opened(local(x, 16, 2), y, b)
    _set_weights(shards, w)
    found = solve(shards, "pool", b, eps=eps, tolerance=1e-12)
    cost = 1.0 - x @ y.T
    reference = ot.bregman.sinkhorn_log(w, b, cost, eps, stopThr=1e-13, numItermax=100_000)
    f = kept(shards, "f_N")
    plan = w[:, None] * b * np.exp((f[:, None] + found.g_M - cost) / eps)
    assert np.abs(plan - reference).max() < 1e-6
    assert found.objective == pytest.approx(entropic_value(reference, cost, w, b, eps), abs=1e-6)
    assert found.converged and found.domain == "kernel"
    (spent,) = shards.reduce("transport_cost", "pool", found.g_M, eps)
    assert spent[0] == pytest.approx(float((reference * cost).sum()), abs=1e-6)


@pytest.mark.parametrize("rho", [0.01, 0.3, 50.0])
def test_relaxed_target_agrees_with_the_dense_unbalanced_solver(rho: float) -> None:
    x, y = pool_and_target(1, 30, 5)
    b, w, eps = _weights(5, 2), _weights(30), 0.1
    shards = opened(local(x), y, b)
    _set_weights(shards, w)
    found = solve(shards, "pool", b, eps=eps, rho=rho, tolerance=1e-12)
    cost = 1.0 - x @ y.T
    f, g, plan = dense_sinkhorn(cost, w, b, eps, rho=rho)
    # A large rho leaves the dense iteration's constant slow: only the sum f + g is compared.
    ours = kept(shards, "f_N")[:, None] + found.g_M
    assert np.abs(ours - (f[:, None] + g)).max() < 1e-6
    assert found.objective == pytest.approx(entropic_value(plan, cost, w, b, eps, rho=rho), abs=1e-6)
    assert found.iterations < 200


def test_relaxed_target_tends_to_balanced_and_to_unconstrained() -> None:
    x, y = pool_and_target(2, 30, 5)
    b = np.full(5, 0.2)
    shards = opened(local(x), y, b)
    balanced = solve(shards, "pool", b, eps=0.1, tolerance=1e-11)
    tight = solve(shards, "pool", b, eps=0.1, rho=1e6, tolerance=1e-11)
    assert np.abs(balanced.g_M - tight.g_M).max() < 1e-5
    free = solve(shards, "pool", b, eps=0.1, rho=1e-7, tolerance=1e-11)
    assert np.abs(free.g_M).max() < 1e-5


def test_potentials_are_the_gradient_of_the_transport_cost() -> None:
    x, y = pool_and_target(3, 12, 4)
    b, w, eps, h = _weights(4, 3), _weights(12), 0.1, 1e-5
    shards = opened(local(x, 5), y, b)

    def value(weights: Array) -> float:
        _set_weights(shards, weights)
        return solve(shards, "pool", b, eps=eps, tolerance=1e-13).objective

    value(w)
    f = kept(shards, "f_N")
    for i in range(1, 12):
        move = np.zeros(12)
        move[i], move[0] = h, -h
        slope = (value(w + move) - value(w - move)) / (2 * h)
        assert slope == pytest.approx(f[i] - f[0], abs=1e-7)


def test_small_eps_on_a_matching_reaches_the_exact_assignment() -> None:
    rng = np.random.default_rng(4)
    x, y = pool_and_target(4, 6, 6)
    x = x[rng.permutation(6)]
    uniform = np.full(6, 1.0 / 6)
    exact = ot.emd2(uniform, uniform, 1.0 - x @ y.T)
    shards = opened(local(x, 2), y, uniform)
    found = solve(shards, "pool", uniform, eps=2e-4, anneal_from=1.0, tolerance=1e-9, max_iterations=20_000)
    (spent,) = shards.reduce("transport_cost", "pool", found.g_M, found.eps)
    assert spent[0] == pytest.approx(exact, abs=2e-3)


def test_log_domain_takes_over_where_a_column_underflows_and_finds_the_same() -> None:
    x, y = pool_and_target(5, 40, 6)
    b, eps = np.full(6, 1.0 / 6), 0.02
    shards = opened(local(x), y, b)
    plain = solve(shards, "pool", b, eps=eps, tolerance=1e-10)
    far = np.array([0.0, -3.0, 0.0, 0.0, 0.0, 0.0])  # column 1 out of every row's reach at the start
    mixed = solve(shards, "pool", b, eps=eps, g_M=far, tolerance=1e-10)
    assert mixed.domain == "mixed"
    assert np.abs(mixed.g_M - plain.g_M).max() < 1e-7


def test_fp32_and_fp64_tiles_agree() -> None:
    x, y = pool_and_target(6, 64, 8)
    b = np.full(8, 1.0 / 8)
    found = [
        solve(opened(local(x, dtype=dtype), y, b), "pool", b, eps=0.05, tolerance=1e-5)
        for dtype in (torch.float32, torch.float64)
    ]
    assert np.abs(found[0].g_M - found[1].g_M).max() < 1e-5


@pytest.mark.parametrize("n_shards", [2, 3, 7])
def test_g_is_bitwise_the_same_for_every_number_of_shards(n_shards: int) -> None:
    x, y = pool_and_target(7, 300, 9)
    b = np.full(9, 1.0 / 9)
    one, many = (
        solve(opened(local(x, 31, n, torch.float32), y, b), "pool", b, eps=0.03, anneal_from=0.3) for n in (1, n_shards)
    )
    assert one.g_M.tobytes() == many.g_M.tobytes()


def test_extended_potentials_equal_those_of_the_solve_on_seen_rows() -> None:
    x, y = pool_and_target(8, 30, 5)
    b = _weights(5)
    shards = opened(local(x), y, b)
    found = solve(shards, "pool", b, eps=0.1, tolerance=1e-6)
    f = extend(torch.from_numpy(x), torch.from_numpy(y), b, found.g_M, found.eps)
    assert np.abs(f - kept(shards, "f_N")).max() < 1e-12


def test_not_converging_is_recorded() -> None:
    x, y = pool_and_target(9, 30, 5)
    b = np.full(5, 0.2)
    found = solve(opened(local(x), y, b), "pool", b, eps=1e-3, tolerance=1e-12, max_iterations=3)
    assert not found.converged and found.iterations == 3


@pytest.mark.parametrize("eps", [0.0, -1.0, float("nan")])
def test_an_eps_that_is_not_positive_is_refused(eps: float) -> None:
    class Untouched:
        def reduce(self, method: str, *args: Any) -> tuple[Array, ...]:
            raise AssertionError(method)

    with pytest.raises(SolverError):
        solve(Untouched(), "pool", np.ones(1), eps=eps)


def test_non_finite_numbers_are_an_error() -> None:
    x, y = pool_and_target(10, 20, 4)
    y[0, 0] = np.nan
    b = np.full(4, 0.25)
    with pytest.raises(SolverError):
        solve(opened(local(x), y, b), "pool", b, eps=0.1)
