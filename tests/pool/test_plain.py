"""Columns of every Arrow type, through a file and back: kept as they are, or as JSON text."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from evoray.errors import PoolError
from evoray.pool import normalise, plan_units, read_span
from evoray.pool.plain import storable
from evoray.pool.reading import cells
from evoray.storage import Storage

UNION = pa.UnionArray.from_dense(
    pa.array([0, 1, 1], pa.int8()), pa.array([0, 0, 1], pa.int32()), [pa.array([1]), pa.array(["x", "y"])]
)
NESTED = pa.struct(
    [("s", pa.string_view()), ("l", pa.list_(pa.string_view())), ("m", pa.map_(pa.string(), pa.binary_view()))]
)

COLUMNS: dict[str, pa.Array] = {
    "string_view": pa.array(["a", None, "a text that is longer than twelve bytes"], pa.string_view()),
    "binary_view": pa.array([b"a", b"b", None], pa.binary_view()),
    "list_view": pa.array([["a"], [], None], pa.list_view(pa.string_view())),
    "large_list_view": pa.array([[1], [2, 3], []], pa.large_list_view(pa.int64())),
    "nested views": pa.array(
        [{"s": "a", "l": ["b"], "m": [("k", b"v")]}, None, {"s": None, "l": None, "m": []}], NESTED
    ),
    "list of fixed size": pa.array([["a", "b"], ["c", "d"], None], pa.list_(pa.string_view(), 2)),
    "large list": pa.array([["a"], [None], None], pa.large_list(pa.string_view())),
    "runs": pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]),
    "runs of views": pa.RunEndEncodedArray.from_arrays([2, 3], pa.array(["a", "b"], pa.string_view())),
    "dictionary": pa.array(["a", "b", "a"]).dictionary_encode(),
    "dictionary of views": pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array(["a", "b"], pa.string_view())),
    "dictionary of lists": pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array([["a"], ["b", "c"]])),
    "decimal": pc.cast(pa.array([1, 2, None]), pa.decimal128(25, 2)),
    "duration": pa.array([datetime.timedelta(seconds=1)] * 3, pa.duration("ms")),
    "half": pa.array([1.5, 2.5, None], pa.float16()),
    "nothing": pa.nulls(3),
}
NOT_IN_PARQUET = {"runs", "runs of views", "dictionary of views", "dictionary of lists"}
AS_TEXT: dict[str, tuple[pa.Array, list[Any]]] = {
    "union": (UNION, [1, "x", "y"]),
    "struct with a union": (pa.StructArray.from_arrays([UNION], ["u"]), [{"u": 1}, {"u": "x"}, {"u": "y"}]),
    "empty struct": (pa.array([{}, None, {}], pa.struct([])), [{}, None, {}]),
    "interval": (pa.array([(1, 2, 3)] * 3, pa.month_day_nano_interval()), [[1, 2, 3]] * 3),
}


def written(column: pa.Array, file: Path) -> pa.Table:
    table = pa.table({"instruction": ["q1", "q2", "q3"], "output": ["a1", "a2", "a3"], "more": column})
    if file.suffix == ".parquet":
        pq.write_table(table, file)
    elif file.suffix == ".arrow":
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    return table


def through(file: Path, folder: Path) -> tuple[pa.Table, pa.Table]:
    """Its raw rows, and its normalised ones as storage gives them back."""
    (span,) = plan_units(str(file), 10)
    raw, refused = read_span(span)
    rows, set_aside = normalise(raw, span, 1000)
    assert (refused, set_aside) == ([], [])
    storage = Storage(folder)
    storage.write_table("rows.parquet", rows)
    return raw, storage.read_table("rows.parquet")


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_column_of_another_layout_keeps_its_cells(name: str, suffix: str, tmp_path: Path) -> None:
    if suffix == ".parquet" and name in NOT_IN_PARQUET:
        pytest.skip("Arrow writes no Parquet of it")
    table = written(COLUMNS[name], tmp_path / f"pool{suffix}")
    raw, rows = through(tmp_path / f"pool{suffix}", tmp_path / "stored")
    expected = table["more"].to_pylist()
    assert raw["more"].to_pylist() == expected
    assert rows["more"].to_pylist() == expected
    assert rows.num_rows == 3


@pytest.mark.parametrize("name", AS_TEXT)
def test_a_column_that_parquet_cannot_hold_is_kept_as_json(name: str, tmp_path: Path) -> None:
    column, expected = AS_TEXT[name]
    assert not storable(column.type)
    written(column, tmp_path / "pool.arrow")
    raw, rows = through(tmp_path / "pool.arrow", tmp_path / "stored")
    assert cells(raw, "more") == expected
    assert rows.num_rows == 3 and pa.types.is_string(rows.schema.field("more").type)


def test_text_of_a_union_that_is_none_is_refused(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffx")]
    )
    column = pa.UnionArray.from_dense(
        pa.array([0, 1, 1], pa.int8()), pa.array([0, 0, 1], pa.int32()), [pa.array([1]), broken]
    )
    written(column, tmp_path / "pool.arrow")
    with pytest.raises(PoolError, match="odd layout"):
        through(tmp_path / "pool.arrow", tmp_path / "stored")


def test_times_that_python_cannot_hold_stay_in_plain_columns_and_are_refused_in_odd_ones(tmp_path: Path) -> None:
    far = pa.array([10**18, 0, None], pa.timestamp("us"))
    written(far, tmp_path / "pool.arrow")
    raw, _ = through(tmp_path / "pool.arrow", tmp_path / "stored")
    assert raw["more"].combine_chunks().equals(far)
    odd = pa.StructArray.from_arrays([far, pa.array(["a", "b", "c"], pa.string_view())], ["at", "text"])
    written(odd, tmp_path / "odd.arrow")
    with pytest.raises(PoolError, match="odd layout"):
        through(tmp_path / "odd.arrow", tmp_path / "stored")
