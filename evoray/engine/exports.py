"""Chosen rows in the forms that other tools train from: messages as JSON lines, Parquet, or a dataset folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import yaml

from evoray.config.task import TaskName
from evoray.engine.rundir import CONFIG, SELECTED, existing, files_of_rounds
from evoray.errors import ConfigError, PoolError
from evoray.pool import load_rows
from evoray.records import MESSAGES_TYPE, Row
from evoray.report.card import Origin, data_card
from evoray.report.shown import fields_view, shown
from evoray.storage import Storage

Form = Literal["messages", "parquet", "dataset"]


@shown(fields_view)
@dataclass(frozen=True, kw_only=True)
class Exported:
    """Rows that were written for others."""

    path: str  # the file, or the folder of a dataset
    rows: int
    left_out: int  # unusable rows of the source


def export(source: str, out: str, *, form: str = "messages", rounds: int | None = None) -> Exported:
    """Write chosen rows below `out`, in order: each with its messages, and what else it has of a pool row's columns.

    source: a run directory (rows of its first `rounds` rounds, all by default), the folder of a selection, or a file.
    form: `messages` (`train.jsonl`), `parquet` (`train.parquet`), or `dataset` (a Hugging Face dataset with its card).
    Raises ConfigError for an unknown form or a source without chosen rows, PoolError for a file that cannot be read.
    """
    if form not in get_args(Form):
        known = ", ".join(get_args(Form))
        raise ConfigError(f"form {form!r}", f"one of {known} for rows, or model", "choose one of them")
    files, origin = _look(source, rounds)
    rows, refused = load_rows(files, sys.maxsize)  # however long: they were chosen
    if not rows:
        raise PoolError(
            f"{source} without a usable row", "rows to write", "see `evoray select`, which says why rows are unusable"
        )
    return Exported(path=_write(rows, origin, form, Storage(out)), rows=len(rows), left_out=len(refused))


def _write(rows: Sequence[Row], origin: Origin, form: str, storage: Storage) -> str:
    """Write the rows in one form; the path of the file, or of the folder of a dataset."""
    if form == "messages":
        lines = (json.dumps(_message_line(row), ensure_ascii=False) + "\n" for row in rows)
        storage.write("train.jsonl", "".join(lines).encode())
        return storage.location("train.jsonl")
    if form == "parquet":
        storage.write_table("train.parquet", _table(rows))
        return storage.location("train.parquet")
    storage.write_table("data/train-00000-of-00001.parquet", _table(rows))
    storage.write("README.md", data_card(rows, origin).encode())
    return storage.uri


def _look(source: str, rounds: int | None) -> tuple[list[str], Origin]:
    """Files of the chosen rows, in order, and where they come from."""
    remote = "://" in source
    if not remote and not Path(source).expanduser().is_dir():
        return [source], Origin()
    storage = existing(source)
    chosen = files_of_rounds(storage, SELECTED)[:rounds]
    if chosen:
        origin = _of_run(storage, chosen)
    elif storage.exists(SELECTED):
        chosen, origin = [SELECTED], Origin(choices=[storage.read_json("selection.json")])
    elif remote:
        return [source], Origin()
    else:
        raise ConfigError(
            f"{source} without {SELECTED}",
            "a run that has chosen rows, the folder of a selection, or a file of rows",
            "check the path",
        )
    return [storage.location(key) for key in chosen], origin


def _of_run(storage: Storage, chosen: Sequence[str]) -> Origin:
    config = yaml.safe_load(storage.read(CONFIG).decode())
    return Origin(
        pool=None if config["pool"] is None else _names(config["pool"]),
        target=_names(config["target"]),
        model=_names(config["model"]) if Path(config["model"]).is_absolute() else config["model"],
        choices=[storage.read_json(key.replace(SELECTED, "aligned.json")) for key in chosen],
    )


def _names(paths: str | Sequence[str]) -> str:
    """Last parts of paths: a card that is published says nothing of the machine it was made on."""
    named = [TaskName.of(path) or Path(path) for path in ([paths] if isinstance(paths, str) else paths)]
    return ", ".join(one.name for one in named)


def _message_line(row: Row) -> dict[str, Any]:
    kept = {"id": row.id, "messages": [asdict(message) for message in row.messages]}
    return kept | {name: value for name, value in _extras(row).items() if value is not None}


def _extras(row: Row) -> Mapping[str, Any]:
    choices = None if row.choices is None else list(row.choices)
    return {"source": row.source, "choices": choices, "answer": row.answer, "quality": row.quality}


def _table(rows: Sequence[Row]) -> pa.Table:
    """Columns that no row has are left out."""
    kinds = {"source": pa.string(), "choices": pa.list_(pa.string()), "answer": pa.string(), "quality": pa.float64()}
    extras = [_extras(row) for row in rows]
    columns = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "messages": pa.array([[asdict(message) for message in row.messages] for row in rows], MESSAGES_TYPE),
    }
    for name, kind in kinds.items():
        column = pa.array([extra[name] for extra in extras], kind)
        if column.null_count < len(rows):
            columns[name] = column
    return pa.table(columns)
