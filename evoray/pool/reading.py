"""Reading the raw rows of one unit. What is not a row at all is put aside with its reason, not raised.

Columns of JSONL get the type that their cells share. A column whose cells do not share one that a table
can hold is kept as JSON text and marked so (`cells` reads it back): what becomes of a row must not depend
on which other rows happen to share its unit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from evoray.errors import PoolError
from evoray.pool.files import open_bytes, open_native, readable
from evoray.pool.lines import LINE_LIMIT, csv_header, csv_records, json_lines
from evoray.pool.parquet import ParquetReader
from evoray.pool.plain import JSON_TEXT, plain, storable
from evoray.pool.planning import arrow_batches
from evoray.records import Quarantined, UnitSpan

#: int64 column of the raw table: 0-based position of the row in its file.
ROW_COLUMN = "__row"

_JSON_DEPTH = 64
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_span(span: UnitSpan, parquet: ParquetReader | None = None) -> tuple[pa.Table, list[Quarantined]]:
    """The rows of one span with all their columns and ROW_COLUMN, and those that are no rows.

    parquet: of who reads several spans, whose last one it may go on from.

    Reasons of stage "read": "not valid JSON", "not an object", "not valid CSV", "wrong number of fields",
    "not valid text", "too long". Table rows and quarantined ones add up to `span.rows`. Raises PoolError where the file
    cannot be read or no longer has these rows.
    """
    readers = {"arrow": _read_arrow, "jsonl": _read_jsonl, "csv": _read_csv}
    if span.format not in (*readers, "parquet"):
        raise PoolError(f"format {span.format!r}", f"parquet, {', '.join(readers)}", "plan the pool again")
    with readable(span.file):
        if span.format == "parquet":
            table, refused = _checked((parquet or ParquetReader()).rows(span.file, span.start, span.rows), span)
        else:
            table, refused = readers[span.format](span)
    if table.num_rows + len(refused) != span.rows:
        raise PoolError(
            f"{span.file}: {table.num_rows + len(refused)} rows from row {span.start} on",
            f"{span.rows} rows, as when the pool was planned",
            "the file has changed since: start a new run with it, or restore the old one",
        )
    return table, refused


def cells(table: pa.Table, name: str) -> list[Any]:
    """One column of a raw table as Python values, columns kept as JSON text decoded. Raises KeyError."""
    values: list[Any] = table.column(name).to_pylist()
    if is_json_text(table.schema.field(name)):
        return [None if value is None else json.loads(value) for value in values]
    return values


def is_json_text(field: pa.Field) -> bool:
    """Whether a raw column holds JSON text because its cells are of several kinds."""
    return dict(field.metadata or {}).get(b"evoray") == b"json"


def columns_from_rows(rows: list[dict[str, Any]]) -> pa.Table:
    """A raw table of the union of the rows' keys in order of first sight; absent cells are null."""
    names = dict.fromkeys(name for row in rows for name in row)
    fields, arrays = [], []
    for name in names:
        values = [row.get(name) for row in rows]
        array = _typed(values)
        metadata = None
        if array is None:
            array = pa.array([None if value is None else json.dumps(value) for value in values], pa.string())
            metadata = JSON_TEXT
        fields.append(pa.field(name, array.type, metadata=metadata))
        arrays.append(array)
    return pa.table(arrays, schema=pa.schema(fields))


def _typed(values: list[Any]) -> pa.Array | None:
    try:
        array = pa.array(values)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return None
    # Arrow would turn a truth value among fractions into 1.0, however deep it lies.
    if not storable(array.type) or (_has_fractions(array.type) and not _keeps_truth(values, array.to_pylist())):
        return None
    return array


def _has_fractions(kind: pa.DataType) -> bool:
    fields = [kind.field(place) for place in range(kind.num_fields)]
    return bool(pa.types.is_floating(kind)) or any(_has_fractions(field.type) for field in fields)


def _keeps_truth(value: Any, held: Any) -> bool:
    """Whether every truth value of some cells is one in what Arrow made of them."""
    if isinstance(value, dict):
        return all(_keeps_truth(part, held[name]) for name, part in value.items())
    if isinstance(value, list):
        return all(_keeps_truth(*pair) for pair in zip(value, held, strict=True))
    return isinstance(held, bool) or not isinstance(value, bool)


def _refuse(span: UnitSpan, row: int, reason: str, detail: str) -> Quarantined:
    name = f"{PurePosixPath(span.file).name}:{row}"
    return Quarantined(id=name, stage="read", reason=reason, detail=detail, file=span.file, row=row)


def _read_jsonl(span: UnitSpan) -> tuple[pa.Table, list[Quarantined]]:
    rows: list[dict[str, Any]] = []
    refused: list[Quarantined] = []
    with open_bytes(span.file) as stream:
        for row, (_, line) in enumerate(islice(json_lines(stream, span.offset), span.rows), span.start):
            value = _parse_json(line) if len(line) <= LINE_LIMIT else ("too long", f"more than {LINE_LIMIT >> 20} MiB")
            if isinstance(value, dict):
                rows.append({**value, ROW_COLUMN: row})
            else:
                refused.append(_refuse(span, row, *value))
    return columns_from_rows(rows) if rows else pa.table({ROW_COLUMN: pa.array([], pa.int64())}), refused


def _parse_json(line: bytes) -> dict[str, Any] | tuple[str, str]:
    """The object of one line, or (reason, detail)."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return "not valid text", f"not UTF-8: {error}"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return "not valid JSON", f"{error}; begins with {text[:60].strip()!r}"
    if not isinstance(value, dict):
        return "not an object", f"a JSON {type(value).__name__}"
    if text.count("[") + text.count("{") > _JSON_DEPTH and _depth(value) > _JSON_DEPTH:
        return "not valid JSON", f"nested deeper than {_JSON_DEPTH} levels"
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            return "not valid text", f"lone surrogate: {error.reason}"
    return value


def _depth(value: Any) -> int:
    depth, layer = 0, [value]
    while layer:
        depth += 1
        inner = (item.values() if isinstance(item, dict) else item for item in layer)
        layer = [child for children in inner for child in children if isinstance(child, dict | list)]
    return depth


def _read_csv(span: UnitSpan) -> tuple[pa.Table, list[Quarantined]]:
    rows: list[list[str]] = []
    places: list[int] = []
    refused: list[Quarantined] = []
    with open_bytes(span.file) as stream:
        names = csv_header(csv_records(stream, span.file), span.file) or []
        records = csv_records(stream, span.file, span.offset)
        for row, (_, record) in enumerate(islice(records, span.rows), span.start):
            if isinstance(record, str):
                refused.append(_refuse(span, row, "not valid CSV", record))
            elif len(record) != len(names):
                detail = f"{len(record)} fields under {len(names)} column names"
                refused.append(_refuse(span, row, "wrong number of fields", detail))
            elif any("\udc80" <= character <= "\udcff" for cell in record for character in _odd(cell)):
                refused.append(_refuse(span, row, "not valid text", "bytes that are not UTF-8"))
            else:
                rows.append(record)
                places.append(row)
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    arrays = {name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True)}
    return pa.table({**arrays, ROW_COLUMN: pa.array(places, pa.int64())}), refused


def _odd(cell: str) -> str:
    """What may hold an undecodable byte: nothing of an ASCII cell, which is the common case."""
    return "" if cell.isascii() else cell


def _read_arrow(span: UnitSpan) -> tuple[pa.Table, list[Quarantined]]:
    with open_native(span.file, mmap=True) as source:
        table = _slice(arrow_batches(source), span.start, span.rows)
        return _checked(table, span)


def _slice(batches: Iterable[pa.RecordBatch], skip: int, rows: int) -> pa.Table:
    """Rows [skip, skip + rows) of a stream of batches, reading no further than that."""
    taken = []
    for batch in batches:
        piece = batch.slice(min(skip, batch.num_rows), rows)
        skip -= min(skip, batch.num_rows)
        if piece.num_rows:
            taken.append(piece)
            rows -= piece.num_rows
        if rows == 0:
            break
    return pa.Table.from_batches(taken) if taken else pa.table({})


def _checked(table: pa.Table, span: UnitSpan) -> tuple[pa.Table, list[Quarantined]]:
    """Number the rows and put aside those with a string that is not UTF-8, which no later stage could read."""
    names = table.column_names
    if len(set(names)) < len(names):
        raise PoolError(f"{span.file}: columns {names}", "distinct column names", "rename or drop the repeated ones")
    table = pa.table(table.columns, schema=pa.schema([field.remove_metadata() for field in table.schema]))
    try:
        table = plain(table)
    except (ValueError, OverflowError, pa.ArrowException) as error:
        received = f"{span.file}: a column of an odd layout with cells that cannot be read: {error}"
        raise PoolError(received, "text in UTF-8, and times within Python's", "write it in plain columns") from error
    if ROW_COLUMN in names:
        table = table.drop_columns([ROW_COLUMN])
    places = pa.array(range(span.start, span.start + table.num_rows), pa.int64())
    broken: dict[int, str] = {}
    for place, name in enumerate(table.column_names):
        if _is_valid(table.column(name)):
            continue
        if pa.types.is_dictionary(table.schema.field(name).type):
            # The dictionary of the whole file may hold a broken text that no row of this unit has.
            table = table.set_column(place, name, pc.dictionary_decode(table.column(name)))
        if not _is_valid(table.column(name)):
            broken.update(_undecodable(table, name, span))
    table = table.append_column(ROW_COLUMN, places)
    refused = [_refuse(span, span.start + row, "not valid text", broken[row]) for row in sorted(broken)]
    if broken:
        keep = pc.invert(pc.is_in(places, pa.array([span.start + row for row in broken], pa.int64())))
        table = table.filter(keep)
    return table, refused


def _is_valid(column: pa.ChunkedArray) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _undecodable(table: pa.Table, name: str, span: UnitSpan) -> dict[int, str]:
    found = {}
    for row, scalar in enumerate(table.column(name)):
        try:
            scalar.as_py()
        except UnicodeDecodeError as error:
            found[row] = f"column {name}: {error.reason}"
    if not found:
        raise PoolError(f"{span.file}: column {name} is damaged", "a readable file", "write the file again")
    return found
