from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoray.errors import SolverError
from evoray.selection.capped import capped_mass, find_scales, log_mass
from tests.oracles import Array, capped_projection


def _project(log_v: Array, cap: float) -> Array:
    tensor = torch.from_numpy(log_v)
    (scale,) = find_scales(
        lambda log_scale_S: capped_mass(tensor, log_scale_S, float(np.log(cap))), log_mass(tensor, None, 1), cap
    )
    return np.exp(np.minimum(np.log(cap), log_v + scale))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), data=st.data(), seed=st.integers(0, 999), spread=st.floats(0.0, 20.0))
def test_projection_agrees_with_plain_bisection(n: int, data: st.DataObject, seed: int, spread: float) -> None:
    k = data.draw(st.integers(1, n))
    log_v = spread * np.random.default_rng(seed).standard_normal(n)
    w = _project(log_v, 1.0 / k)
    assert abs(w.sum() - 1.0) < 1e-11
    assert w.max() <= 1.0 / k + 1e-15
    assert np.allclose(w, capped_projection(np.exp(log_v - log_v.max()), 1.0 / k), rtol=1e-9, atol=1e-12)


def test_weights_hundreds_of_nats_apart_are_projected() -> None:
    w = _project(np.array([0.0, -900.0, -900.0, -1800.0]), 0.5)
    assert np.allclose(w, [0.5, 0.25, 0.25, 0.0])


def test_too_few_rows_for_the_cap_are_an_error() -> None:
    with pytest.raises(SolverError):
        _project(np.zeros(3), 0.25)
