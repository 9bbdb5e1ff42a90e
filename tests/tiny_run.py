"""A tiny run with every kind of unusable row in its pool, and what of it must come out the same again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evoray.storage import Storage, UnitStore
from tests.tiny_task import write_config, write_task

#: Reasons, as the summary counts them, of the rows that `write_flawed_task` adds.
FLAWS = {"empty response": 1, "too long": 1, "not text": 1, "duplicate content": 2, "target: empty response": 1}
ROUNDS = 2


def write_flawed_task(folder: Path) -> Path:
    """A tiny task whose rows carry a column of the user's, and whose pool and target have unusable rows."""
    write_task(folder)
    path = folder / "pool.jsonl"
    rows = [{**json.loads(line), "note": f"note {place}"} for place, line in enumerate(path.read_text().splitlines())]
    text = {"source": "flawed", "note": ""}
    rows += [
        {"id": "empty", "instruction": "say nothing", "output": "  ", **text},
        {"id": "long", "instruction": "say much", "output": "x" * 2000, **text},
        {"id": "number", "instruction": "say it", "output": {"a": 1}, **text},
        {**rows[4], "id": "again-4"},
        {**rows[5], "id": "again-5"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / "target" / "align.jsonl").open("a") as stream:
        stream.write(json.dumps({"instruction": "1+1?", "output": ""}) + "\n")
    return folder


def write_run_config(folder: Path, model: Path, out: Path | str, **overrides: Any) -> Path:
    """A config of the flawed task whose selection has one point, so that it takes seconds."""
    settings: dict[str, Any] = {
        "out": str(out),
        "rounds": ROUNDS,
        "reading": {"unit_rows": 32, "max_chars": 1000, "max_quarantined": 0.2},
        "selection": {"k": 8, "steps": 6, "lambda": 0.3, "r": 0.5},
        # One process starts in half the time of two; the job on a cluster trains on two ranks.
        "cluster": {"workers": 1},
        "training": {"epochs": 1, "batch_size": 2, "micro_batch_tokens": 512, "checkpoint_steps": 1, "workers": 1},
        **overrides,
    }
    return write_config(folder, model, **settings)


def outcome(out: Path, rounds: int, arms: Sequence[str]) -> dict[str, Any]:
    """What a repeated or interrupted run must reproduce: rows, adapters' bytes and scores of the arms."""
    found: dict[str, Any] = {}
    for number in range(1, rounds + 1):
        folder = out / "rounds" / f"{number:04d}"
        for arm in arms:
            rows = {"adapter": "selected.parquet", "control": "control.parquet"}[arm]
            found[f"rows of {arm} {number}"] = pq.read_table(folder / rows)
            found[f"{arm} {number}"] = (folder / arm / "adapter_model.safetensors").read_bytes()
    shown = {"adapter": "round", "control": "random"}
    names = {"base", *(f"{shown[arm]} {number}" for arm in arms for number in range(1, rounds + 1))}
    left_out = () if "control" in arms else ("against_random",)
    for arm in results(out)["arms"]:
        if arm["name"] in names:
            found[f"scores of {arm['name']}"] = {key: value for key, value in arm.items() if key not in left_out}
    return found


def results(out: Path) -> dict[str, Any]:
    """The summary without what depends on when, where and by which command it was made."""
    summary = json.loads((out / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key not in _OF_THE_PROCESS}


#: A curve is what the trackers saw: what a killed driver had not heard of yet is not in it.
_OF_THE_PROCESS = {"timings", "versions", "command", "curves", "train_seconds", "config", "manifest"}


def unit_files(out: Path) -> dict[str, tuple[int, int]]:
    """(commit records, data files) of every unit in every store of a run directory."""
    found: dict[str, list[int]] = {}
    for path in out.rglob("unit-*"):
        if path.is_file() and path.parent.parent.name in ("pool", "features", "scores"):
            counts = found.setdefault(f"{path.parent.name}/{path.name.partition('.')[0]}", [0, 0])
            counts[path.suffix == ".parquet"] += 1
    return {name: (counts[0], counts[1]) for name, counts in found.items()}


def pool_features(out: Path, run: Path) -> pa.Table:
    """Features in one place that a run's first round has of its pool, in the order of units."""
    record = json.loads((run / "rounds" / "0001" / "featurised.json").read_text())["pool"]
    store = UnitStore(Storage(out), f"features/{record['fingerprint']}")
    return pa.concat_tables([store.read(store.find(unit)) for unit in record["units"]])
