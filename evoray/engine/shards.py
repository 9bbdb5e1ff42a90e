"""Where the solver's tiles come from: committed units of features, rows of a pool, or any Parquet file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evoray.engine.workers import PoolRows
from evoray.errors import SelectionError
from evoray.pool.files import open_native
from evoray.storage import UnitStore

#: Rows of one tile of an external Parquet file. Fixed: results depend on where tiles begin.
_EXTERNAL_TILE_ROWS = 4096
#: Stored units of one tile at most; and tiles that a pool has at least before units are put together.
_LARGEST_GROUP = 64
#: What a feature store has of each row beside its feature; all else is the pool's.
_STORED = {"tokens", "norm"}
_KINDS = {"source": pa.string(), "quality": pa.float64(), "tokens": pa.int64(), "norm": pa.float64()}


class TileSource(Protocol):
    """Where tiles come from; picklable, so that every shard reads its own."""

    def count(self) -> int:
        """Tiles in all."""

    def identity(self) -> str:
        """What the tiles hold, in words: equal where they are the same."""

    def read(self, tile: int, extra: Sequence[str] = ()) -> pa.Table:
        """Columns `id` and `feature` of one tile (no `feature` where no selector needs it), and what else is asked for.

        extra: source (text or null), quality (float or null), tokens, norm (of the features before they were scaled).
        Raises SelectionError where one of them is not known here.
        """


@dataclass(frozen=True, kw_only=True)
class StoredTiles:
    """The committed feature units of a store, one tile each."""

    store: UnitStore
    units: tuple[int, ...]
    rows: PoolRows | None = None  # of the same units: they know the sources

    def count(self) -> int:
        """Tiles in all."""
        return len(self.units)

    def identity(self) -> str:
        """The store, which is named by its content, and its units."""
        return f"{self.store.prefix}:{','.join(map(str, self.units))}"

    def read(self, tile: int, extra: Sequence[str] = ()) -> pa.Table:
        """One unit's ids, features, tokens and norms, and what the unit of the pool has for these ids."""
        own = [name for name in extra if name in _STORED]
        table = self.store.read(self.store.find(self.units[tile]), ["id", "feature", *own])
        others = [name for name in extra if name not in _STORED]
        if not others:
            return table
        if self.rows is None:
            raise SelectionError(
                f"{' and '.join(others)} of each row, and stored features without the pool that they are of",
                "features of a pool that is read in the same call",
                f"give the pool, or features as a Parquet file with a column {others[0]}",
            )
        rows = self.rows.table(self.units[tile])
        place = pc.index_in(table["id"], value_set=rows["id"].combine_chunks())
        for name in others:
            table = table.append_column(name, _column_of(rows, name).take(place))
        return table


@dataclass(frozen=True, kw_only=True)
class PoolTiles:
    """The usable rows of a pool without features: for selectors that need none."""

    rows: PoolRows
    units: tuple[int, ...]

    def count(self) -> int:
        """Tiles in all."""
        return len(self.units)

    def identity(self) -> str:
        """The pool, which is named by its content, and its units."""
        return f"{self.rows.store.prefix}:{','.join(map(str, self.units))}"

    def read(self, tile: int, extra: Sequence[str] = ()) -> pa.Table:
        """One unit's ids, and what the pool has for them."""
        rows = self.rows.table(self.units[tile])
        table = rows.select(["id"])
        for name in extra:
            if name in _STORED:
                raise SelectionError(
                    f"{name} of each row, and rows of a pool without features",
                    "features, which come with it",
                    "give a model, or set selection.k in rows",
                )
            table = table.append_column(name, _column_of(rows, name))
        return table


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

    def identity(self) -> str:
        """The path, with what changes when the file does: its footer."""
        with open_native(self.path) as stream:
            footer = pq.ParquetFile(stream).metadata
            return f"{self.path}:{footer.num_rows}:{hashlib.sha256(str(footer.to_dict()).encode()).hexdigest()}"

    def read(self, tile: int, extra: Sequence[str] = ()) -> pa.Table:
        """Rows [tile * height, (tile + 1) * height) of the file."""
        table = self._read(tile, ["id", "feature", *extra])
        missing = [name for name in extra if name not in table.column_names and name != "norm"]
        if missing:
            raise SelectionError(
                f"{missing[0]} of each row, and features {self.path} without a column {missing[0]}",
                f"the {missing[0]} of each row beside its feature",
                f"add a column {missing[0]} to the file, or change what asks for it",
            )
        for name in extra:
            if name in table.column_names:
                place = table.column_names.index(name)
                table = table.set_column(place, name, table[name].cast(_KINDS[name]))
        return table

    def _read(self, tile: int, columns: list[str]) -> pa.Table:
        """Some columns of one tile; only the row groups that hold its rows are read."""
        start = tile * _EXTERNAL_TILE_ROWS
        stop = min(start + _EXTERNAL_TILE_ROWS, self.rows)
        pieces, first = [], 0
        with open_native(self.path) as stream:
            file = pq.ParquetFile(stream)
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if first < stop and first + rows > start:
                    table = file.read_row_group(group, columns=columns)
                    pieces.append(table.slice(max(start - first, 0), stop - max(start, first)))
                first += rows
        table = pa.concat_tables(pieces).select([name for name in columns if name in pieces[0].column_names])
        return table.set_column(0, "id", table["id"].cast(pa.string()))


@dataclass(frozen=True, kw_only=True)
class GroupedTiles:
    """Consecutive tiles taken together: a pass costs a little for each tile, however few its rows.

    The size depends on the number of stored units alone, and so do results.
    """

    tiles: TileSource
    size: int

    @classmethod
    def of(cls, tiles: TileSource) -> TileSource:
        """Stored units in groups, where they are many; other sources as they are."""
        size = units_per_tile(tiles.count()) if isinstance(tiles, StoredTiles | PoolTiles) else 1
        return cls(tiles=tiles, size=size) if size > 1 else tiles

    def count(self) -> int:
        """Groups."""
        return -(-self.tiles.count() // self.size)

    def identity(self) -> str:
        """That of the tiles."""
        return self.tiles.identity()

    def read(self, tile: int, extra: Sequence[str] = ()) -> pa.Table:
        """The rows of one group, in order."""
        return pa.concat_tables(self.tiles.read(member, extra) for member in self._members(tile))

    def _members(self, tile: int) -> range:
        return range(tile * self.size, min((tile + 1) * self.size, self.tiles.count()))


def units_per_tile(units: int) -> int:
    """Stored units that make one tile of the solver: 1 for small pools, up to 64 for large ones."""
    return max(1, min(_LARGEST_GROUP, units // _LARGEST_GROUP))


def units_of(units: Sequence[int], tiles: Iterable[int]) -> list[int]:
    """The stored units that some tiles of the solver are made of."""
    size = units_per_tile(len(units))
    return [unit for tile in sorted(set(tiles)) for unit in units[tile * size : (tile + 1) * size]]


def _column_of(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of a pool's unit; nulls where the pool has none."""
    if name in table.column_names:
        return table[name].cast(_KINDS[name])
    return pa.chunked_array([pa.nulls(table.num_rows, _KINDS[name])])


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def matrix_of(table: pa.Table, unit_rows: bool = True) -> npt.NDArray[np.float32]:
    """The `feature` column as float32 [n, D], scaled to unit rows, or to the rows' own `norm` where it is there.

    Raises SelectionError for rows of different lengths, non-finite ones, and unit rows without a direction.
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
    bad_N = ~np.isfinite(norm_N) | (unit_rows & (norm_N == 0))
    if bad_N.any():
        bad = table["id"][int(np.flatnonzero(bad_N)[0])]
        raise SelectionError(
            f"a zero or non-finite feature (id {bad})", "features with a direction", "leave such rows out"
        )
    if unit_rows:
        scaled_ND = features_ND / norm_N[:, None]
    elif "norm" in table.column_names:
        scaled_ND = features_ND * table["norm"].to_numpy().astype(np.float64)[:, None]
    else:
        scaled_ND = features_ND
    found_ND: npt.NDArray[np.float32] = scaled_ND.astype(np.float32)
    return found_ND


def _dim_of(kind: pa.DataType) -> int:
    """Length of each list of a type, where the type fixes it: a tile of no rows has a dimension all the same."""
    return kind.list_size if pa.types.is_fixed_size_list(kind) else 0
