from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from evoray.diversity.energies import EnergyName, Memory, make_energy
from evoray.errors import SelectionError, SolverError
from evoray.selection.evoselect import ALIKE, MEAN_R, evoselect
from evoray.selection.evoselect_records import EvoSelectParams, EvoSelectResult
from evoray.selection.local import LocalShards
from evoray.selection.shard import Tile
from tests.oracles import (
    Array,
    dense_sinkhorn,
    entropic_value,
    mixture_likelihood_weights,
    subsets,
    vendi_of_kernel,
)
from tests.selection.pools import local, pool_and_target, tiles_of


def _select(shards: LocalShards, y: Array, k: int, validate: Array | None = None, **settings: Any) -> EvoSelectResult:
    fixed = {"lam": 0.3, "r": 0.5} | settings
    return evoselect(shards, y, None, validate, EvoSelectParams(k=k, **fixed))


def _rows(result: EvoSelectResult) -> list[int]:
    return [int(pick.id.removeprefix("row-")) for pick in result.picks]


def _objective(x: Array, y: Array, w: Array, *, eps: float, lambda_eff: float, name: EnergyName) -> float:
    w = w / w.sum()
    b = np.full(len(y), 1.0 / len(y))
    kept = w > 1e-13
    cost = 1.0 - x[kept] @ y.T
    plan = dense_sinkhorn(cost, w[kept], b, eps)[2]
    value = entropic_value(plan, cost, w[kept], b, eps)
    energy = make_energy(name, y.T @ y / len(y))
    return value + lambda_eff * energy.value(w @ x if energy.moment == "mean" else (x * w[:, None]).T @ x)


def test_one_step_without_diversity_ranks_by_the_potential() -> None:
    x, y = pool_and_target(0, 60, 8)
    result = _select(local(x), y, 10, lam=0.0, steps=1, eta=0.01, tolerance=1e-10)
    b, w = np.full(8, 1.0 / 8), np.full(60, 1.0 / 60)
    f, _, _ = dense_sinkhorn(1.0 - x @ y.T, w, b, result.eps)
    assert _rows(result) == np.argsort(f)[:10].tolist()


def test_uncapped_without_diversity_reaches_the_maximum_likelihood_mixture() -> None:
    x, y = pool_and_target(1, 20, 6)
    eps = 0.2
    result = _select(local(x), y, 1, lam=0.0, eps=eps, steps=600, sinkhorn_passes=20, tolerance=1e-9)
    w = mixture_likelihood_weights(1.0 - x @ y.T, np.full(6, 1.0 / 6), eps, 50_000)
    best = _objective(x, y, w, eps=eps, lambda_eff=0.0, name="none")
    assert best - 1e-9 <= result.certificate.objective <= best + 1e-4
    assert result.certificate.lower_bound <= best + 1e-9
    assert _rows(result)[0] == int(np.argmax(w))


@pytest.mark.parametrize("energy", ["none", "linear", "squared_cosine", "vendi", "log_det", "relative_vendi"])
def test_certificates_bound_the_optimum_of_a_general_solver(energy: EnergyName) -> None:
    x, y = pool_and_target(2, 9, 4)
    k, eps = 3, 0.3
    result = _select(
        local(x, 4), y, k, energy=energy, eps=eps, steps=150, sinkhorn_passes=30, refresh_every=1, tolerance=1e-10
    )
    lambda_eff = result.lambda_eff
    found = minimize(
        lambda w: _objective(x, y, np.maximum(w, 1e-12), eps=eps, lambda_eff=lambda_eff, name=energy),
        np.full(9, 1.0 / 9),
        method="SLSQP",
        bounds=[(0.0, 1.0 / k)] * 9,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1.0},
        options={"ftol": 1e-10, "maxiter": 25},
    )
    certificate = result.certificate
    assert certificate.lower_bound <= found.fun + 1e-6
    assert certificate.objective <= found.fun + certificate.gap + 1e-6
    assert certificate.objective == pytest.approx(found.fun, abs=5e-3)
    picked = np.zeros(9)
    picked[_rows(result)] = 1.0 / k
    assert certificate.picked_objective == pytest.approx(
        _objective(x, y, picked, eps=eps, lambda_eff=lambda_eff, name=energy), abs=1e-6
    )
    sets = [
        _objective(x, y, np.isin(np.arange(9), s) / k, eps=eps, lambda_eff=lambda_eff, name=energy)
        for s in subsets(9, k)
    ]
    assert certificate.lower_bound <= min(sets) <= certificate.picked_objective + 1e-6
    assert certificate.picked_converged


def test_lower_bound_holds_with_few_passes_and_few_steps() -> None:
    x, y = pool_and_target(3, 7, 4)
    result = _select(local(x, 3), y, 2, eps=0.1, steps=3, sinkhorn_passes=1, tolerance=0.5)
    sets = [
        _objective(x, y, np.isin(np.arange(7), s) / 2, eps=0.1, lambda_eff=result.lambda_eff, name="relative_vendi")
        for s in subsets(7, 2)
    ]
    assert result.certificate.lower_bound <= min(sets) + 1e-12


@pytest.mark.parametrize("n_shards", [2, 3, 7])
def test_result_is_bitwise_the_same_for_every_number_of_shards(n_shards: int) -> None:
    x, y = pool_and_target(4, 220, 12)
    one, many = (
        _select(
            local(x, 19, n, torch.float32), y, 20, validate=y[:5], lam="auto", r="auto", lambda_path=(0.0, 0.5), steps=4
        )
        for n in (1, n_shards)
    )
    assert one.picks == many.picks
    assert one.potentials.g_M.tobytes() == many.potentials.g_M.tobytes()
    assert (one.path, one.trace, one.certificate) == (many.path, many.trace, many.certificate)


def test_permuting_rows_over_tiles_changes_no_pick() -> None:
    x, y = pool_and_target(5, 120, 9)
    order = np.random.default_rng(0).permutation(120)
    ids = [f"row-{row:04d}" for row in order]
    moved = LocalShards.of_tiles(tiles_of(x[order], 17, ids=ids), 3)
    assert set(_rows(_select(local(x, 25), y, 15))) == set(_rows(_select(moved, y, 15)))


def test_choosing_a_path_point_equals_running_with_its_values_fixed() -> None:
    x, y = pool_and_target(6, 90, 10)
    auto = _select(local(x), y[:6], 12, validate=y[6:], lam="auto", r="auto", steps=12)
    fixed = _select(local(x), y[:6], 12, lam=auto.lam, r=auto.r, steps=12)
    assert len(auto.path) == 6
    assert auto.picks == fixed.picks
    assert auto.potentials.g_M.tobytes() == fixed.potentials.g_M.tobytes()
    best = min(point.validate_cost for point in auto.path if point.validate_cost is not None)
    chosen = next(point for point in auto.path if (point.lam, point.r) == (auto.lam, auto.r))
    assert chosen.validate_cost == pytest.approx(best, abs=1e-6)


def test_validate_cost_is_that_of_the_picks_at_the_fixed_eps() -> None:
    x, y = pool_and_target(7, 60, 9)
    result = _select(local(x), y[:5], 8, validate=y[5:])
    eps = 0.1 * result.cost_std
    cost = 1.0 - x[_rows(result)] @ y[5:].T
    plan = dense_sinkhorn(cost, np.full(8, 1.0 / 8), np.full(4, 0.25), eps)[2]
    assert result.path[0].validate_cost == pytest.approx(float((plan * cost).sum()), abs=1e-4)
    assert result.cost_std == pytest.approx(float((1.0 - x @ y[:5].T).std()))


def test_each_point_of_the_path_says_how_diverse_its_picks_are() -> None:
    x, y = pool_and_target(6, 90, 10)
    result = _select(local(x), y[:6], 12, validate=y[6:], lam="auto", r="auto", steps=12)
    chosen = next(point for point in result.path if (point.lam, point.r) == (result.lam, result.r))
    assert chosen.vendi == pytest.approx(vendi_of_kernel(x[_rows(result)]))
    assert all(point.vendi is not None and 1.0 <= point.vendi <= 12.0 for point in result.path)
    assert _select(local(x), y, 9).path[0].vendi is None


def test_picks_carry_their_facts() -> None:
    x, y = pool_and_target(8, 60, 7)
    result = _select(local(x), y, 9)
    similarity = x[_rows(result)] @ y.T
    assert [pick.nearest for pick in result.picks] == similarity.argmax(axis=1).tolist()
    assert np.allclose([pick.similarity for pick in result.picks], similarity.max(axis=1))
    assert [16 * pick.tile + pick.row for pick in result.picks] == _rows(result)
    weights = [pick.weight for pick in result.picks]
    assert weights == sorted(weights, reverse=True) and max(weights) <= 1.0 / 9 + 1e-12
    assert result.vendi_picks == pytest.approx(vendi_of_kernel(x[_rows(result)]))
    assert result.vendi_target == pytest.approx(vendi_of_kernel(y))
    assert len(result.trace) == 41
    assert result.trace[0].effective == pytest.approx(60.0)


def test_diversity_makes_the_choice_more_diverse() -> None:
    x, y = pool_and_target(9, 200, 8)
    scores = [_select(local(x), y, 20, lam=lam, energy="vendi").vendi_picks for lam in (0.0, 0.3, 1.0)]
    assert scores[0] < scores[1] < scores[2]


def test_a_large_lambda_does_not_make_the_steps_swing() -> None:
    x, y = pool_and_target(9, 200, 8)
    for energy in ("vendi", "relative_vendi"):
        result = _select(local(x), y, 20, lam=10.0, energy=energy)
        gaps = [step.gap for step in result.trace if step.gap is not None]
        assert gaps[-1] < 0.05 * gaps[0]


def test_excluded_rows_are_neither_picked_nor_counted() -> None:
    x, y = pool_and_target(10, 60, 7)
    first = _select(local(x), y, 10)
    barred = {pick.id for pick in first.picks}
    second = _select(local(x, excluded=barred), y, 10)
    assert not barred & {pick.id for pick in second.picks}
    assert second.usable == 50
    kept = [row for row in range(60) if f"row-{row:04d}" not in barred]
    alone = _select(local(x[kept]), y, 10)
    assert [kept[row] for row in _rows(alone)] == _rows(second)


def test_memory_adds_up_over_rounds_and_steers_away_from_what_was_used() -> None:
    x, y = pool_and_target(11, 80, 6)
    params = EvoSelectParams(k=10, lam=3.0, r=0.5, energy="vendi")
    used = x[::6]
    memory = Memory.of_rows(torch.from_numpy(used))
    result = evoselect(local(x), y, None, None, params, memory=memory)
    both = np.concatenate([used, x[_rows(result)]])
    assert result.memory.rows == len(both)
    assert np.allclose(result.memory.second_DD, both.T @ both / len(both))
    assert np.allclose(result.memory.mean_D, both.mean(axis=0))
    forgetful = evoselect(local(x), y, None, None, params)
    without = np.concatenate([used, x[_rows(forgetful)]])
    assert vendi_of_kernel(both) > vendi_of_kernel(without)


def test_wide_features_are_projected_for_diversity() -> None:
    x, y = pool_and_target(12, 60, 6, dim=30)
    result = _select(local(x), y, 10, diversity_dim=8)
    assert result.memory.second_DD.shape == (8, 8)
    assert result.vendi_picks == pytest.approx(vendi_of_kernel(x[_rows(result)]))


def test_target_weights_pull_the_choice() -> None:
    x, y = np.repeat(np.eye(3), 5, axis=0), np.eye(3)
    params = EvoSelectParams(k=5, lam=0.0, r=0.1)
    for favoured in range(3):
        weights = np.where(np.arange(3) == favoured, 98.0, 1.0)
        result = evoselect(local(x), y, weights, None, params)
        assert set(np.array(_rows(result)) // 5) == {favoured}


def test_identical_candidates_are_picked_by_id() -> None:
    x, y = np.tile(np.eye(4)[:1], (30, 1)), np.eye(4)
    result = _select(local(x, 7, 2, torch.float32), y, 5)
    assert _rows(result) == [0, 1, 2, 3, 4]
    assert result.trace[-1].effective == pytest.approx(30.0)


@pytest.mark.parametrize(("n", "m", "k"), [(1, 3, 1), (4, 40, 2), (9, 3, 9)])
def test_degenerate_sizes_work(n: int, m: int, k: int) -> None:
    x, y = pool_and_target(13, n, m)
    result = _select(local(x, 2, 3), y, k)
    assert len({pick.id for pick in result.picks}) == k
    assert result.certificate.picked_excess >= -1e-9


def test_a_tiny_eps_ends_with_finite_picks_and_says_whether_it_converged() -> None:
    x, y = pool_and_target(14, 40, 5)
    result = _select(local(x), y, 5, eps=1e-5, steps=4, max_iterations=50)
    assert len(result.picks) == 5
    assert result.path[0].converged == (result.path[0].marginal_error <= 1e-3)
    assert np.isfinite([pick.potential for pick in result.picks]).all()


def test_relaxed_target_drops_what_the_pool_cannot_serve() -> None:
    x, y = np.repeat(np.eye(3)[:2], 10, axis=0) + 0.0, np.eye(3)
    kept, relaxed = (_select(local(x), y, 4, lam=0.0, eps=0.05, rho=rho) for rho in (None, 0.05))
    assert relaxed.certificate.objective < kept.certificate.objective
    assert relaxed.certificate.lower_bound <= relaxed.certificate.picked_objective + 1e-9


def test_bad_requests_are_refused() -> None:
    x, y = pool_and_target(15, 20, 4)
    with pytest.raises(SelectionError, match="21 of 20"):
        _select(local(x), y, 21)
    with pytest.raises(SelectionError, match="held-out"):
        _select(local(x), y, 5, lam="auto")
    with pytest.raises(SelectionError, match="weights"):
        evoselect(local(x), y, np.zeros(4), None, EvoSelectParams(k=3, lam=0.0, r=0.5))
    for wrong in ({"k": 0}, {"eta": 0.0}, {"lam": -1.0}, {"r_path": ()}):
        with pytest.raises(SelectionError):
            replace(EvoSelectParams(k=3), **wrong)
    with pytest.raises(SolverError):
        Tile(index=0, ids=["a"], features_ND=torch.full((1, 2), float("nan")))
    with pytest.raises(SelectionError):
        Tile(index=0, ids=["a", "b"], features_ND=torch.zeros(1, 2))


def test_progress_counts_every_step_of_the_path() -> None:
    x, y = pool_and_target(16, 30, 6)
    seen: list[tuple[int, int]] = []
    params = EvoSelectParams(k=3, steps=3, lambda_path=(0.0, 1.0), r=0.5)
    evoselect(local(x), y, None, y, params, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]


@pytest.mark.parametrize("shards", [1, 3])
def test_trials_are_choices_of_the_path_that_differ(shards: int) -> None:
    x, y = pool_and_target(17, 120, 24)
    align, validate = y[:12], y[12:]
    path = {"lam": "auto", "r": "auto", "steps": 20}
    alone = _select(local(x, shards), align, 12, validate, **path)
    found = _select(local(x, shards), align, 12, validate, **path, trials=3)
    assert _rows(found) == _rows(alone) and not alone.others, "what aligns best comes first, with and without trials"
    choices = [found, *found.others]
    assert len(choices) == 3
    for place, one in enumerate(choices):
        assert _rows(one) == _rows(_select(local(x), align, 12, lam=one.lam, r=one.r, steps=20))
        assert one.path == found.path and one.certificate.picked_excess >= -1e-9
        assert all(len({*_rows(one)} & {*_rows(other)}) <= ALIKE * 12 for other in choices[:place])
    assert [point.r for point in found.path] == [0.1] * 3 + [0.5] * 3 + [MEAN_R]


def test_a_large_r_ranks_by_mean_similarity() -> None:
    x, y = pool_and_target(18, 200, 16)
    mean = np.argsort(-(x @ y.T).mean(axis=1), kind="stable")[:20]
    found = _rows(_select(local(x), y, 20, lam=0.0, r=MEAN_R))
    assert len({*found} & {*mean.tolist()}) >= 18


def test_of_a_path_of_one_point_there_is_nothing_to_try() -> None:
    x, y = pool_and_target(19, 40, 8)
    assert _select(local(x), y, 5, trials=3).others == ()
