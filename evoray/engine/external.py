"""Features from elsewhere: a feature store of ours, or any Parquet file with columns id and feature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evoray.engine.shards import ParquetTiles, StoredTiles, TileSource, matrix_of
from evoray.errors import SelectionError
from evoray.storage import Storage, UnitStore


def open_features(path: str) -> StoredTiles | ParquetTiles:
    """Tiles of a feature store's folder or of a Parquet file. Raises SelectionError where it is neither."""
    is_bucket = "://" in path
    if not is_bucket and not Path(path).exists():
        raise SelectionError(f"no features at {path}", "a feature store or a Parquet file", "check the path")
    if path.endswith(".parquet") or (not is_bucket and Path(path).is_file()):
        return ParquetTiles.open(path if is_bucket else str(Path(path).absolute()))
    parent, _, name = Storage(path).uri.rpartition("/")
    store = UnitStore(Storage(parent), name)
    units = tuple(store.committed())
    if not units:
        raise SelectionError(
            f"{path} without committed units", "the folder of a feature store", "give .../features/<fingerprint>"
        )
    return StoredTiles(store=store, units=units)


def read_all(source: TileSource) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Ids and unit rows [M, D] of all tiles: for targets, which are small."""
    table = pa.concat_tables([source.read(tile) for tile in range(source.count())])
    return table["id"].to_pylist(), matrix_of(table)
