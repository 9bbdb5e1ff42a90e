"""The compiled pass over a tile against the same sums in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evoray.alignment.kernels import TileKernel, kernel_pass, log_pass, stabilised_kernel


def _tile(rows: int, columns: int, dtype: torch.dtype) -> tuple[TileKernel, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(rows)
    similarity = torch.from_numpy(rng.uniform(-0.4, 1.0, (rows, columns))).to(dtype)
    log_b = torch.full((columns,), -float(np.log(columns)), dtype=torch.float64)
    g = torch.from_numpy(rng.normal(0.0, 0.05, columns))
    w = torch.from_numpy(rng.uniform(0.0, 1.0, rows) ** 8)
    w[::5] = 0.0
    return stabilised_kernel(similarity, log_b, g, 0.05), similarity, g, w


@pytest.mark.parametrize("columns", [1, 7, 256, 1000])
@pytest.mark.parametrize("rows", [1, 63, 64, 200])
def test_the_compiled_pass_agrees_with_float64(rows: int, columns: int) -> None:
    kernel, _, _, w = _tile(rows, columns, torch.float32)
    u = torch.linspace(0.5, 2.0, columns)
    sums, c = kernel_pass(kernel, u, w)
    wide = kernel.kernel_NM.double()
    expected_sums = wide @ u.double()
    np.testing.assert_allclose(sums.numpy(), expected_sums.numpy(), rtol=1e-5)
    np.testing.assert_allclose(c.numpy(), (wide.T @ (w / expected_sums)).numpy(), rtol=1e-5)


def test_kernel_and_log_passes_give_the_same_masses() -> None:
    kernel, similarity, g, w = _tile(150, 12, torch.float64)
    _, c = kernel_pass(kernel, torch.ones(12, dtype=torch.float64), w)
    log_b = torch.full((12,), -float(np.log(12)), dtype=torch.float64)
    _, log_c = log_pass(similarity, log_b, g, w.log(), 0.05)
    np.testing.assert_allclose(c.numpy(), log_c.exp().numpy(), rtol=1e-12)


def test_a_row_without_mass_shows_as_no_number_and_not_as_an_exception() -> None:
    kernel = TileKernel(kernel_NM=torch.zeros(2, 3), rowmax_N=torch.zeros(2, dtype=torch.float64))
    _, c = kernel_pass(kernel, torch.ones(3), torch.ones(2, dtype=torch.float64))
    assert not bool(torch.isfinite(c).any())
