"""Exact duplicates across the units of a pool: the same conversation again, or a given id used again.

Both are judged in (unit, row) order and the first one stays, so the outcome does not depend on the order
in which workers finish.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

DUPLICATE_SCHEMA = pa.schema(
    [
        ("unit", pa.int64()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("reason", pa.string()),
        ("first_id", pa.string()),
    ]
)

#: An Arrow array or chunked array, a NumPy array or a list, of strings.
Strings: TypeAlias = pa.Array | pa.ChunkedArray | npt.NDArray[Any] | Sequence[str]


def find_duplicates(units: Iterable[tuple[int, Strings, Strings]]) -> pa.Table:
    """Rows to drop, as a table of DUPLICATE_SCHEMA in (unit, row) order; `row` counts within the unit.

    `units` gives (unit number, ids, content hashes), in any order, one id and one hash a row. Reasons:
    "duplicate content" (an earlier row has the same hash) and "duplicate id" (an earlier row that stays has
    the same id and other content); `first_id` is the id of that earlier row. Raises ValueError where a unit
    has not as many ids as hashes or comes twice.
    """
    given = sorted(((unit, _large(ids), _large(hashes)) for unit, ids, hashes in units), key=lambda item: item[0])
    numbers = [unit for unit, _, _ in given]
    sizes = [len(ids) for _, ids, _ in given]
    if len(set(numbers)) < len(numbers) or sizes != [len(hashes) for _, _, hashes in given]:
        raise ValueError("each unit must come once, with as many ids as content hashes")
    ids = pa.chunked_array([ids for _, ids, _ in given], pa.large_string()).combine_chunks()
    hashes = pa.chunked_array([hashes for _, _, hashes in given], pa.large_string()).combine_chunks()
    del given  # the copies in 64-bit offsets: at a million rows they are what fills memory
    unit_N = np.repeat(np.asarray(numbers, dtype=np.int64), sizes)
    starts = np.cumsum([0, *sizes[:-1]]) if sizes else np.zeros(0, dtype=np.int64)
    row_N = np.arange(len(unit_N), dtype=np.int64) - np.repeat(starts, sizes)

    place_N = np.arange(len(unit_N), dtype=np.int64)
    first_N = _first_occurrence(hashes)
    del hashes
    same_content_N = first_N != place_N
    stays = np.flatnonzero(~same_content_N)
    first_N[stays] = stays[_first_occurrence(ids.take(pa.array(stays)))]
    dropped = np.flatnonzero(first_N != place_N)
    reasons = np.where(same_content_N[dropped], "duplicate content", "duplicate id")
    return pa.table(
        [
            pa.array(unit_N[dropped]),
            pa.array(row_N[dropped]),
            ids.take(pa.array(dropped)).cast(pa.string()),
            pa.array(reasons.tolist(), pa.string()),
            ids.take(pa.array(first_N[dropped])).cast(pa.string()),
        ],
        schema=DUPLICATE_SCHEMA,
    )


def drop_rows(table: pa.Table, rows: Sequence[int] | npt.NDArray[np.int64]) -> pa.Table:
    """The table without the rows at these 0-based positions. Raises IndexError for one it does not have."""
    keep = np.ones(table.num_rows, dtype=bool)
    positions = np.asarray(rows, dtype=np.int64)
    if positions.size and positions.min() < 0:
        raise IndexError(f"row {positions.min()} of a table of {table.num_rows}")
    keep[positions] = False
    return table.filter(pa.array(keep))


def _large(values: Strings) -> pa.Array:
    """One array of 64-bit offsets: the strings of a large pool pass the 2 GiB of ordinary ones."""
    if isinstance(values, pa.ChunkedArray):
        return values.cast(pa.large_string()).combine_chunks()
    return values.cast(pa.large_string()) if isinstance(values, pa.Array) else pa.array(values, pa.large_string())


def _first_occurrence(values: pa.Array) -> npt.NDArray[np.int64]:
    """For each place the first place that holds the same value, int64."""
    codes = values.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    _, first = np.unique(codes, return_index=True)
    place_N: npt.NDArray[np.int64] = first.astype(np.int64)[codes]
    return place_N
