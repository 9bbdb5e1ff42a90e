"""From raw rows of any accepted layout to normalised ones with a stable id; what is unusable goes to quarantine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from evoray.pool.layouts import (
    LAYOUT_COLUMNS,
    OPTIONAL_COLUMNS,
    Extras,
    UnusableRowError,
    extras_of,
    from_csv,
    layout_of,
    messages_of,
    row_layout,
)
from evoray.pool.reading import ROW_COLUMN, cells, is_json_text
from evoray.records import (
    HASH_COLUMN,
    MESSAGES_COLUMN,
    MESSAGES_TYPE,
    QUARANTINE_SCHEMA,
    Message,
    Quarantined,
    Row,
    UnitSpan,
)

_OPTIONAL_TYPES = {
    "id": pa.string(),
    "source": pa.string(),
    "subtask": pa.string(),
    "choices": pa.list_(pa.string()),
    "answer": pa.string(),
    "quality": pa.float64(),
    "weight": pa.float64(),
}
_ID_DIGITS = 16

#: Characters of one row; longer ones are quarantined.
MAX_CHARS = 1_000_000


def normalise(raw: pa.Table, span: UnitSpan, max_chars: int = MAX_CHARS) -> tuple[pa.Table, list[Quarantined]]:
    """The usable rows of a raw unit table, and the others with their reasons (stage "normalise").

    A table with conversations in MESSAGES_COLUMN, as chosen rows are written, is read by these.
    The result has the user's columns (less ROW_COLUMN and names that begin with `evoray_`), `id` (the one
    given, as text, or the first 16 hex digits of the content hash), MESSAGES_COLUMN and HASH_COLUMN. The
    optional columns evoray understands get one type each, so that units of different formats agree.
    `max_chars` bounds the characters of all turns of a row together.
    Raises PoolError where the columns fit no accepted layout.
    """
    layout = _table_layout(raw, span)
    wanted = [name for name in (*LAYOUT_COLUMNS, *OPTIONAL_COLUMNS, *(layout or ())) if name in raw.column_names]
    wanted = list(dict.fromkeys(wanted))
    columns = [cells(raw, name) for name in wanted]
    keep: list[int] = []
    kept: list[tuple[list[Message], Extras]] = []
    refused: list[Quarantined] = []
    places = raw.column(ROW_COLUMN).to_pylist()
    for index, place in enumerate(places):
        row = {name: column[index] for name, column in zip(wanted, columns, strict=True)}
        try:
            kept.append(_usable(row, layout, span.format, max_chars))
        except UnusableRowError as error:
            refused.append(_refuse(row, place, span, error))
        else:
            keep.append(index)
    return _assemble(raw, keep, kept), refused


def content_hash(messages: Iterable[Message]) -> str:
    """SHA-256 of roles and contents, its first 32 hex digits: equal conversations have equal hashes."""
    turns = [[message.role, message.content] for message in messages]
    return hashlib.sha256(json.dumps(turns, ensure_ascii=False).encode()).hexdigest()[:32]


def rows_from_table(table: pa.Table) -> list[Row]:
    """Records of a normalised unit table, in its order. Optional columns may be absent."""
    names = [name for name in OPTIONAL_COLUMNS if name in table.column_names]
    picked = table.select([*names, MESSAGES_COLUMN]).to_pylist()
    return [
        Row(
            id=row["id"],
            messages=tuple(Message(turn["role"], turn["content"]) for turn in row[MESSAGES_COLUMN]),
            source=row.get("source"),
            choices=None if row.get("choices") is None else tuple(row["choices"]),
            answer=row.get("answer"),
            quality=row.get("quality"),
            weight=1.0 if row.get("weight") is None else row["weight"],
            subtask=row.get("subtask"),
        )
        for row in picked
    ]


def write_quarantine_table(refused: Sequence[Quarantined]) -> pa.Table:
    """Quarantine records as a table of QUARANTINE_SCHEMA, in the order given."""
    return pa.Table.from_pylist([asdict(record) for record in refused], schema=QUARANTINE_SCHEMA)


def _table_layout(raw: pa.Table, span: UnitSpan) -> tuple[str, ...] | None:
    """The layout of all rows, or None where each row is to be judged by its own cells (JSONL).

    A unit of JSONL sees only the keys that its own rows have, so only the first unit speaks for its file.
    """
    if raw.num_rows == 0:
        return None
    if span.format != "jsonl":
        if _holds_conversations(raw.schema):
            return (MESSAGES_COLUMN,)
        return layout_of(raw.column_names, span.file)
    if span.start == 0:
        layout_of(raw.column_names, span.file)
    return None


def _usable(
    row: dict[str, Any], layout: tuple[str, ...] | None, kind: str, max_chars: int
) -> tuple[list[Message], Extras]:
    if kind == "csv":
        row = from_csv(row)
    messages = messages_of(row, layout or row_layout(row))
    if layout == (MESSAGES_COLUMN,) and _told_by_columns(row) not in (None, messages):
        raise UnusableRowError("edited", f"its columns say another thing than {MESSAGES_COLUMN}: leave that column out")
    length = sum(len(message.content) for message in messages)
    if length > max_chars:
        raise UnusableRowError("too long", f"{length} characters, at most {max_chars}")
    return messages, extras_of(row)


def _holds_conversations(schema: pa.Schema) -> bool:
    """Whether MESSAGES_COLUMN is evoray's own: a user's column of that name could be anything."""
    if MESSAGES_COLUMN not in schema.names:
        return False
    kind = schema.field(MESSAGES_COLUMN).type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return (
        is_list and pa.types.is_struct(kind.value_type) and {"role", "content"} <= {one.name for one in kind.value_type}
    )


def _told_by_columns(row: dict[str, Any]) -> list[Message] | None:
    """The conversation of a row by the user's columns alone; None where they make up none."""
    try:
        return messages_of(row, row_layout(row))
    except UnusableRowError:
        return None


def _refuse(row: dict[str, Any], place: int, span: UnitSpan, error: UnusableRowError) -> Quarantined:
    given = row.get("id")
    is_plain = isinstance(given, str | int) and not isinstance(given, bool) and given != ""
    return Quarantined(
        id=str(given) if is_plain else f"{PurePosixPath(span.file).name}:{place}",
        stage="normalise",
        reason=error.reason,
        detail=error.detail,
        file=span.file,
        row=place,
    )


def _assemble(raw: pa.Table, keep: list[int], kept: list[tuple[list[Message], Extras]]) -> pa.Table:
    carried = [name for name in raw.column_names if name != ROW_COLUMN and not name.startswith("evoray_")]
    table = raw.select(carried).take(pa.array(keep, pa.int64()))
    hashes = [content_hash(messages) for messages, _ in kept]
    extras = [extra for _, extra in kept]
    columns = {}
    for name in carried:
        if name in _OPTIONAL_TYPES:
            columns[name] = pa.array([getattr(extra, name) for extra in extras], _OPTIONAL_TYPES[name])
        elif is_json_text(raw.schema.field(name)):
            columns[name] = pa.array([cell_text(cell) for cell in cells(table, name)], pa.string())
        else:
            columns[name] = table.column(name)
    ids = [extra.id or content[:_ID_DIGITS] for extra, content in zip(extras, hashes, strict=True)]
    turns = [[{"role": message.role, "content": message.content} for message in messages] for messages, _ in kept]
    columns["id"] = pa.array(ids, pa.string())
    columns[MESSAGES_COLUMN] = pa.array(turns, MESSAGES_TYPE)
    columns[HASH_COLUMN] = pa.array(hashes, pa.string())
    return pa.table(columns)


def cell_text(cell: Any) -> str | None:
    """A cell as text: JSON, but for what is text already; what JSON does not know as hex digits or as Python has it."""
    if cell is None or isinstance(cell, str):
        return cell
    return json.dumps(
        cell, ensure_ascii=False, default=lambda other: other.hex() if isinstance(other, bytes) else str(other)
    )
