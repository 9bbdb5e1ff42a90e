"""Curves reach TensorBoard always, and MLflow and Weights & Biases where their environment is set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from evoray.engine.trackers import tracking, untracked
from evoray.storage import Storage
from tests.training.curves import restarts, scalars

LOSSES = {1: 3.0, 2: 2.5, 3: 2.25}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def write(storage: Storage, steps: range, resumed: int = 0) -> list[str]:
    with tracking(storage, {"round 1": resumed}) as track:
        for step in steps:
            track.scalars("round 1", step, {"loss": LOSSES[step]})
    return track.problems


def test_a_training_that_goes_on_has_one_curve(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    assert write(storage, range(1, 4)) == []
    assert write(storage, range(3, 4), resumed=2) == []
    assert restarts(tmp_path / "tensorboard" / "round-1") == [3], "TensorBoard drops what stood from there on"
    assert scalars(tmp_path / "tensorboard" / "round-1", "loss") == LOSSES


def test_mlflow_has_one_run_for_a_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    storage = Storage(tmp_path / "run")
    assert write(storage, range(1, 3)) + write(storage, range(3, 4), resumed=2) == []
    client = MlflowClient((tmp_path / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("evoray").experiment_id])
    assert run.info.status == "FINISHED"
    found = {one.step: one.value for one in client.get_metric_history(run.info.run_id, "round 1/loss")}
    assert found == LOSSES


def test_weights_and_biases_has_the_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb-files"))
    (tmp_path / "wandb-files").mkdir()
    assert write(Storage(tmp_path / "run"), range(1, 4)) == []
    (record,) = (tmp_path / "wandb-files").rglob("*.wandb")
    assert b"round 1/loss" in record.read_bytes()


def test_what_is_no_result_goes_to_no_tracker_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = (tmp_path / "mlflow").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with untracked():
        assert write(Storage(tmp_path / "run"), range(1, 3)) == []
    assert not (tmp_path / "mlflow").exists()
    assert os.environ["MLFLOW_TRACKING_URI"] == address


def test_a_tracker_that_fails_is_told_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "unknown-scheme://nowhere")
    (problem,) = write(Storage(tmp_path), range(1, 4))
    assert problem.startswith("no curves to MLflow:")
    assert scalars(tmp_path / "tensorboard" / "round-1", "loss") == LOSSES
