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
from evoray.pool.plain import plain
from evoray.storage import Storage, scratch_folder

#: Where a row was in what was given. Not a name of evoray's own, which would not be carried to the chosen rows.
POSITION = "__position__"
_FOLDER = "given"
_TOGETHER = 1024  # rows of a row group, and of a batch that a library gives out


def _of_ray(frame: Any) -> Iterator[pa.Table]:
    """Its blocks in their order: the same rows are the same file."""
    schema, options = frame.schema().base_schema, frame.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        for table in frame.iter_batches(batch_size=_TOGETHER, batch_format="pyarrow"):
            yield table.cast(schema) if isinstance(schema, pa.Schema) else table  # a block of nulls has no type
    finally:
        options.preserve_order = before


#: By library and class: a table's batches in order.
_BATCHES: Mapping[tuple[str, str], Callable[[Any], Iterable[pa.RecordBatch | pa.Table]]] = {
    ("pandas", "DataFrame"): lambda frame: pa.table(frame).to_batches(_TOGETHER),
    ("polars", "DataFrame"): lambda frame: pa.table(frame).to_batches(_TOGETHER),
    ("pyarrow", "Table"): lambda frame: frame.to_batches(_TOGETHER),
    ("datasets", "Dataset"): lambda frame: frame.with_format("arrow").iter(_TOGETHER),
    ("ray", "Dataset"): _of_ray,
}
#: By library: the rows at some positions. Of a Ray dataset they are made anew.
_ROWS_AT: Mapping[str, Callable[[Any, list[int]], Any]] = {
    "pandas": lambda frame, places: frame.iloc[places],
    "polars": lambda frame, places: frame[places],
    "pyarrow": lambda frame, places: frame.take(places),
    "datasets": lambda frame, places: frame.select(places),
}


def as_path(pool: Any, out: str | Path) -> str | tuple[str, ...]:
    """Where a pool's files are: paths as they are, a table of another library as a file of its rows below `out`.

    For paths nothing is made. Raises PoolError for anything else.
    """
    if isinstance(pool, str | os.PathLike):
        return os.fspath(pool)
    if is_paths(pool):
        return tuple(map(os.fspath, pool))
    storage = Storage(out)
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
    """Whether a pool is given by where its files are."""
    if isinstance(pool, str | os.PathLike):
        return True
    return isinstance(pool, Sequence) and all(isinstance(one, str | os.PathLike) for one in pool) and len(pool) > 0


def chosen_rows(pool: Any, chosen: pa.Table) -> Any:
    """The chosen rows of a table, best first, as a table of the same library.

    chosen: rows of the file that `as_path` wrote, with all their columns. Of a Ray dataset, which has no positions, the
    rows are a new one.
    """
    library, _ = _kind(pool)
    if library == "ray":
        import ray

        kept = [name for name in chosen.column_names if name != POSITION and name in set(pool.schema().names)]
        return ray.data.from_arrow(chosen.select(kept))
    return _ROWS_AT[library](pool, chosen[POSITION].to_pylist())


def _kind(pool: Any) -> tuple[str, str]:
    """The library and class of a table, or of what it derives from. Raises PoolError for anything else."""
    for kind in type(pool).__mro__:
        found = (kind.__module__.partition(".")[0], kind.__name__)
        if found in _BATCHES:
            return found
    raise PoolError(
        f"a pool of type {type(pool).__module__}.{type(pool).__qualname__}",
        "paths, or a table: DataFrame of pandas or Polars, Table of Arrow, Dataset of Hugging Face or of Ray",
        "collect what is lazy or streamed, choose one split of a dataset, make a table of a list of rows",
    )


def _write(pool: Any, file: Path) -> None:
    batches = _BATCHES[_kind(pool)]
    writer: pq.ParquetWriter | None = None
    try:
        for table in _numbered(batches(pool)):
            writer = writer or pq.ParquetWriter(file, table.schema, store_schema=False)  # types as Parquet has them
            writer.write_table(table.cast(writer.schema))
    except (pa.ArrowException, ValueError) as error:
        raise PoolError(
            f"a table that Arrow cannot hold: {error}",
            "columns of one type each, with names of their own",
            "convert it",
        ) from error
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise PoolError("a table without rows", "rows to choose from", "check what it was made of")


def _numbered(batches: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[pa.Table]:
    """Tables with the position of each row."""
    first = 0
    for batch in batches:
        table = plain(pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch)
        if POSITION in table.column_names:
            raise PoolError(f"a table with a column {POSITION}", "another name: it is evoray's own", "rename it")
        if table.num_rows:
            places = pa.array(range(first, first + table.num_rows), pa.int64())
            first += table.num_rows
            yield table.append_column(POSITION, places)
