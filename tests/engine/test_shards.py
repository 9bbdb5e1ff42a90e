"""Selection over actors: the number of shards, and how the features are stored, leave no trace in the picks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from evoray.config import SelectionConfig
from evoray.engine.choose import choose
from evoray.engine.external import open_features, read_all
from evoray.engine.session import Session
from evoray.engine.shards import ParquetTiles, StoredTiles, TileSource, matrix_of
from evoray.errors import SelectionError
from evoray.selection.evoselect import evoselect
from evoray.selection.evoselect_records import EvoSelectParams
from evoray.selection.exact import exact
from evoray.selection.local import LocalShards
from evoray.selection.selector import Choice, Goal
from evoray.selection.shard import Tile
from evoray.storage import Storage, UnitStore
from tests.oracles import Array
from tests.selection.pools import pool_and_target

ROWS, TARGET, K, UNIT = 90, 12, 9, 20
CONFIG = SelectionConfig(k=K, steps=6, lam=0.3, r=0.5)
Files = tuple[Array, Array]


@pytest.fixture(scope="module")
def features() -> Files:
    return pool_and_target(seed=1, n=ROWS, m=TARGET, dim=16)


def table_of(features_ND: Array, start: int = 0) -> pa.Table:
    values = pa.array(features_ND.astype(np.float32).ravel())
    ids = [f"row-{start + row:05d}" for row in range(len(features_ND))]
    return pa.table({"id": ids, "feature": pa.FixedSizeListArray.from_arrays(values, features_ND.shape[1])})


@pytest.fixture
def stored(features: Files, tmp_path: Path) -> StoredTiles:
    store = UnitStore(Storage(tmp_path), "features/abc")
    starts = range(0, ROWS, UNIT)
    for unit, start in enumerate(starts):
        store.commit(unit, table_of(features[0][start : start + UNIT], start))
    return StoredTiles(store=store, units=tuple(range(len(starts))))


def goal_of(features: Files) -> Goal:
    return Goal(align_MD=features[1].astype(np.float32), validate_MD=None)


def tiles_of(stored: StoredTiles) -> list[Tile]:
    return [
        Tile(index=i, ids=t["id"].to_pylist(), features_ND=torch.from_numpy(matrix_of(t)))
        for i, t in enumerate(map(stored.read, range(stored.count())))
    ]


def selected(source: TileSource, features: Files, session: Session, **changes: object) -> Choice:
    config = CONFIG.model_copy(update=changes)
    return choose(source, goal_of(features), config, 0, session, lambda _done, _total: None)


@pytest.mark.ray
@pytest.mark.slow
def test_picks_and_potentials_are_those_of_a_single_process_bit_for_bit_for_any_number_of_shards(
    stored: StoredTiles, features: Files, ray_session: Session
) -> None:
    tiles = tiles_of(stored)
    params = EvoSelectParams(k=K, energy=CONFIG.energy, lam=0.3, r=0.5, steps=6)
    local = evoselect(LocalShards.of_tiles(tiles), goal_of(features).align_MD, None, None, params)
    for shards in (1, 2, 3):
        choice = selected(stored, features, ray_session, shards=shards)
        assert choice.picks == local.picks
        assert choice.facts["potentials"]["g_M"] == [float(value) for value in local.potentials.g_M]


@pytest.mark.ray
@pytest.mark.slow
def test_the_exact_solver_answers_the_same_over_actors(
    stored: StoredTiles, features: Files, ray_session: Session
) -> None:
    local = exact(LocalShards.of_tiles(tiles_of(stored)), goal_of(features).align_MD, None, K)
    for shards in (1, 3):
        choice = selected(stored, features, ray_session, shards=shards, solver="exact", lam="auto")
        assert choice.picks == local.picks
        assert choice.facts["objective"] == local.objective
        assert choice.facts["potentials"]["g_M"] == local.g_M.tolist()


@pytest.mark.ray
@pytest.mark.slow
def test_selectors_without_features_choose_the_same_rows_from_any_number_of_shards(
    stored: StoredTiles, ray_session: Session
) -> None:
    config = CONFIG.model_copy(update={"selector": "random"})
    found = [
        choose(
            stored, None, config.model_copy(update={"shards": n}), 3, ray_session, lambda _d, _t: None, ["row-00001"]
        ).picks
        for n in (1, 3)
    ]
    assert found[0] == found[1]
    assert "row-00001" not in {pick.id for pick in found[0]}
    everything = CONFIG.model_copy(update={"selector": "all"})
    picks = choose(stored, None, everything, 0, ray_session, lambda _d, _t: None, ["row-00001"]).picks
    assert len(picks) == ROWS - 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_unit_without_rows_changes_nothing(stored: StoredTiles, features: Files, ray_session: Session) -> None:
    empty = stored.count()
    stored.store.commit(empty, table_of(features[0][:0]))
    wider = StoredTiles(store=stored.store, units=(*stored.units, empty))
    assert selected(wider, features, ray_session).picks == selected(stored, features, ray_session).picks


@pytest.mark.ray
@pytest.mark.slow
def test_more_picks_than_usable_rows_are_refused_with_both_numbers(
    stored: StoredTiles, features: Files, ray_session: Session
) -> None:
    with pytest.raises(SelectionError) as caught:
        selected(stored, features, ray_session, k=ROWS + 1)
    assert caught.value.received == f"k = {ROWS + 1}, and {ROWS} usable rows"


@pytest.mark.parametrize("group", [1, 37, 4096, 10_000])
def test_a_parquet_file_is_cut_into_the_same_tiles_whatever_its_row_groups(tmp_path: Path, group: int) -> None:
    rows = 9_000 if group > 1 else 50
    table = table_of(np.random.default_rng(0).standard_normal((rows, 2)))
    path = tmp_path / "features.parquet"
    pq.write_table(table, path, row_group_size=group)
    tiles = ParquetTiles.open(str(path))
    pieces = [tiles.read(tile) for tile in range(tiles.count())]
    assert [piece.num_rows for piece in pieces[:-1]] == [4096] * (len(pieces) - 1)
    assert pa.concat_tables(pieces).to_pydict() == table.to_pydict()


def test_features_of_a_store_and_of_a_file_are_opened_by_path(
    stored: StoredTiles, features: Files, tmp_path: Path
) -> None:
    path = tmp_path / "all.parquet"
    pq.write_table(table_of(features[0]), path)
    ids, rows_ND = read_all(open_features(str(path)))
    stored_ids, stored_ND = read_all(open_features(str(tmp_path / "features" / "abc")))
    assert ids == stored_ids == [f"row-{row:05d}" for row in range(ROWS)]
    np.testing.assert_array_equal(rows_ND, stored_ND)
    np.testing.assert_allclose(np.linalg.norm(rows_ND, axis=1), 1.0, rtol=1e-6)


def test_a_file_without_the_columns_is_refused_with_those_it_has(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    pq.write_table(pa.table({"id": ["a"], "vector": [[1.0]]}), path)
    with pytest.raises(SelectionError, match="id, vector"):
        open_features(str(path))


def test_a_feature_column_that_is_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    pq.write_table(pa.table({"id": ["a"], "feature": [1.0]}), path)
    with pytest.raises(SelectionError, match="type double"):
        open_features(str(path))


def test_ids_that_are_numbers_become_text(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    pq.write_table(pa.table({"id": [7, 8], "feature": [[1.0], [2.0]]}), path)
    assert read_all(open_features(str(path)))[0] == ["7", "8"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_row_without_direction_is_refused_by_its_id(tmp_path: Path, value: float) -> None:
    path = tmp_path / "features.parquet"
    pq.write_table(pa.table({"id": ["good", "bad"], "feature": [[1.0, 0.0], [value, 0.0]]}), path)
    with pytest.raises(SelectionError, match=r"id bad"):
        read_all(open_features(str(path)))


@pytest.mark.parametrize("second", [[1.0], [1.0, 0.0, 1.0, 0.0], []])
def test_rows_of_different_lengths_are_refused(tmp_path: Path, second: list[float]) -> None:
    path = tmp_path / "features.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "feature": [[1.0, 0.0, 1.0], second]}), path)
    with pytest.raises(SelectionError, match="one length"):
        read_all(open_features(str(path)))


def test_values_that_are_missing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "feature": [[1.0, 0.0], None]}), path)
    with pytest.raises(SelectionError):
        read_all(open_features(str(path)))


@pytest.mark.parametrize("content", [b"", b"no parquet at all"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "features.parquet"
    path.write_bytes(content)
    with pytest.raises(SelectionError, match=r"features\.parquet"):
        open_features(str(path))


def test_an_empty_folder_and_a_missing_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="without committed units"):
        open_features(str(tmp_path))
    with pytest.raises(SelectionError, match="check the path"):
        open_features(str(tmp_path / "absent"))
