"""Read a small pool at once: a target, or the rows that a round trains on."""

from __future__ import annotations

from collections.abc import Sequence

from evoray.pool.parquet import ParquetReader
from evoray.pool.planning import plan_units
from evoray.pool.reading import read_span
from evoray.pool.rows import MAX_CHARS, normalise, rows_from_table
from evoray.records import Quarantined, Row

_UNIT_ROWS = 4096


def load_rows(path: str | Sequence[str], max_chars: int = MAX_CHARS) -> tuple[list[Row], list[Quarantined]]:
    """All usable rows of the files, in order, and the rows that are not usable.

    Raises PoolError as `plan_units`, `read_span` and `normalise` do.
    """
    rows: list[Row] = []
    refused: list[Quarantined] = []
    parquet = ParquetReader()
    for span in plan_units(path, _UNIT_ROWS):
        raw, broken = read_span(span, parquet)
        table, unusable = normalise(raw, span, max_chars)
        rows.extend(rows_from_table(table))
        refused.extend(sorted([*broken, *unusable], key=lambda record: record.row))
    return rows, refused
