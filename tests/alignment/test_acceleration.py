"""Anderson acceleration on maps whose fixed points are known, and where it has to give way."""

from __future__ import annotations

import numpy as np
import pytest

from evoray.alignment.acceleration import MEMORY, RESTART, Anderson
from tests.oracles import Array


def _contraction(seed: int, size: int, radius: float) -> tuple[Array, Array, Array]:
    """A symmetric map x <- A x + b with the given largest eigenvalue, and its fixed point."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((size, size)))
    a = (q * np.linspace(0.0, radius, size)) @ q.T
    b = rng.standard_normal(size)
    return a, b, np.linalg.solve(np.eye(size) - a, b)


@pytest.mark.parametrize("radius", [0.9, 0.99])
def test_a_linear_map_is_solved_in_a_fraction_of_its_own_steps(radius: float) -> None:
    a, b, fixed = _contraction(0, 30, radius)
    steps = {}
    for accelerated in (True, False):
        x, history = np.zeros(30), Anderson(np.full(30, 1.0 / 30))
        steps[accelerated] = 0
        for _ in range(5000):
            image = a @ x + b
            error = float(np.abs(image - x).sum())
            if error < 1e-8:
                break
            steps[accelerated] += 1
            x = history.step(x, image, error) if accelerated else image
        assert np.abs(x - fixed).max() < 1e-5
    assert steps[True] < steps[False] / 3


def test_as_many_steps_as_unknowns_solve_a_small_linear_map_exactly() -> None:
    a, b, fixed = _contraction(1, MEMORY - 1, 0.95)
    x, history = np.zeros(MEMORY - 1), Anderson(np.ones(MEMORY - 1))
    for _ in range(MEMORY + 1):
        image = a @ x + b
        x = history.step(x, image, float(np.abs(image - x).sum()))
    assert np.abs(x - fixed).max() < 1e-6 * np.abs(fixed).max()


def test_where_the_error_grows_it_goes_on_plainly_from_the_best_point() -> None:
    history = Anderson(np.ones(2))
    best, image = np.array([1.0, 2.0]), np.array([1.5, 1.0])
    history.step(best, image, 0.1)
    astray = history.step(np.array([9.0, 9.0]), np.array([40.0, -3.0]), 0.1 * RESTART * 1.01)
    assert astray.tolist() == image.tolist()


def test_equal_residuals_give_a_plain_step() -> None:
    history = Anderson(np.ones(3))
    move = np.array([0.5, -0.25, 1.0])
    history.step(np.zeros(3), move, 1.0)
    assert history.step(np.ones(3), np.ones(3) + move, 1.0) == pytest.approx(np.ones(3) + move)
