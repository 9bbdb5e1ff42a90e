from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from evoray.engine import examples
from evoray.engine.site import Source
from evoray.engine.workers import FileRows
from evoray.pool import write_quarantine_table
from evoray.records import Message, Quarantined, Row
from evoray.storage import Storage

KEY = "rounds/0001/selected.parquet"


def written(folder: Path, count: int) -> tuple[Storage, Source]:
    """Chosen rows in no order, each nearest to one of two target rows, or to none that is known."""
    storage = Storage(folder)
    ranks = [(7 * place) % count for place in range(count)]
    table = {
        "id": [f"pool-{rank}" for rank in ranks],
        "source": ["facts"] * count,
        "instruction": [f"question {rank}" for rank in ranks],
        "output": ["y" * 2000 for _ in ranks],
        "evoray_rank": ranks,
        "evoray_similarity": [1.0 - rank / 100 for rank in ranks],
        "evoray_nearest": [f"align-{rank % 3}" for rank in ranks],
    }
    storage.write_table(KEY, pa.table(table))
    rows = [{"id": f"align-{n}", "instruction": f"asked {n}", "output": f"said {n}"} for n in range(2)]
    (folder / "align.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = FileRows(path=str(folder / "align.jsonl"), unit_rows=8, max_chars=1000)
    return storage, Source(rows=source, units=(0,), identity="align")  # type: ignore[arg-type]


def test_examples_are_the_best_picks_and_some_of_the_others_beside_their_nearest_rows(tmp_path: Path) -> None:
    storage, align = written(tmp_path, 50)
    found = examples._pick_examples(storage, KEY, align, 10_000)
    assert [one.rank for one in found][:4] == [1, 2, 3, 4]
    assert len(found) == 8 and found[-1].rank == 50
    assert [one.rank for one in found] == sorted({one.rank for one in found})
    first = found[0]
    assert (first.row.id, first.row.source, first.row.prompt) == ("pool-0", "facts", "question 0")
    assert (first.similarity, len(first.row.response)) == (1.0, 600)
    assert first.nearest is not None
    assert (first.nearest.id, first.nearest.prompt, first.nearest.response) == ("align-0", "asked 0", "said 0")
    assert found[2].nearest is None, "a row that is not there is left out"


@pytest.mark.parametrize("count", [1, 8, 9, 15])
def test_no_pick_is_shown_twice(tmp_path: Path, count: int) -> None:
    storage, align = written(tmp_path, count)
    ranks = [one.rank for one in examples._pick_examples(storage, KEY, align, 10_000)]
    assert len(set(ranks)) == len(ranks) == min(count, 8)
    assert max(ranks) == count


def test_turns_are_named_where_there_are_several() -> None:
    turns = (Message("system", "Be kind."), Message("user", "Hello"), Message("assistant", "Hi"))
    assert examples.sample(Row(id="a", messages=turns)).prompt == "system: Be kind.\nuser: Hello"
    assert examples.sample(Row(id="a", messages=turns[1:])).prompt == "Hello"
    raw = examples.sample(Row(id="x" * 500, messages=turns[2:]))
    assert (raw.prompt, raw.response, len(raw.id)) == ("", "Hi", 120)


def test_some_rows_of_each_reason_are_shown_with_the_name_of_their_file_alone(tmp_path: Path) -> None:
    def refused(count: int, reason: str, row: int = 3) -> list[Quarantined]:
        place = {"stage": "normalise", "reason": reason, "detail": "z" * 999, "file": "/home/me/data/a.jsonl"}
        return [Quarantined(id=f"{reason}-{n}", row=row, **place) for n in range(count)]  # type: ignore[arg-type]

    storage = Storage(tmp_path)
    storage.write_table("a.parquet", write_quarantine_table([*refused(9, "empty"), *refused(2, "long", row=-1)]))
    storage.write_table("b.parquet", write_quarantine_table(refused(1, "empty")))
    found = examples._set_aside_examples(storage, {"": ["a.parquet"], "target: ": ["b.parquet"]})
    assert [one.reason for one in found] == ["empty"] * 5 + ["long"] * 2 + ["target: empty"]
    assert {one.file for one in found} == {"a.jsonl"}
    assert [one.row for one in found] == [3] * 5 + [None] * 2 + [3]
    assert max(len(one.detail) for one in found) == 300


def test_halves_of_letters_are_replaced() -> None:
    assert examples.cut("a\ud800b", 10) == "a?b"
