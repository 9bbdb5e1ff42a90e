from __future__ import annotations

import numpy as np
import pytest
import torch

from evoray.diversity.energies import EnergyName, Memory, make_energy, moment_of, rowwise_gradient, vendi_score
from evoray.diversity.projection import project_rows, projection
from evoray.errors import SelectionError, SolverError
from tests.oracles import Array, matrix_log, unit_rows, vendi_of_kernel

NAMES: list[EnergyName] = ["linear", "squared_cosine", "vendi", "log_det", "relative_vendi"]


def _case(seed: int, n: int = 15, dim: int = 5) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    w = rng.uniform(0.1, 1.0, n)
    reference = unit_rows(rng, 3, dim)
    return unit_rows(rng, n, dim), w / w.sum(), reference.T @ reference / 3


def _value(name: EnergyName, x: Array, w: Array, reference: Array) -> float:
    energy = make_energy(name, reference)
    return energy.value(moment_of(torch.from_numpy(x), torch.from_numpy(w), energy.moment))


@pytest.mark.parametrize("name", NAMES)
def test_row_gradients_are_the_finite_differences_of_the_energy(name: EnergyName) -> None:
    x, w, reference = _case(0)
    energy = make_energy(name, reference)
    tensor = torch.from_numpy(x)
    gradient = energy.gradient(moment_of(tensor, torch.from_numpy(w), energy.moment))
    rows = rowwise_gradient(tensor, torch.from_numpy(gradient)).numpy()
    for i in range(len(w)):
        move = np.zeros_like(w)
        move[i] = 1e-6
        slope = (_value(name, x, w + move, reference) - _value(name, x, w - move, reference)) / 2e-6
        assert slope == pytest.approx(rows[i], abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_energies_are_convex_in_the_weights(name: EnergyName) -> None:
    x, first, reference = _case(1)
    second = np.roll(first, 4) ** 3
    second /= second.sum()
    middle = _value(name, x, 0.5 * (first + second), reference)
    assert middle <= 0.5 * (_value(name, x, first, reference) + _value(name, x, second, reference)) + 1e-12


def test_energies_equal_their_defining_formulas() -> None:
    x, w, reference = _case(2)
    sigma = (x * w[:, None]).T @ x
    eye = np.eye(5)
    a, a_target = 0.9 * sigma + 0.1 * eye / 5, 0.9 * reference + 0.1 * eye / 5
    relative = np.trace(a @ (matrix_log(a) - matrix_log(a_target)))
    assert _value("relative_vendi", x, w, reference) == pytest.approx(relative)
    smooth = 0.99 * sigma + 0.01 * eye / 5
    assert _value("vendi", x, w, reference) == pytest.approx(np.trace(smooth @ matrix_log(smooth)))
    assert _value("log_det", x, w, reference) == pytest.approx(-np.log(np.linalg.det(1e-3 * eye + sigma)))
    assert _value("squared_cosine", x, w, reference) == pytest.approx(0.5 * np.trace(sigma @ sigma))
    assert _value("linear", x, w, reference) == pytest.approx(0.5 * np.sum((w @ x) ** 2))


@pytest.mark.parametrize("dim", [1, 127, 128, 129, 300])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_moments_and_gradients_by_parts_of_the_columns_equal_the_whole_products(dim: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(dim)
    x, w = unit_rows(rng, 40, dim), rng.dirichlet(np.ones(40))
    skew = rng.standard_normal((dim, dim))
    features, tolerance = torch.from_numpy(x).to(dtype), 1e-12 if dtype == torch.float64 else 1e-5
    moment = moment_of(features, torch.from_numpy(w), "second")
    assert np.array_equal(moment, moment.T)
    assert moment == pytest.approx((x * w[:, None]).T @ x, abs=tolerance)
    rows = rowwise_gradient(features, torch.from_numpy(skew + skew.T)).numpy()
    assert rows == pytest.approx(np.einsum("nd,de,ne->n", x, skew + skew.T, x), abs=tolerance * dim)


def test_relative_vendi_is_zero_where_the_choice_spreads_as_the_target_does() -> None:
    _, _, reference = _case(3)
    energy = make_energy("relative_vendi", reference)
    assert energy.value(reference) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("n", [3, 20])
def test_vendi_score_equals_that_of_the_kernel_between_rows(n: int) -> None:
    x = unit_rows(np.random.default_rng(4), n, 6)
    assert vendi_score(x.T @ x / n) == pytest.approx(vendi_of_kernel(x))


def test_vendi_score_counts_orthogonal_rows() -> None:
    assert vendi_score(np.eye(7) / 7) == pytest.approx(7.0)


def test_memory_mixes_earlier_and_new_rows_by_their_numbers() -> None:
    rng = np.random.default_rng(5)
    old, new = unit_rows(rng, 30, 4), unit_rows(rng, 10, 4)
    memory = Memory.of_rows(torch.from_numpy(old))
    total = memory.total(new.T @ new / 10, "second", 10)
    both = np.concatenate([old, new])
    assert np.allclose(total, both.T @ both / 40)
    assert memory.share(10) == 0.25


def test_projection_is_seeded_keeps_unit_rows_and_leaves_small_dimensions_alone() -> None:
    assert projection(512) is None
    first, again, other = projection(600, 64, 1), projection(600, 64, 1), projection(600, 64, 2)
    assert first is not None and again is not None and other is not None
    assert torch.equal(first, again) and not torch.equal(first, other)
    x = torch.from_numpy(unit_rows(np.random.default_rng(6), 5, 600))
    rows = project_rows(x, first)
    assert rows.shape == (5, 64)
    assert torch.allclose(rows.norm(dim=1), torch.ones(5, dtype=torch.float64))


def test_bad_requests_are_refused() -> None:
    with pytest.raises(SelectionError):
        make_energy("relative_vendi")
    with pytest.raises(SolverError):
        make_energy("vendi").value(np.full((2, 2), np.nan))
    with pytest.raises(SolverError):
        make_energy("vendi", delta=0.0).gradient(np.diag([1.0, 0.0]))
