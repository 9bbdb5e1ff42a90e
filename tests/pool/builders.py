"""Small pools in every format, written to a folder."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evoray.pool import normalise, plan_units, read_span
from evoray.records import Quarantined


def samples(count: int) -> list[dict[str, Any]]:
    """Rows whose texts hold what breaks naive readers: newlines, quotes, commas, separators, accents."""
    return [
        {
            "id": f"r{index}",
            "instruction": f'Say "{index}",\nplease \u2028 é',
            "input": "" if index % 3 else f"a, b\r\n{index}",
            "output": f"number {index}" + " x" * (index % 5),
        }
        for index in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write rows in the format of the path's name; return the path as text."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    elif name.endswith(".arrow"):
        table = pa.Table.from_pylist(rows)
        kind = pa.ipc.new_file if "file" in name else pa.ipc.new_stream
        with kind(str(path), table.schema) as sink:
            sink.write_table(table, max_chunksize=3)
    else:
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "wt", encoding="utf-8", newline="") as sink:
            if name.endswith(".csv"):
                writer = csv.DictWriter(sink, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            else:
                sink.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return str(path)


def write_lines(path: Path, lines: Iterable[str | bytes]) -> str:
    """Write raw lines, each with a newline; return the path as text."""
    path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    return str(path)


def load(
    path: str, unit_rows: int = 1000, max_chars: int = 1_000_000
) -> tuple[list[dict[str, Any]], list[Quarantined]]:
    """All usable rows of a pool and all refused ones."""
    rows: list[dict[str, Any]] = []
    refused: list[Quarantined] = []
    for span in plan_units(path, unit_rows):
        raw, broken = read_span(span)
        table, unusable = normalise(raw, span, max_chars)
        rows.extend(table.to_pylist())
        refused.extend([*broken, *unusable])
    return rows, sorted(refused, key=lambda record: (record.file, record.row))
