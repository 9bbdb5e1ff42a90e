from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from evoray.engine import feature_map
from evoray.engine.feature_map import Plane, draw_map
from evoray.engine.selected import PICK_SCHEMA
from evoray.engine.stored import Features
from evoray.storage import Storage, UnitStore

Matrix = feature_map.Matrix


def unit(rows: Matrix) -> Matrix:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pool(n: int = 60, dim: int = 12, seed: int = 0) -> Matrix:
    """Rows that vary most in the first coordinate, then in the second."""
    spread = np.array([3.0, 2.0, *[0.3] * (dim - 2)])
    return np.random.default_rng(seed).normal(size=(n, dim)) * spread


@pytest.mark.parametrize("shape", [(60, 12), (8, 40)], ids=["more rows", "more dimensions"])
def test_the_plane_is_that_of_the_largest_singular_values(shape: tuple[int, int]) -> None:
    rows = pool(*shape)
    plane = Plane.of(rows)
    assert plane is not None
    _, values, vectors = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    assert np.abs(np.sum(plane.axes_2D * vectors[:2], axis=1)) == pytest.approx(1.0)
    assert plane.explained == pytest.approx(tuple(values[:2] ** 2 / (values**2).sum()))


def test_a_direction_and_its_opposite_give_one_map() -> None:
    plane, again = Plane.of(pool()), Plane.of(pool()[::-1])
    assert plane is not None and again is not None
    assert plane.axes_2D == pytest.approx(again.axes_2D)
    assert (plane.axes_2D[[0, 1], np.abs(plane.axes_2D).argmax(axis=1)] > 0).all()


@pytest.mark.parametrize("rows", [np.ones((5, 3)), np.ones((1, 3)), np.outer(np.arange(4.0), [1.0, 2.0])])
def test_a_pool_that_varies_in_less_than_two_directions_has_no_map(rows: Matrix) -> None:
    assert draw_map((rows, rows, rows), (1, 1, 1), 1, "gradient") is None


def test_clouds_say_how_near_they_are_to_the_target() -> None:
    rows = unit(pool())
    target = rows[:4]
    found = draw_map((rows, target, rows[[0, 1]]), (600, 4, 2), 3, "gradient")
    assert found is not None
    clouds = {cloud.kind: cloud for cloud in found.clouds}
    assert [(kind, cloud.rows, len(cloud.places)) for kind, cloud in clouds.items()] == [
        ("pool", 600, 60), ("target", 4, 4), ("chosen", 2, 2),
    ]  # fmt: skip
    others = target @ target.T - 2 * np.eye(4)
    assert clouds["chosen"].nearest == 1.0
    assert clouds["pool"].nearest == pytest.approx((rows @ target.T).max(axis=1).mean(), abs=1e-3)
    assert clouds["target"].nearest == pytest.approx(others.max(axis=1).mean(), abs=1e-3)
    assert clouds["chosen"].places == clouds["pool"].places[:2]
    alone = draw_map((rows, target[:1], rows[:0]), (600, 1, 0), 3, "gradient")
    assert alone is not None
    assert [cloud.nearest for cloud in alone.clouds[1:]] == [None, None]


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Storage, Features, Features]:
    """Features of a pool in eight units and of a target in one, and picks of the pool's first rows."""
    storage = Storage(tmp_path)
    rows = unit(pool(80)).astype(np.float32)

    def write(name: str, units: list[np.ndarray], ids: list[str]) -> Features:
        store, start = UnitStore(storage, f"features/{name}"), 0
        for number, part in enumerate(units):
            feature = pa.FixedSizeListArray.from_arrays(part.ravel(), part.shape[1])
            store.commit(number, pa.table({"id": ids[start : start + len(part)], "feature": feature}))
            start += len(part)
        return Features(fingerprint=name, raw=name, store=store, units=tuple(range(len(units))))

    found = write("pool", np.array_split(rows, 8), [f"pool-{row}" for row in range(80)])
    target = write("align", [rows[:5]], [f"align-{row}" for row in range(5)])
    picks = [{"id": f"pool-{row}", "tile": 0, "row": row, "rank": row} for row in range(6)]
    storage.write_table("rounds/0001/picks.parquet", pa.Table.from_pylist(picks, schema=PICK_SCHEMA))
    return storage, found, target


def the_map(storage: Storage, found: Features, target: Features) -> feature_map.FeatureMap | None:
    return feature_map._map(storage, "rounds/0001/picks.parquet", found, target, 1, "gradient")


def test_a_stored_round_has_its_map_and_again_the_same(stored: tuple[Storage, Features, Features]) -> None:
    made = the_map(*stored)
    assert made is not None and made == the_map(*stored)
    assert [(cloud.rows, len(cloud.places)) for cloud in made.clouds] == [(80, 80), (5, 5), (6, 6)]
    assert set(made.clouds[2].places) <= set(made.clouds[0].places)


def test_of_many_rows_a_sample_is_drawn_by_their_ids(
    stored: tuple[Storage, Features, Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = the_map(*stored)
    monkeypatch.setattr(feature_map, "_POOL_ROWS", 20)
    monkeypatch.setattr(feature_map, "_FEW_ROWS", 3)
    made = the_map(*stored)
    assert made is not None and whole is not None and made == the_map(*stored)
    assert [(cloud.rows, len(cloud.places)) for cloud in made.clouds] == [(80, 20), (5, 3), (6, 3)]
    monkeypatch.setattr(feature_map, "_UNITS", 2)
    few = the_map(*stored)
    assert few is not None and len(few.clouds[0].places) == 20


def test_features_that_were_deleted_are_no_error(stored: tuple[Storage, Features, Features]) -> None:
    storage, found, target = stored
    for key in list(storage.keys("features/pool")):
        storage.delete(key)
    assert the_map(storage, found, target) is None


def test_places_are_spread_evenly() -> None:
    assert feature_map._spread(3, 5) == [0, 1, 2]
    assert feature_map._spread(10, 5) == [0, 2, 4, 6, 8]
