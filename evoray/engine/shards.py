"""Solver shards as Ray actors: each reads its own feature units from storage and answers by method name."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from evoray.alignment.reduction import Array, merge
from evoray.engine.remote import fetch
from evoray.engine.session import Session
from evoray.engine.workers import PoolRows
from evoray.errors import SelectionError
from evoray.pool.files import open_native
from evoray.selection.protocol import split_tiles
from evoray.storage import UnitStore

#: Rows of one tile of an external Parquet file. Fixed: results depend on where tiles begin.
_EXTERNAL_TILE_ROWS = 4096
_INLINE_BYTES = 64 * 1024


class TileSource(Protocol):
    """Where tiles come from; picklable, so that every shard reads its own."""

    def count(self) -> int:
        """Tiles in all."""

    def read(self, tile: int) -> pa.Table:
        """Columns `id` and `feature` of one tile; no `feature` column where no selector needs it."""


@dataclass(frozen=True, kw_only=True)
class StoredTiles:
    """The committed feature units of a store, one tile each."""

    store: UnitStore
    units: tuple[int, ...]

    def count(self) -> int:
        """Tiles in all."""
        return len(self.units)

    def read(self, tile: int) -> pa.Table:
        """One unit's ids and features."""
        return self.store.read(self.store.find(self.units[tile]), ["id", "feature"])


@dataclass(frozen=True, kw_only=True)
class PoolTiles:
    """The usable rows of a pool without features: for selectors that need none."""

    rows: PoolRows
    units: tuple[int, ...]

    def count(self) -> int:
        """Tiles in all."""
        return len(self.units)

    def read(self, tile: int) -> pa.Table:
        """One unit's ids."""
        return self.rows.table(self.units[tile]).select(["id"])


@dataclass(frozen=True, kw_only=True)
class ParquetTiles:
    """Any Parquet file with columns `id` and `feature`, cut into tiles of a fixed number of rows."""

    path: str
    rows: int

    @classmethod
    def open(cls, path: str) -> ParquetTiles:
        """Check the file's columns. Raises SelectionError where it cannot be used."""
        try:
            with open_native(path) as stream:
                file = pq.ParquetFile(stream)
                kinds, rows = {field.name: field.type for field in file.schema_arrow}, file.metadata.num_rows
        except (OSError, pa.ArrowInvalid) as error:
            raise SelectionError(
                f"features {path}: {error}", "a Parquet file with columns id and feature", "check the path"
            ) from error
        if not {"id", "feature"} <= set(kinds) or rows == 0:
            raise SelectionError(
                f"features {path} with columns {', '.join(sorted(kinds))} and {rows} rows",
                "columns id and feature, at least one row",
                "write one row a sample: its id, and its feature as a list of floats",
            )
        if not _is_list(kinds["feature"]):
            raise SelectionError(
                f"features {path} with a column feature of type {kinds['feature']}",
                "a list of floats in every row",
                "write one row a sample: its id, and its feature as a list of floats",
            )
        return cls(path=path, rows=rows)

    def count(self) -> int:
        """Tiles in all."""
        return -(-self.rows // _EXTERNAL_TILE_ROWS)

    def read(self, tile: int) -> pa.Table:
        """Rows [tile * height, (tile + 1) * height) of the file; only the row groups that hold them are read."""
        start = tile * _EXTERNAL_TILE_ROWS
        stop = min(start + _EXTERNAL_TILE_ROWS, self.rows)
        pieces, first = [], 0
        with open_native(self.path) as stream:
            file = pq.ParquetFile(stream)
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if first < stop and first + rows > start:
                    table = file.read_row_group(group, columns=["id", "feature"])
                    pieces.append(table.slice(max(start - first, 0), stop - max(start, first)))
                first += rows
        table = pa.concat_tables(pieces)
        return pa.table({"id": table["id"].cast(pa.string()), "feature": table["feature"]})


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def matrix_of(table: pa.Table) -> npt.NDArray[np.float32]:
    """The `feature` column as float32 [n, D] with unit rows.

    Raises SelectionError for rows of different lengths or without a direction (zero or non-finite).
    """
    column = table["feature"].combine_chunks()
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    values = np.asarray(column.flatten(), dtype=np.float32)
    if lengths and (len(lengths) > 1 or not lengths[0]):
        raise SelectionError(
            f"features of {' and '.join(map(str, lengths[:3]))} values",
            "features of one length in every row",
            "write the features again",
        )
    features_ND = values.reshape(table.num_rows, lengths[0] if lengths else _dim_of(column.type))
    norm_N = np.linalg.norm(features_ND.astype(np.float64), axis=1)
    if not np.isfinite(norm_N).all() or (norm_N == 0).any():
        bad = table["id"][int(np.flatnonzero(~np.isfinite(norm_N) | (norm_N == 0))[0])]
        raise SelectionError(
            f"a zero or non-finite feature (id {bad})", "features with a direction", "leave such rows out"
        )
    unit_ND: npt.NDArray[np.float32] = (features_ND / norm_N[:, None]).astype(np.float32)
    return unit_ND


def _dim_of(kind: pa.DataType) -> int:
    """Length of each list of a type, where the type fixes it: a tile of no rows has a dimension all the same."""
    return kind.list_size if pa.types.is_fixed_size_list(kind) else 0


class _ShardActor:
    """Holds one `Shard`; the solver names its methods."""

    def __init__(
        self, source: TileSource, tiles: Sequence[int], n_tiles: int, excluded: Collection[str], threads: int
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.source, self.tiles, self.n_tiles, self.excluded = source, tiles, n_tiles, excluded

    def load(self) -> int:
        """Read the tiles; their rows. No part of the construction: of that, Ray reports failures as text alone."""
        import torch

        from evoray.selection.shard import Shard, Tile

        loaded = []
        for index in self.tiles:
            table = self.source.read(index)
            has_features = "feature" in table.column_names
            features = matrix_of(table) if has_features else np.ones((table.num_rows, 1), np.float32)
            loaded.append(Tile(index=index, ids=table["id"].to_pylist(), features_ND=torch.from_numpy(features)))
        self.shard = Shard(loaded, self.n_tiles, self.excluded)
        count: int = self.shard.n_rows
        return count

    def run(self, method: str, args: tuple[Any, ...]) -> Any:
        return getattr(self.shard, method)(*args)


class RayShards:
    """The `Shards` protocol over actors: one call and one merge of small arrays an operation."""

    def __init__(self, actors: Sequence[Any], n_tiles: int) -> None:
        self._actors = list(actors)
        self._n_tiles = n_tiles
        self._n_rows: int = sum(fetch([actor.load.remote() for actor in self._actors]))

    @property
    def n_rows(self) -> int:
        """Rows of all tiles, excluded ones too."""
        return self._n_rows

    @property
    def n_tiles(self) -> int:
        """Tiles of the pool, over all shards."""
        return self._n_tiles

    def call(self, method: str, *args: Any) -> list[Any]:
        """Run a method of `Shard` on every actor; the results in shard order."""
        # Small arguments travel with the call; large ones are stored once for all actors.
        size = sum(getattr(argument, "nbytes", 0) for argument in args)
        shared = ray.put(args) if size > _INLINE_BYTES else args
        results: list[Any] = fetch([actor.run.remote(method, shared) for actor in self._actors])
        return results

    def reduce(self, method: str, *args: Any) -> tuple[Array, ...]:
        """Run a method that returns Partials on every actor and merge them over the fixed tree."""
        return merge(self.call(method, *args), self._n_tiles)


@contextlib.contextmanager
def ray_shards(
    source: TileSource, excluded: Collection[str], count: int | None, session: Session
) -> Iterator[RayShards]:
    """Actors that hold all tiles of a source, ended with the block."""
    n_tiles = source.count()
    spans = split_tiles(n_tiles, count or max(2, session.workers))
    actor = ray.remote(num_cpus=1)(_ShardActor)
    actors = [actor.remote(source, list(span), n_tiles, frozenset(excluded), session.threads) for span in spans]
    try:
        yield RayShards(actors, n_tiles)
    finally:
        for handle in actors:
            ray.kill(handle)
