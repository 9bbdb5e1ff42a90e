"""Chosen rows are written so that what reads them finds every one again, however unlike the pool's files are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evoray.engine.selected import PICK_SCHEMA, _write_selected
from evoray.engine.workers import DUPLICATES, PoolRows
from evoray.pool import load_rows, normalise, plan_units, read_span, rows_from_table
from evoray.pool.duplicates import DUPLICATE_SCHEMA
from evoray.records import Row
from evoray.storage import Storage, UnitStore

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
MESSAGES: dict[str, Any] = {"messages": TURNS}
BROKEN = {"messages": "oops"}
PAIR = {"instruction": "add", "input": "1 and 2", "output": "3", "choices": ["3", "4"], "answer": 3}
PROMPT = {"prompt": "say", "completion": "so", "quality": 0.5}
TEXT = {"text": "raw text", "source": "web"}
NAMED = {"messages": [{**TURNS[0], "name": "bob"}, TURNS[1]]}
QUOTED = '"[{""role"":""user"",""content"":""q""},{""role"":""assistant"",""content"":""a""}]"'


def write(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> str:
    numbered = [{"id": f"{name}-{place}", **row} for place, row in enumerate(rows)]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in numbered))
    return str(path)


def all_chosen(folder: Path, files: Sequence[str], unit_rows: int) -> tuple[list[Row], str]:
    """The usable rows of a pool, and the file of them all as chosen rows."""
    storage = Storage(folder / "out")
    store = UnitStore(storage, "pool/x")
    usable: list[Row] = []
    for span in plan_units(files, unit_rows):
        table, _ = normalise(read_span(span)[0], span)
        store.commit(span.unit, table, {})
        usable += rows_from_table(table)
    storage.write_table(f"pool/x/{DUPLICATES}", DUPLICATE_SCHEMA.empty_table())
    picks = [dict.fromkeys(PICK_SCHEMA.names) | {"id": row.id, "rank": rank} for rank, row in enumerate(usable)]
    table = pa.Table.from_pylist(picks, schema=PICK_SCHEMA)
    _write_selected(storage, "selected.parquet", table, [], 1, PoolRows(store=store), store.committed())
    return usable, storage.location("selected.parquet")


@pytest.mark.parametrize("unit_rows", [1, 2, 100])
@pytest.mark.parametrize(
    "pool",
    [
        [[MESSAGES], [PAIR]], [[TEXT], [PAIR, PROMPT], [MESSAGES]], [[PROMPT], [TEXT]], [[PAIR, TEXT]],
        [[MESSAGES, MESSAGES, NAMED]], [[MESSAGES, MESSAGES, MESSAGES, BROKEN]], [[PAIR, {**PAIR, "output": 5}]],
    ],
    ids=["chat and pairs", "all four", "prompts and text", "one file of two", "a name", "one is broken", "a number"],
)  # fmt: skip
def test_every_chosen_row_is_read_again_as_it_was_chosen(
    pool: list[list[dict[str, Any]]], unit_rows: int, tmp_path: Path
) -> None:
    files = [write(tmp_path, f"file-{place}", rows) for place, rows in enumerate(pool)]
    usable, chosen = all_chosen(tmp_path, files, unit_rows)
    assert load_rows(chosen) == (usable, [])


def test_chat_in_a_csv_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "chat.csv"
    path.write_text(f"messages\n{QUOTED}\n")
    usable, chosen = all_chosen(tmp_path, [str(path)], 10)
    assert [turn.content for turn in usable[0].messages] == ["q", "a"]
    assert load_rows(chosen) == (usable, [])


def test_an_answer_that_was_edited_is_told_of_and_no_old_one_is_trained_on(tmp_path: Path) -> None:
    _, chosen = all_chosen(tmp_path, [write(tmp_path, "file", [PAIR, {**PAIR, "instruction": "take"}])], 10)
    table = pq.read_table(chosen)
    place = table.column_names.index("output")
    pq.write_table(table.set_column(place, "output", pa.array(["3", "edited"])), tmp_path / "edited.parquet")
    rows, refused = load_rows(str(tmp_path / "edited.parquet"))
    assert [row.id for row in rows] == ["file-0"]
    assert [(record.id, record.reason) for record in refused] == [("file-1", "edited")]
    assert "evoray_messages" in refused[0].detail
    without = pq.read_table(tmp_path / "edited.parquet").drop_columns(["evoray_messages"])
    pq.write_table(without, tmp_path / "without.parquet")
    assert load_rows(str(tmp_path / "without.parquet"))[0][1].messages[-1].content == "edited"


def test_columns_of_the_user_are_text_where_their_types_differ_and_as_they_are_elsewhere(tmp_path: Path) -> None:
    cells = [{"ok": True, "tags": ["x"]}, "plain", 3, None]
    rows = [{**PAIR, "mixed": cell, "count": place, "nested": {"flag": True}} for place, cell in enumerate(cells)]
    found = []
    for unit_rows in (1, 4):
        _, chosen = all_chosen(tmp_path / str(unit_rows), [write(tmp_path, "file", rows)], unit_rows)
        table = pq.read_table(chosen)
        found.append(table.select(["mixed", "count", "nested"]).to_pylist())
    assert found[0] == found[1]
    assert [row["mixed"] for row in found[0]] == ['{"ok": true, "tags": ["x"]}', "plain", "3", None]
    assert [row["count"] for row in found[0]] == [0, 1, 2, 3] and found[0][0]["nested"] == {"flag": True}


def test_truth_values_among_fractions_stay_true_however_deep_they_are(tmp_path: Path) -> None:
    rows = [{**PAIR, "nested": [{"flag": flag}]} for flag in (True, 0.5)]
    _, chosen = all_chosen(tmp_path, [write(tmp_path, "file", rows)], 10)
    found = [json.loads(text) for text in pq.read_table(chosen)["nested"].to_pylist()]
    assert found == [[{"flag": True}], [{"flag": 0.5}]] and found[0][0]["flag"] is True
