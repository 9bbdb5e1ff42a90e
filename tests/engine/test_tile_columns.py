"""Sources beside the features: from the pool's units, or from the file itself, and shares of them over actors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from evoray.config import SelectionConfig
from evoray.engine.choose import choose
from evoray.engine.session import Session
from evoray.engine.shards import ParquetTiles, PoolTiles, StoredTiles, matrix_of
from evoray.engine.workers import DUPLICATES, PoolRows
from evoray.errors import SelectionError
from evoray.selection.evoselect import evoselect
from evoray.selection.evoselect_records import EvoSelectParams
from evoray.selection.local import LocalShards
from evoray.selection.selector import Goal
from evoray.selection.shard import Tile
from evoray.selection.shares import Shares
from evoray.storage import Storage, UnitStore
from tests.selection.pools import pool_and_target

ROWS, UNIT, K = 60, 17, 8
X, Y = pool_and_target(seed=3, n=ROWS, m=9, dim=8)
IDS = [f"row-{row:04d}" for row in range(ROWS)]
SOURCES = [("web", "book", None)[row % 3] for row in range(ROWS)]


def features_of(rows: list[int]) -> pa.Table:
    values = pa.FixedSizeListArray.from_arrays(pa.array(X[rows].astype(np.float32).ravel()), X.shape[1])
    return pa.table({"id": [IDS[row] for row in rows], "feature": values})


@pytest.fixture
def pool(tmp_path: Path) -> PoolRows:
    """Units of the pool, in which row 5 is a duplicate."""
    store = UnitStore(Storage(tmp_path), "pool/p")
    for unit, start in enumerate(range(0, ROWS, UNIT)):
        rows = slice(start, start + UNIT)
        store.commit(unit, pa.table({"id": IDS[rows], "source": pa.array(SOURCES[rows], pa.string())}))
    store.storage.write_table(f"{store.prefix}/{DUPLICATES}", pa.table({"unit": [0], "row": [5]}))
    return PoolRows(store=store)


@pytest.fixture
def stored(tmp_path: Path, pool: PoolRows) -> StoredTiles:
    """Features of the pool's units without row 5 and, as if it had been set aside, row 20."""
    store = UnitStore(Storage(tmp_path), "features/f")
    units = range(-(-ROWS // UNIT))
    for unit in units:
        rows = range(unit * UNIT, min(ROWS, (unit + 1) * UNIT))
        store.commit(unit, features_of([row for row in rows if row not in (5, 20)]))
    return StoredTiles(store=store, units=tuple(units), rows=pool)


def test_stored_features_get_their_sources_from_the_pool_by_id(stored: StoredTiles) -> None:
    tables = [stored.read(tile, ["source"]) for tile in range(stored.count())]
    table = pa.concat_tables(tables)
    assert dict(zip(table["id"].to_pylist(), table["source"].to_pylist(), strict=True)) == {
        row_id: source for row, (row_id, source) in enumerate(zip(IDS, SOURCES, strict=True)) if row not in (5, 20)
    }
    assert tables[0].drop_columns(["source"]).equals(stored.read(0))


def test_a_pool_without_sources_gives_nulls(tmp_path: Path) -> None:
    store = UnitStore(Storage(tmp_path), "pool/p")
    store.commit(0, pa.table({"id": IDS[:3]}))
    none = pa.array([], pa.int64())
    store.storage.write_table(f"{store.prefix}/{DUPLICATES}", pa.table({"unit": none, "row": none}))
    tiles = PoolTiles(rows=PoolRows(store=store), units=(0,))
    assert tiles.read(0, ["source"]).to_pydict() == {"id": IDS[:3], "source": [None] * 3}


def test_stored_features_without_their_pool_have_no_sources(stored: StoredTiles) -> None:
    alone = StoredTiles(store=stored.store, units=stored.units)
    with pytest.raises(SelectionError, match="without the pool"):
        alone.read(0, ["source"])


@pytest.mark.parametrize("group", [7, 100])
def test_a_parquet_file_has_its_own_sources(tmp_path: Path, group: int) -> None:
    path = tmp_path / "features.parquet"
    table = features_of(list(range(ROWS)))
    pq.write_table(table, path, row_group_size=group)
    with pytest.raises(SelectionError, match="without a column source"):
        ParquetTiles.open(str(path)).read(0, ["source"])
    pq.write_table(table.add_column(0, "source", pa.array(SOURCES)), path, row_group_size=group)
    tiles = ParquetTiles.open(str(path))
    found = tiles.read(0, ["source"])
    assert found["source"].to_pylist() == SOURCES
    assert found.drop_columns(["source"]).equals(tiles.read(0))


@pytest.mark.ray
@pytest.mark.slow
def test_shares_over_actors_are_those_of_a_single_process(stored: StoredTiles, ray_session: Session) -> None:
    tables = [stored.read(tile, ["source"]) for tile in range(stored.count())]
    tiles = [
        Tile(
            index=index,
            ids=table["id"].to_pylist(),
            features_ND=torch.from_numpy(matrix_of(table)),
            sources=table["source"].to_pylist(),
        )
        for index, table in enumerate(tables)
    ]
    bounds = {"book": (0.5, 0.75), "(none)": (0.0, 0.125)}
    params = EvoSelectParams(k=K, lam=0.3, r=0.5, steps=6, shares=Shares(bounds=bounds))
    goal = Goal(align_MD=Y.astype(np.float32), validate_MD=None)
    local = evoselect(LocalShards.of_tiles(tiles), goal.align_MD, None, None, params)
    for shards in (1, 3):
        config = SelectionConfig(k=K, lam=0.3, r=0.5, steps=6, shares=bounds, shards=shards)
        choice = choose(stored, goal, config, 0, ray_session, lambda _done, _total: None)
        assert choice.picks == local.picks
        assert choice.facts["shares"]["book"] == (0.5, 0.75)
    source_of = dict(zip(IDS, SOURCES, strict=True))
    picked = [source_of[pick.id] for pick in local.picks]
    assert 4 <= picked.count("book") <= 6 and picked.count(None) <= 1
