"""Chosen rows written for other trainers, read back by other readers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from evoray import export
from evoray.errors import ConfigError, EvorayError, PoolError
from tests.commands import Command
from tests.conftest import FinishedRun

ROWS: list[dict[str, Any]] = [
    {"id": "a", "instruction": "2+2?", "output": "4", "source": "sums", "note": "kept by the user", "evoray_rank": 0},
    {
        "id": "b",
        "instruction": "Größe \u2028 ?",
        "output": "naïve | <b>",
        "source": "a|b",
        "note": "",
        "evoray_rank": 1,
    },
]
CHAT = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]


@pytest.fixture
def selection(tmp_path: Path) -> Path:
    folder = tmp_path / "selection"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "selected.parquet")
    (folder / "selection.json").write_text(
        json.dumps({"selector": "evoselect", "usable": 60, "lambda": 0.3, "r": None})
    )
    return folder


def test_messages_are_one_json_object_a_line_in_the_order_of_the_choice(selection: Path, tmp_path: Path) -> None:
    written = export(str(selection), str(tmp_path / "out"))
    assert (written.path, written.rows, written.left_out) == (str(tmp_path / "out" / "train.jsonl"), 2, 0)
    lines = (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8").split("\n")
    first, second = map(json.loads, lines[:-1])
    assert first == {"id": "a", "messages": CHAT, "source": "sums"}
    assert [turn["content"] for turn in second["messages"]] == [ROWS[1]["instruction"], ROWS[1]["output"]]
    assert lines[-1] == ""


def test_parquet_has_the_columns_that_some_row_has(tmp_path: Path) -> None:
    rows = [{"prompt": "x", "completion": "y", "id": "c", "choices": ["y", "z"], "answer": "y"}, {**ROWS[0], "id": "d"}]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pq.read_table(export(str(source), str(tmp_path / "out"), form="parquet").path)
    assert table.column_names == ["id", "messages", "source", "choices", "answer"]
    assert table["choices"].to_pylist() == [["y", "z"], None]
    assert table["messages"].to_pylist()[1] == CHAT


def test_a_dataset_folder_has_a_card_that_hubs_read(selection: Path, tmp_path: Path) -> None:
    written = export(str(selection), str(tmp_path / "out"), form="dataset")
    card = (Path(written.path) / "README.md").read_text(encoding="utf-8")
    _, head, body = card.split("---\n", 2)
    (config,) = yaml.safe_load(head)["configs"]
    (files,) = Path(written.path).glob(config["data_files"][0]["path"])
    assert pq.read_table(files)["id"].to_pylist() == ["a", "b"]
    assert yaml.safe_load(head)["size_categories"] == ["n<1K"]
    assert "| 1 | evoselect | 60 | 0.3 |" in body
    assert r"| a\|b | 1 |" in body


def test_a_run_gives_the_rows_of_its_rounds_and_no_path_of_its_machine(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    chosen = [
        pq.read_table(finished_run.out / "rounds" / f"{number:04d}" / "selected.parquet")["id"].to_pylist()
        for number in (1, 2)
    ]
    run = shutil.copytree(finished_run.out, tmp_path / "run")
    for trial in ("0", "1"):  # what a round of several choices leaves behind: what each of them would have been
        (run / "rounds/0001/trials" / trial).mkdir(parents=True)
        shutil.copy(run / "rounds/0002/selected.parquet", run / "rounds/0001/trials" / trial)
    all_rounds = Path(export(str(run), str(tmp_path / "all"), form="dataset").path)
    rows = pq.read_table(all_rounds / "data" / "train-00000-of-00001.parquet")
    assert rows["id"].to_pylist() == [*chosen[0], *chosen[1]]
    card = (all_rounds / "README.md").read_text()
    assert "pool.jsonl" in card
    assert str(finished_run.task.parent) not in card
    first = export(str(run), str(tmp_path / "first"), form="parquet", rounds=1)
    assert pq.read_table(first.path)["id"].to_pylist() == chosen[0]


def test_the_card_of_a_run_for_a_task_of_the_harness_names_the_task_without_its_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "rounds/0001").mkdir(parents=True)
    config = {"pool": "/home/me/pool.jsonl", "target": "lm-eval:mine@/home/me/tasks", "model": "smollm2"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "rounds/0001/aligned.json").write_text("{}")
    pq.write_table(pa.Table.from_pylist(ROWS), run / "rounds/0001/selected.parquet")
    card = Path(export(str(run), str(tmp_path / "out"), form="dataset").path, "README.md").read_text()
    assert "* target task: mine" in card
    assert "/home/me" not in card


def test_a_run_of_generated_rows_alone_names_no_pool(finished_run: FinishedRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for key in ("config.yaml", *(f"rounds/0001/{name}" for name in ("selected.parquet", "aligned.json"))):
        (run / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(finished_run.out / key, run / key)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "pool": None}))
    card = Path(export(str(run), str(tmp_path / "out"), form="dataset").path, "README.md").read_text()
    assert "* target task: target" in card
    assert "* pool" not in card


@pytest.mark.parametrize(
    ("source", "form", "error", "words"),
    [
        ("selection", "csv", ConfigError, "messages, parquet, dataset"),
        ("empty", "messages", ConfigError, "selected.parquet"),
        ("missing.jsonl", "messages", PoolError, "missing.jsonl"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    selection: Path, tmp_path: Path, source: str, form: str, error: type[EvorayError], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=words):
        export(str(tmp_path / source), str(tmp_path / "out"), form=form)
    assert not (tmp_path / "out").exists()


def test_long_rows_that_were_chosen_are_written_too(tmp_path: Path) -> None:
    """A run may read rows beyond the million characters that files are read with by default."""
    row = {"id": "long", "instruction": "x" * 1_200_000, "output": "y"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert export(str(tmp_path / "rows.jsonl"), str(tmp_path / "out")).rows == 1


def test_the_command_names_what_it_wrote(selection: Path, tmp_path: Path, evoray: Command) -> None:
    facts = evoray.shown("export", selection, "--out", tmp_path / "out", "--form", "parquet")
    assert facts == {"exported": str(tmp_path / "out" / "train.parquet"), "rows": 2, "left_out": 0}
