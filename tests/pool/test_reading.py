from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoray.errors import PoolError
from evoray.pool import ROW_COLUMN, normalise, plan_units, read_span
from evoray.pool.parquet import ParquetReader
from evoray.pool.reading import cells, columns_from_rows
from evoray.records import UnitSpan
from tests.pool.builders import load, samples, write, write_lines


def only_span(path: str) -> UnitSpan:
    (span,) = plan_units(path, 1000)
    return span


def test_lines_that_are_no_json_objects_are_set_aside_with_their_place(tmp_path: Path) -> None:
    lines: list[str | bytes] = [
        '{"text": "a"}',
        '{"text": "b"',
        "[1]",
        "",
        b'{"text": "\xff"}',
        '{"text": "\\ud800"}',
        '{"text": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"text": ' + "[" * 70 + "]" * 70 + "}",
        '{"text": "\\ud83d\\ude00"}',
    ]
    table, refused = read_span(only_span(write_lines(tmp_path / "a.jsonl", lines)))
    assert table.to_pylist() == [{"text": "a", "__row": 0}, {"text": "😀", "__row": 7}]
    assert [(record.row, record.reason) for record in refused] == [
        (1, "not valid JSON"),
        (2, "not an object"),
        (3, "not valid text"),
        (4, "not valid text"),
        (5, "not valid JSON"),
        (6, "not valid JSON"),
    ]
    assert {(record.stage, record.id.rpartition(":")[0]) for record in refused} == {("read", "a.jsonl")}


def test_a_file_of_broken_lines_only_gives_no_rows_and_no_error(tmp_path: Path) -> None:
    rows, refused = load(write_lines(tmp_path / "a.jsonl", ["oops", "oops"]))
    assert (rows, len(refused)) == ([], 2)


def test_a_cell_of_another_type_does_not_harm_its_neighbours(tmp_path: Path) -> None:
    lines = ['{"text": "a", "x": 1}', '{"text": 5, "x": "one"}', '{"text": "c", "x": {"deep": [1]}}', '{"text": "d"}']
    rows, refused = load(write_lines(tmp_path / "a.jsonl", lines))
    assert [row["text"] for row in rows] == ["a", "c", "d"]
    assert [row["x"] for row in rows] == ["1", '{"deep": [1]}', None]
    assert [(record.row, record.reason) for record in refused] == [(1, "not text")]


@pytest.mark.parametrize("unit_rows", [1, 2, 3, 7])
def test_what_becomes_of_a_row_does_not_depend_on_the_rows_of_its_unit(unit_rows: int, tmp_path: Path) -> None:
    lines = [
        '{"text": "a", "id": 1}',
        '{"text": 2, "id": 2.5}',
        '{"instruction": "q", "output": "r", "id": 3.0, "weight": true}',
        '{"text": "b", "weight": 2}',
        '{"messages": [{"role": "assistant", "content": "x"}], "weight": 0.5}',
        '{"messages": "x"}',
        '{"instruction": "q", "output": null, "text": "rendered"}',
        '{"other": 1}',
    ]
    path = write_lines(tmp_path / "a.jsonl", lines)

    def fate(size: int) -> tuple[list[tuple[str, float | None]], list[tuple[int, str, str]]]:
        rows, refused = load(path, size)
        usable = [(row["id"], row.get("weight")) for row in rows]
        return usable, [(record.row, record.reason, record.detail) for record in refused]

    assert fate(unit_rows) == fate(1000)


@pytest.mark.parametrize(
    "values",
    [[1.5, True], [{}], [{"a": {}}], [2**70], [2**53 + 1, 0.5], ["a", 1], [[1], ["a"]], [[[[[[[[[[1]]]]]]]]]]],
)
def test_columns_without_one_type_that_a_file_can_hold_come_back_unchanged(values: list[Any]) -> None:
    table = columns_from_rows([{"x": value} for value in values])
    sink = io.BytesIO()
    pq.write_table(table, sink)
    assert cells(pq.read_table(pa.BufferReader(sink.getvalue())), "x") == values


def test_csv_records_that_do_not_fit_are_set_aside(tmp_path: Path) -> None:
    lines: list[str | bytes] = [
        "instruction,output",
        'a,"b',
        'over ""two"" lines"',
        "a,b,c",
        "a",
        b"a,\xff\xfe",
        'a,"b"c',
        "last,one",
    ]
    path = write_lines(tmp_path / "a.csv", lines)
    for unit_rows in (1, 2, 9):
        tables, refused = zip(*(read_span(span) for span in plan_units(path, unit_rows)), strict=True)
        rows = [row for table in tables for row in table.to_pylist()]
        assert [row["output"] for row in rows] == ['b\nover "two" lines', "one"]
        assert [row["__row"] for row in rows] == [0, 5]
        assert [(record.row, record.reason) for part in refused for record in part] == [
            (1, "wrong number of fields"),
            (2, "wrong number of fields"),
            (3, "not valid text"),
            (4, "not valid CSV"),
        ]


def test_a_csv_cell_may_be_longer_than_the_default_limit_of_the_csv_module(tmp_path: Path) -> None:
    rows, _ = load(write(tmp_path / "a.csv", [{"instruction": "q", "output": "x" * 200_000}]))
    assert len(rows[0]["output"]) == 200_000


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_strings_that_are_not_utf8_cost_their_row_only(suffix: str, tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff\xfe", b"good"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    table = pa.table({"text": broken, "n": [1, 2, 3]})
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as sink:
            sink.write_table(table)
    rows, refused = load(str(path))
    assert [row["n"] for row in rows] == [1, 3]
    assert [(record.row, record.stage, record.reason) for record in refused] == [(1, "read", "not valid text")]


def test_a_file_that_shrank_after_planning_is_refused(tmp_path: Path) -> None:
    span = only_span(write(tmp_path / "a.jsonl", samples(3)))
    write(tmp_path / "a.jsonl", samples(2))
    with pytest.raises(PoolError, match="when the pool was planned"):
        read_span(span)


def test_a_file_that_vanished_after_planning_is_a_pool_error(tmp_path: Path) -> None:
    span = only_span(write(tmp_path / "a.jsonl", samples(3)))
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(PoolError, match="no such file"):
        read_span(span)


def test_an_unknown_format_is_a_pool_error(tmp_path: Path) -> None:
    span = only_span(write(tmp_path / "a.jsonl", samples(1)))
    with pytest.raises(PoolError, match="xml"):
        read_span(dataclasses.replace(span, format="xml"))


def test_repeated_column_names_are_a_pool_error(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as sink:
        sink.write_table(table)
    with pytest.raises(PoolError, match="distinct column names"):
        read_span(only_span(str(tmp_path / "a.arrow")))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
TURN = st.fixed_dictionaries({}, optional={"role": st.sampled_from(["user", "assistant", "tool"]), "content": JSON})
NAMES = ["text", "instruction", "output", "prompt", "completion", "id", "choices", "answer", "weight", "evoray_x"]
OBJECT = st.dictionaries(st.sampled_from(NAMES), JSON | st.text(max_size=5)) | st.fixed_dictionaries(
    {"messages": st.lists(TURN, max_size=3)}
)
LINE = (OBJECT | JSON).map(json.dumps) | st.text(max_size=8).map(lambda text: text.replace("\n", " "))


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(LINE, max_size=6), unit_rows=st.integers(1, 4))
def test_every_line_of_junk_ends_as_a_usable_row_or_in_quarantine(
    lines: list[str], unit_rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = ['{"text": "a", "messages": "so that the file has a layout"}', *lines]
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    path = write_lines(tmp_path_factory.mktemp("junk") / "a.jsonl", data)
    spans = plan_units(path, unit_rows)
    assert sum(span.rows for span in spans) == sum(bool(line.strip()) for line in data)
    for span in spans:
        raw, broken = read_span(span)
        table, unusable = normalise(raw, span)
        places = [*(record.row for record in broken), *(record.row for record in unusable)]
        assert table.num_rows + len(places) == span.rows
        assert len(set(places)) == len(places)
        pq.write_table(table, io.BytesIO())
        assert ROW_COLUMN not in table.column_names


def parquet_of(path: Path, groups: list[int]) -> str:
    """Row n has the number n, in row groups of these sizes."""
    schema = pa.schema([("n", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        first = 0
        for rows in groups:
            numbers = list(range(first, first + rows))
            writer.write_table(pa.table({"n": numbers, "text": [str(n) for n in numbers]}, schema=schema), max(1, rows))
            first += rows
    return str(path)


@settings(max_examples=60)
@given(
    groups=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    spans=st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 12)), max_size=8),
)
def test_one_reader_of_many_spans_reads_what_each_alone_does(
    groups: list[int], spans: list[tuple[bool, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    files = [parquet_of(folder / f"{name}.parquet", sizes) for name, sizes in (("a", groups), ("b", [7, 3]))]
    kept = ParquetReader()
    for other, start, count in spans:
        total = 10 if other else sum(groups)
        found = kept.rows(files[other], start, count)
        assert found["n"].to_pylist() == list(range(min(start, total), min(start + count, total)))
        assert found["text"].to_pylist() == [str(n) for n in found["n"].to_pylist()]


def test_a_large_row_group_is_decoded_once_for_all_its_units_and_small_ones_are_passed_over(tmp_path: Path) -> None:
    large, small = parquet_of(tmp_path / "large.parquet", [9000]), parquet_of(tmp_path / "small.parquet", [64] * 20)
    kept = ParquetReader()
    for unit in range(0, 9000, 64):
        kept.rows(large, unit, 64)
    assert kept.groups == 1
    kept = ParquetReader()
    for unit in range(0, 20, 4):  # as one of four workers
        kept.rows(small, unit * 64, 64)
    assert kept.groups == 5
