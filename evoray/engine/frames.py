"""Pools that another library holds in memory: a file of them that every worker reads, and their chosen rows.

Known are pandas, Polars, Arrow, Hugging Face `datasets` and Ray Data, none of which is imported here: whoever gives one
has it. The file is named by its content, so that the same call again goes on with the same pool.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evoray.errors import PoolError
from evoray.storage import Storage, scratch_folder

#: Where a row was in what was given. Not a name of evoray's own, which would not be carried to the chosen rows.
POSITION = "__position__"
_FOLDER = "given"
_TOGETHER = 1024  # rows of a row group, and of a batch that a library gives out

#: By the library that a table is of: its batches in order, and its rows at some positions.
_BATCHES: Mapping[str, Callable[[Any], Iterable[pa.RecordBatch | pa.Table]]] = {
    "pandas": lambda frame: pa.table(frame).to_batches(_TOGETHER),
    "polars": lambda frame: pa.table(frame).to_batches(_TOGETHER),
    "pyarrow": lambda frame: frame.to_batches(_TOGETHER),
    "datasets": lambda frame: frame.with_format("arrow").iter(_TOGETHER),
    "ray": lambda frame: frame.iter_batches(batch_size=_TOGETHER, batch_format="pyarrow"),
}
_ROWS_AT: Mapping[str, Callable[[Any, list[int]], Any]] = {
    "pandas": lambda frame, places: frame.iloc[places],
    "polars": lambda frame, places: frame[places],
    "pyarrow": lambda frame, places: frame.take(places),
    "datasets": lambda frame, places: frame.select(places),
}


def as_path(pool: Any, storage: Storage) -> str | tuple[str, ...]:
    """Where a pool's files are: paths as they are, a table of another library as a file of its rows below a storage.

    Raises PoolError for anything else.
    """
    if isinstance(pool, str | os.PathLike):
        return os.fspath(pool)
    if is_paths(pool):
        return tuple(map(os.fspath, pool))
    with scratch_folder() as scratch:
        file = scratch / "pool.parquet"
        _write(pool, file)
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        key = f"{_FOLDER}/{digest}.parquet"
        if not storage.exists(key):
            storage.write(key, file.read_bytes())
    return storage.location(key)


def is_paths(pool: Any) -> bool:
    """Whether a pool is given by where its files are, or not at all."""
    return pool is None or isinstance(pool, str | os.PathLike | Sequence)


def chosen_rows(pool: Any, chosen: pa.Table) -> Any:
    """The chosen rows of a table, best first, as a table of the same library.

    chosen: rows of the file that `as_path` wrote, with all their columns. Of a Ray dataset, which has no positions, the
    rows are a new one.
    """
    library = _library(pool)
    if library == "ray":
        import ray

        kept = [name for name in chosen.column_names if name != POSITION and name in set(pool.schema().names)]
        return ray.data.from_arrow(chosen.select(kept))
    return _ROWS_AT[library](pool, chosen[POSITION].to_pylist())


def _library(pool: Any) -> str:
    found = type(pool).__module__.partition(".")[0]
    if found not in _BATCHES or isinstance(pool, Mapping):
        raise PoolError(
            f"a pool of type {type(pool).__module__}.{type(pool).__qualname__}",
            "paths, or a table of pandas, Polars, Arrow, Hugging Face datasets or Ray Data",
            "choose one split of a dataset; make a table of rows that are kept in another way",
        )
    return found


def _write(pool: Any, file: Path) -> None:
    batches = _BATCHES[_library(pool)]
    writer: pq.ParquetWriter | None = None
    try:
        for table in _numbered(batches(pool)):
            writer = writer or pq.ParquetWriter(file, table.schema, store_schema=False)  # types as Parquet has them
            writer.write_table(table.cast(writer.schema))
    except (pa.ArrowException, ValueError) as error:
        raise PoolError(f"a table whose rows differ in type: {error}", "one type a column", "convert it") from error
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise PoolError("a table without rows", "rows to choose from", "check what it was made of")


def _numbered(batches: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[pa.Table]:
    """Tables with the position of each row."""
    first = 0
    for batch in batches:
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        if POSITION in table.column_names:
            raise PoolError(f"a table with a column {POSITION}", "another name: it is evoray's own", "rename it")
        if table.num_rows:
            places = pa.array(range(first, first + table.num_rows), pa.int64())
            first += table.num_rows
            yield table.append_column(POSITION, places)
