"""Rows of Parquet files by their place. What is read in order is decoded once.

Columns of a row group can only be decoded from its start, and libraries write row groups of up to a million rows: were
each unit of some rows to begin anew, a pool would be decoded thousands of times. Who reads several spans therefore
keeps one reader, which stands where the last one ended.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from evoray.pool.files import open_native

_BATCH_ROWS = 4096


class ParquetReader:
    """Stands in one file at a time."""

    def __init__(self) -> None:
        self._name = ""
        self._file: pq.ParquetFile | None = None
        self._starts: list[int] = []  # the first row of each row group, and the number of rows
        self._at = 0  # the row that comes next
        self._rest: pa.RecordBatch | None = None  # what is decoded of it and those that follow
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self.groups = 0  # row groups that were begun

    def rows(self, name: str, start: int, count: int) -> pa.Table:
        """Rows [start, start + count) of a file, or fewer where it ends before. Raises OSError, ArrowException."""
        file = self._open(name)
        pieces, end = [], min(start + count, self._starts[-1])
        while start < end:
            group_end = self._go_to(start)
            batch = self._rest if self._rest is not None else next(self._batches, None)
            if batch is None:
                raise pa.ArrowInvalid(f"a row group that ends at row {self._at}, and not at {group_end}")
            piece = batch.slice(min(start - self._at, batch.num_rows), end - start)
            used = min(start - self._at, batch.num_rows) + piece.num_rows
            self._rest = batch.slice(used) if used < batch.num_rows else None
            self._at, start = self._at + used, start + piece.num_rows
            pieces.append(piece)
        return pa.Table.from_batches(pieces, schema=file.schema_arrow)

    def _open(self, name: str) -> pq.ParquetFile:
        if self._file is None or self._name != name:
            self.close()
            self._file, self._name = pq.ParquetFile(open_native(name)), name
            metadata = self._file.metadata
            sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
            self._starts = [0, *accumulate(sizes)]
            self._at, self._rest, self._batches = 0, None, iter(())
        return self._file

    def _go_to(self, row: int) -> int:
        """Stand before a row, in its row group; where that ends."""
        group = bisect_right(self._starts, row) - 1
        begun = self._rest is not None or self._at > self._starts[group]
        if not (begun and self._starts[group] <= self._at <= row) and self._file is not None:
            self._batches = self._file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group])
            self._at, self._rest = self._starts[group], None
            self.groups += 1
        return self._starts[group + 1]

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close(force=True)
        self._file, self._rest, self._batches = None, None, iter(())
