"""Columns of any Arrow type as ones that Arrow's kernels work on and Parquet holds.

Views of strings and run-end encoded columns are one layout of plain columns: they become these. What has no plain
layout (unions, intervals, structs without fields, bottomless nesting) is kept as JSON text, as cells of several kinds
in a JSONL file are.
"""

from __future__ import annotations

import json

import pyarrow as pa

#: Metadata of a column of JSON text.
JSON_TEXT = {b"evoray": b"json"}
_DEPTH = 8  # Parquet readers refuse deeper schemas; JSON text holds them as well


def plain(table: pa.Table) -> pa.Table:
    """The table with plain columns alone.

    Raises ValueError, OverflowError or pyarrow.ArrowException for cells of an odd layout that Python cannot hold, and
    for text that is none.
    """
    for place, field in enumerate(table.schema):
        kind = _plain(field.type)
        if not storable(kind):
            column, metadata = _json_text(table.column(place)), JSON_TEXT
        elif kind != field.type:
            column, metadata = _cast(table.column(place), kind), None
        else:
            continue
        table = table.set_column(place, pa.field(field.name, column.type, metadata=metadata), column)
    return table


def storable(kind: pa.DataType, depth: int = _DEPTH) -> bool:
    """Whether Parquet can hold the type: no union, no interval, no struct without fields, no bottomless nesting."""
    if kind.num_fields == 0:
        return not (pa.types.is_struct(kind) or pa.types.is_interval(kind))
    if pa.types.is_union(kind) or pa.types.is_run_end_encoded(kind):
        return False
    return depth > 0 and all(storable(kind.field(index).type, depth - 1) for index in range(kind.num_fields))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the same cells in a plain layout."""
    is_a, found = pa.types, kind
    if is_a.is_run_end_encoded(kind) or (is_a.is_dictionary(kind) and not _is_flat(kind.value_type)):
        found = _plain(kind.value_type)
    elif is_a.is_string_view(kind):
        found = pa.string()
    elif is_a.is_binary_view(kind):
        found = pa.binary()
    elif is_a.is_struct(kind):
        found = pa.struct([_plain_field(kind.field(index)) for index in range(kind.num_fields)])
    elif is_a.is_map(kind):
        found = pa.map_(_plain(kind.key_type), _plain_field(kind.item_field))
    elif is_a.is_fixed_size_list(kind):
        found = pa.list_(_plain_field(kind.value_field), kind.list_size)
    elif is_a.is_list(kind) or (is_a.is_list_view(kind) and _plain(kind.value_type) != kind.value_type):
        found = pa.list_(_plain_field(kind.value_field))
    elif is_a.is_large_list(kind) or (is_a.is_large_list_view(kind) and _plain(kind.value_type) != kind.value_type):
        found = pa.large_list(_plain_field(kind.value_field))
    return found


def _is_flat(kind: pa.DataType) -> bool:
    """Whether a dictionary of it is one that Parquet and the kernels take."""
    return bool(kind.num_fields == 0) and _plain(kind) == kind


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain(field.type))


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        return column.cast(kind)
    # Arrow casts and decodes few of the others: cell by cell is slow, and they are rare.
    return pa.chunked_array([pa.array(column.to_pylist(), kind)])


def _json_text(column: pa.ChunkedArray) -> pa.Array:
    cells = column.to_pylist()
    return pa.array([None if cell is None else json.dumps(cell, default=str) for cell in cells], pa.string())
