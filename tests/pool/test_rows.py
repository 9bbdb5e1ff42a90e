from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evoray.errors import PoolError
from evoray.pool import content_hash, normalise, plan_units, read_span, rows_from_table, write_quarantine_table
from evoray.records import HASH_COLUMN, MESSAGES_COLUMN, MESSAGES_TYPE, QUARANTINE_SCHEMA, Message, Quarantined, Row
from tests.pool.builders import load, samples, write


def one(tmp_path: Path, row: dict[str, Any], name: str = "a.jsonl") -> dict[str, Any]:
    (usable,), refused = load(write(tmp_path / name, [row]))
    assert not refused
    return usable


def refusal(tmp_path: Path, row: dict[str, Any], name: str = "a.jsonl", max_chars: int = 1000) -> Quarantined:
    rows, (record,) = load(write(tmp_path / name, [row]), max_chars=max_chars)
    assert not rows
    assert record.stage == "normalise"
    return record


def turns(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in row[MESSAGES_COLUMN]]


QR = {"instruction": "q", "output": "r"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": " q ", "input": "", "output": "r\n"}, [("user", "q"), ("assistant", "r")]),
        ({"instruction": "q", "input": " c ", "output": "r"}, [("user", "q\n\nc"), ("assistant", "r")]),
        ({"instruction": "q", "input": None, "output": "r"}, [("user", "q"), ("assistant", "r")]),
        ({"prompt": "q", "completion": " r"}, [("user", "q"), ("assistant", "r")]),
        ({"text": " t "}, [("assistant", "t")]),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": " a"}], "text": "no"},
            [("system", "s"), ("assistant", "a")],
        ),
        (
            {"messages": [{"role": "system", "content": " "}, {"role": "assistant", "content": "a"}]},
            [("assistant", "a")],
        ),
        ({"instruction": "q", "output": "r", "text": "rendered"}, [("user", "q"), ("assistant", "r")]),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_each_layout_becomes_a_conversation(
    row: dict[str, Any], expected: list[tuple[str, str]], name: str, tmp_path: Path
) -> None:
    assert turns(one(tmp_path, row, name)) == expected


USER, BOT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": 5, "output": "r"}, "not text"),
        ({"instruction": "q", "output": None}, "not text"),
        ({"instruction": "q", "output": "r", "input": ["c"]}, "not text"),
        ({**QR, "id": ["x"]}, "not text"),
        ({**QR, "choices": "ab", "answer": "a"}, "not text"),
        ({**QR, "choices": [1, 2], "answer": "1"}, "not text"),
        ({**QR, "answer": True}, "not text"),
        ({"instruction": "  ", "output": "r"}, "empty prompt"),
        ({"prompt": "", "completion": "r"}, "empty prompt"),
        ({"messages": [{"role": "user", "content": ""}, BOT]}, "empty prompt"),
        ({"instruction": "q", "output": "\n"}, "empty response"),
        ({"text": ""}, "empty response"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "empty response"),
        ({"text": "x" * 1001}, "too long"),
        ({"messages": [USER]}, "broken messages"),
        ({"messages": []}, "broken messages"),
        ({"messages": "q"}, "broken messages"),
        ({"messages": ["q"]}, "broken messages"),
        ({"messages": [{"role": "system", "content": ""}]}, "broken messages"),
        ({"messages": [{"role": "human", "content": "q"}, BOT]}, "broken messages"),
        ({"messages": [{"role": "user", "content": None}, BOT]}, "broken messages"),
        ({"messages": [{"role": "user", "content": ["q"]}, BOT]}, "broken messages"),
        ({**QR, "choices": ["a", "b"], "answer": "c"}, "answer not among choices"),
        ({**QR, "choices": ["a", "b"]}, "choices without answer"),
        ({"text": "a\x00b"}, "not valid text"),
        ({**QR, "id": "a\x00"}, "not valid text"),
        ({**QR, "weight": 0}, "bad weight"),
        ({**QR, "weight": -1.5}, "bad weight"),
        ({**QR, "weight": float("nan")}, "bad weight"),
        ({**QR, "quality": float("inf")}, "bad quality"),
        ({**QR, "quality": "high"}, "bad quality"),
        ({**QR, "weight": True}, "bad weight"),
        ({**QR, "weight": 10**400}, "bad weight"),
    ],
)
def test_an_unusable_row_is_set_aside_with_its_reason(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, row).reason == reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**QR, "weight": "heavy"}, "bad weight"),
        ({**QR, "choices": "a|b", "answer": "a"}, "not text"),
        ({"messages": "hello"}, "broken messages"),
    ],
)
def test_csv_cells_that_should_hold_numbers_or_lists_and_do_not_are_set_aside(
    row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    assert refusal(tmp_path, row, "a.csv").reason == reason


def test_csv_cells_are_parsed_and_empty_optional_ones_are_absent(tmp_path: Path) -> None:
    full = {**QR, "id": "7", "choices": '["r", "s"]', "answer": "r", "weight": "2", "quality": ".5", "note": ""}
    bare = {**dict.fromkeys(full, ""), **QR}
    path = write(tmp_path / "a.csv", [full, bare])
    (span,) = plan_units(path, 9)
    table, refused = normalise(read_span(span)[0], span)
    first, second = rows_from_table(table)
    assert not refused
    assert (first.id, first.choices, first.answer, first.weight, first.quality) == ("7", ("r", "s"), "r", 2.0, 0.5)
    assert (second.choices, second.answer, second.weight, second.quality) == (None, None, 1.0, None)
    assert table.column("note").to_pylist() == ["", ""]


def test_a_refused_row_keeps_its_given_id_or_is_named_by_its_place(tmp_path: Path) -> None:
    assert refusal(tmp_path, {"id": "x7", "text": ""}).id == "x7"
    assert refusal(tmp_path, {"text": ""}).id == "a.jsonl:0"


@pytest.mark.parametrize(("given", "expected"), [("a", "a"), (7, "7"), (7.0, "7"), (7.5, "7.5"), (" b ", "b")])
def test_a_given_id_becomes_text(given: Any, expected: str, tmp_path: Path) -> None:
    assert one(tmp_path, {"id": given, "text": "t"})["id"] == expected


@pytest.mark.parametrize("given", [None, "", float("nan")])
def test_without_a_given_id_the_content_names_the_row(given: Any, tmp_path: Path) -> None:
    row = one(tmp_path, {"id": given, "text": "t"})
    digest = hashlib.sha256(b'[["assistant", "t"]]').hexdigest()
    assert row[HASH_COLUMN] == digest[:32]
    assert row["id"] == digest[:16]


def test_the_same_conversation_has_the_same_hash_in_every_layout(tmp_path: Path) -> None:
    layouts: list[dict[str, Any]] = [QR, {"prompt": "q ", "completion": "r"}, {"messages": [USER, BOT]}]
    assert len({one(tmp_path, row)[HASH_COLUMN] for row in layouts}) == 1


def test_moving_a_character_between_turns_changes_the_hash() -> None:
    assert content_hash([Message("user", "ab"), Message("assistant", "c")]) != content_hash(
        [Message("user", "a"), Message("assistant", "bc")]
    )


def test_other_columns_are_carried_and_columns_of_earlier_runs_dropped(tmp_path: Path) -> None:
    table = pa.table(
        {"text": ["t"], "when": pa.array([3], pa.timestamp("ms")), "evoray_rank": [1], "evoray_messages": ["old"]}
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    (span,) = plan_units(str(path), 9)
    out, _ = normalise(read_span(span)[0], span)
    assert out.column_names == ["text", "when", "id", MESSAGES_COLUMN, HASH_COLUMN]
    assert out.schema.field("when").type == pa.timestamp("ms")
    assert out.schema.field(MESSAGES_COLUMN).type == MESSAGES_TYPE


def test_a_normalised_table_fed_back_gives_the_same_rows(tmp_path: Path) -> None:
    first, _ = load(write(tmp_path / "a.jsonl", samples(5)))
    pq.write_table(pa.Table.from_pylist(first), tmp_path / "b.parquet")
    second, _ = load(str(tmp_path / "b.parquet"))
    assert second == first


def test_units_of_different_formats_have_the_same_types(tmp_path: Path) -> None:
    row = {**QR, "id": "1", "source": "s", "answer": "r", "choices": ["r"], "weight": 1.0}
    schemas = []
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        cells = {**row, "choices": json.dumps(row["choices"])} if name == "a.csv" else row
        (span,) = plan_units(write(tmp_path / name, [cells]), 9)
        schemas.append(normalise(read_span(span)[0], span)[0].schema)
    assert schemas[0] == schemas[1] == schemas[2]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.csv"])
def test_columns_of_no_accepted_layout_are_an_error_that_names_the_nearest(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, [{"instruction": "q", "response": "r"}])
    with pytest.raises(PoolError) as caught:
        load(path)
    assert "instruction, response" in caught.value.received
    assert "instruction + output" in caught.value.expected
    assert "output (perhaps from response)" in caught.value.remedy


def test_columns_like_nothing_known_still_get_advice(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="rename or add"):
        load(write(tmp_path / "a.parquet", [{"x": 1, "y": 2}]))


def test_a_later_unit_without_any_layout_is_set_aside_and_not_an_error(tmp_path: Path) -> None:
    rows, refused = load(write(tmp_path / "a.jsonl", [{"text": "t"}, {"x": 1}]), unit_rows=1)
    assert (len(rows), [record.reason for record in refused]) == (1, ["not text"])


def test_records_carry_the_optional_columns_and_defaults(tmp_path: Path) -> None:
    full = {
        **QR,
        "id": "1",
        "source": "s",
        "subtask": 3,
        "choices": ["r ", "x"],
        "answer": "r",
        "quality": 1,
        "weight": 2,
    }
    (span,) = plan_units(write(tmp_path / "a.jsonl", [full, {"text": "t", "id": "2", "choices": []}]), 9)
    table, _ = normalise(read_span(span)[0], span)
    messages = (Message("user", "q"), Message("assistant", "r"))
    assert rows_from_table(table) == [
        Row(
            id="1",
            messages=messages,
            source="s",
            choices=("r", "x"),
            answer="r",
            quality=1.0,
            weight=2.0,
            subtask="3",
        ),
        Row(id="2", messages=(Message("assistant", "t"),)),
    ]


def test_quarantine_records_become_a_table() -> None:
    record = Quarantined(id="a", stage="read", reason="r", detail="d", file="f", row=3)
    table = write_quarantine_table([record])
    assert table.schema == QUARANTINE_SCHEMA == write_quarantine_table([]).schema
    assert Quarantined(**table.to_pylist()[0]) == record
