"""Centring of one unit against numpy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from evoray.features.centring import centre, row_sum
from evoray.records import feature_schema


def unit(rows: np.ndarray, norms: list[float]) -> pa.Table:
    count, dim = rows.shape
    columns = {
        "id": [f"r{index}" for index in range(count)], "feature": rows.tolist(), "norm": norms, "tokens": [3] * count,
        "supervised": [2] * count, "loss": [0.5] * count, "flags": [0] * count,
    }  # fmt: skip
    return pa.table(columns, schema=feature_schema(dim))


def test_rows_lose_the_mean_and_are_unit_rows_again() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 8)) + 3
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    table = unit(rows, [2.0] * 5)
    mean = row_sum(table) / 5
    found, lost = centre(table, mean)
    expected = rows - rows.mean(0)
    length = np.linalg.norm(expected, axis=1)
    assert lost == []
    assert found.schema.equals(table.schema)
    np.testing.assert_allclose(found["feature"].to_pylist(), expected / length[:, None], atol=1e-6)
    np.testing.assert_allclose(found["norm"].to_pylist(), 2 * length, rtol=1e-5)


def test_a_row_that_is_the_mean_is_left_out_by_its_id() -> None:
    rows = np.eye(3)[[0, 1, 0]]
    found, lost = centre(unit(rows, [1.0, 2.0, 3.0]), np.array([1.0, 0.0, 0.0]))
    assert lost == ["r0", "r2"]
    assert found["id"].to_pylist() == ["r1"]
    assert found["norm"].to_pylist() == pytest.approx([2 * 2**0.5])
