"""Choices that evoselect leaves open are trained once each, and the round goes on with the best on validate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evoray import export
from evoray.config_file import load_config
from evoray.engine import trials
from evoray.engine.session import Session
from evoray.pipeline import run
from tests.tiny_run import write_run_config
from tests.tiny_task import write_task

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PATH = {"k": 8, "steps": 4, "lambda": "auto", "r": "auto", "trials": 2}


class InterruptionError(Exception):
    """The driver ends here."""


def record(out: Path, state: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "rounds/0001" / f"{state}.json").read_text())
    return found


def test_the_best_of_the_trials_is_the_round_and_nothing_is_trained_twice(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    once = {"rounds": 1, "evaluation": {"control": False}}
    config = load_config(write_run_config(write_task(tmp_path), tiny_model_dir, out, selection=PATH, **once))
    score = trials.score

    def interrupted(*arguments: Any) -> Any:
        raise InterruptionError

    monkeypatch.setattr(trials, "score", interrupted)  # after the trials were trained
    with pytest.raises(InterruptionError):
        run(config)
    monkeypatch.setattr(trials, "score", score)
    result = run(config)

    facts = record(out, "aligned")
    tried, kept = facts["trials"]["tried"], facts["trials"]["kept"]
    assert len(tried) == 2 and kept == int(np.argmin([one["loss"] for one in tried]))
    assert (facts["lambda"], facts["r"]) == (tried[kept]["lambda"], tried[kept]["r"])
    assert record(out, "evaluated")["loss"] == tried[kept]["loss"]
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    trained = sorted(event["job"] for event in events if event["event"] == "trained")
    assert trained == ["choice 0 of round 1", "choice 1 of round 1"]
    folder = out / "rounds/0001/trials"
    assert (out / "rounds/0001/adapter/adapter_model.safetensors").exists()
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "0/selected.parquet",
        "1/selected.parquet",
    ]
    assert sum(point.validate_loss is not None for point in result.summary.path) == 2
    assert "loss on them after training" in (out / "report.md").read_text()
    assert export(str(out), str(tmp_path / "exported")).rows == 8
