"""Loops of several rounds that are not EvoSelect's: DiverseEvol's and kMQ's, through the same round state machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from evoray.config_file import load_config
from evoray.engine.session import Session
from evoray.pipeline import run
from tests.tiny_run import write_run_config
from tests.tiny_task import write_task

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROUNDS = 2


def loop(folder: Path, model: Path, selection: dict[str, Any], **more: Any) -> list[list[str]]:
    """Run rounds from the base; the ids that each chose."""
    training = {"epochs": 1, "batch_size": 4, "micro_batch_tokens": 512, "workers": 1, "from": "base"}
    config = write_run_config(
        write_task(folder), model, folder / "run", rounds=ROUNDS, selection=selection, training=training,
        evaluation={"control": False}, **more,
    )  # fmt: skip
    run(load_config(config))
    files = [folder / "run" / "rounds" / f"000{number}" / "selected.parquet" for number in range(1, ROUNDS + 1)]
    return [pq.read_table(file, columns=["id"])["id"].to_pylist() for file in files]


def record(folder: Path, number: int, state: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run" / "rounds" / f"000{number}" / f"{state}.json").read_text())
    return found


def test_diverse_evol_grows_its_rows_and_embeds_with_the_newest_model(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    chosen = loop(tmp_path, tiny_model_dir, {"selector": "k_center", "k": 6})
    assert len({row_id for ids in chosen for row_id in ids}) == 12
    trained = [record(tmp_path, number, "trained") for number in range(1, ROUNDS + 1)]
    assert [facts["rows"] for facts in trained] == [6, 12]
    stores = [record(tmp_path, number, "featurised")["pool"]["fingerprint"] for number in range(1, ROUNDS + 1)]
    assert len(set(stores)) == 2  # hidden states of the model as trained so far
    aligned = [record(tmp_path, number, "aligned") for number in range(1, ROUNDS + 1)]
    assert [facts["selected_before"] for facts in aligned] == [0, 6]
    assert [facts["start"] for facts in aligned] == [6, 0]


def test_kmq_learns_from_the_answers_of_each_round(tmp_path: Path, tiny_model_dir: Path, ray_session: Session) -> None:
    features = {"representation": "rds", "max_tokens": 96, "refresh": "never"}
    chosen = loop(tmp_path, tiny_model_dir, {"selector": "kmeans_iterative", "k": 12}, features=features)
    assert len({row_id for ids in chosen for row_id in ids}) == 24
    assert [record(tmp_path, number, "trained")["rows"] for number in range(1, ROUNDS + 1)] == [12, 24]
    assert set(record(tmp_path, 1, "answered")["scores"]) == set(chosen[0])
    assert not (tmp_path / "run" / "rounds" / "0002" / "answered.json").exists()
    aligned = [record(tmp_path, number, "aligned") for number in range(1, ROUNDS + 1)]
    assert [facts["clusters_scored"] for facts in aligned] == [0, 3]
    assert aligned[0]["mean_score"] is None and aligned[1]["mean_score"] is not None
