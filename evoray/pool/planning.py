"""Cutting a pool into units: fixed spans of rows of one file, found without loading any file.

Parquet is counted from its footer, Arrow by its record batches, JSONL and CSV by one streaming pass that
keeps the byte offset at which each unit starts (in the decompressed stream, for gzip).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from evoray.errors import PoolError
from evoray.pool.files import expand, format_of, open_bytes, open_native, readable
from evoray.pool.lines import csv_header, csv_records, json_lines
from evoray.records import UnitSpan

_CHUNK = 1 << 22


def plan_units(path: str | Sequence[str], unit_rows: int) -> list[UnitSpan]:
    """Spans of at most `unit_rows` rows that cover the pool once, numbered from 0 in order of the files.

    `path` is a file, a folder (searched to its depth), a glob, or several of them, local or `s3://`, `gs://`.
    Raises PoolError for a path that leads to no supported file, a file that cannot be read, or a pool of no rows.
    """
    if unit_rows < 1:
        raise PoolError(f"{unit_rows} rows a unit", "at least 1", "give a positive number of rows a unit")
    files = expand(path)
    spans: list[UnitSpan] = []
    for file in files:
        with readable(file):
            for start, rows, offset in _plan_file(file, unit_rows):
                spans.append(
                    UnitSpan(
                        unit=len(spans),
                        file=file,
                        format=format_of(file) or "",
                        start=start,
                        rows=rows,
                        offset=offset,
                    )
                )
    if not spans:
        raise PoolError(f"no rows in {', '.join(files[:5])}", "at least one row", "name files that hold samples")
    return spans


def pool_fingerprint(spans: Iterable[UnitSpan]) -> str:
    """SHA-256 (64 hex digits) of the name, size and bytes of each file, in order of first use.

    Folders and times play no part: a pool that was moved keeps its fingerprint, a changed one does not.
    """
    identity = []
    for file in dict.fromkeys(span.file for span in spans):
        digest, size = hashlib.sha256(), 0
        with readable(file), open_native(file) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
        identity.append((PurePosixPath(file).name, size, digest.hexdigest()))
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def arrow_batches(source: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    """Record batches of an Arrow IPC file of either kind: stream (Hugging Face) or random access (Feather)."""
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    if not is_file:
        yield from pa.ipc.open_stream(source)
        return
    reader = pa.ipc.open_file(source)
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)


def _plan_file(file: str, unit_rows: int) -> Iterator[tuple[int, int, int]]:
    """(first row, rows, byte offset) of each unit of one file."""
    kind = format_of(file)
    if kind == "parquet":
        with open_native(file) as source, pq.ParquetFile(source) as parquet:
            yield from _even(int(parquet.metadata.num_rows), unit_rows)
    elif kind == "arrow":
        with open_native(file, mmap=True) as source:
            yield from _even(sum(int(batch.num_rows) for batch in arrow_batches(source)), unit_rows)
    else:
        with open_bytes(file) as stream:
            if kind == "csv":
                records = csv_records(stream, file)
                csv_header(records, file)
                yield from _by_offset((offset for offset, _ in records), unit_rows)
            else:
                yield from _by_offset(_json_offsets(json_lines(stream), file), unit_rows)


def _even(rows: int, unit_rows: int) -> Iterator[tuple[int, int, int]]:
    for start in range(0, rows, unit_rows):
        yield start, min(unit_rows, rows - start), 0


def _by_offset(offsets: Iterator[int], unit_rows: int) -> Iterator[tuple[int, int, int]]:
    start = 0
    for first in offsets:
        rows = 1 + sum(1 for _ in itertools.islice(offsets, unit_rows - 1))
        yield start, rows, first
        start += rows


def _json_offsets(lines: Iterator[tuple[int, bytes]], file: str) -> Iterator[int]:
    for index, (offset, line) in enumerate(lines):
        if index == 0 and line.lstrip().startswith(b"[") and file.lower().removesuffix(".gz").endswith(".json"):
            raise PoolError(
                f"{file}: one JSON array",
                "JSON lines: one object a line, without commas between them",
                "convert it, for example with: jq -c '.[]' pool.json > pool.jsonl",
            )
        yield offset
