"""Choices that evoselect leaves open are trained once each, and the round goes on with the best on validate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

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


def config_of(folder: Path, model: Path, **selection: Any) -> Path:
    once = {"rounds": 1, "evaluation": {"control": False}}
    return write_run_config(write_task(folder), model, folder / "run", selection={**PATH, **selection}, **once)


def record(folder: Path, state: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run/rounds/0001" / f"{state}.json").read_text())
    return found


def test_the_best_of_the_trials_is_the_round_and_nothing_is_trained_twice(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(config_of(tmp_path / "tried", tiny_model_dir))
    score = trials.score

    def interrupted(*arguments: Any) -> Any:
        raise InterruptionError

    monkeypatch.setattr(trials, "score", interrupted)  # after the trials were trained
    with pytest.raises(InterruptionError):
        run(config)
    monkeypatch.setattr(trials, "score", score)
    result = run(config)

    facts = record(tmp_path / "tried", "aligned")
    tried, kept = facts["trials"]["tried"], facts["trials"]["kept"]
    assert len(tried) == 2 and kept == int(np.argmin([one["loss"] for one in tried]))
    assert (facts["lambda"], facts["r"]) == (tried[kept]["lambda"], tried[kept]["r"])
    assert record(tmp_path / "tried", "evaluated")["loss"] == tried[kept]["loss"]
    events = [json.loads(line) for line in (tmp_path / "tried/run/events.jsonl").read_text().splitlines()]
    trained = sorted(event["job"] for event in events if event["event"] == "trained")
    assert trained == ["choice 0 of round 1", "choice 1 of round 1"]
    folder = tmp_path / "tried/run/rounds/0001/trials"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "0/selected.parquet",
        "1/selected.parquet",
    ]
    assert sum(point.validate_loss is not None for point in result.summary.path) == 2
    assert "loss on them after training" in (tmp_path / "tried/run/report.md").read_text()

    fixed = {"lambda": facts["lambda"], "r": facts["r"]}
    run(load_config(config_of(tmp_path / "fixed", tiny_model_dir, **fixed)))
    assert record(tmp_path / "fixed", "selected") == record(tmp_path / "tried", "selected")
    weights = [load_file(tmp_path / name / "run/best/adapter_model.safetensors") for name in ("tried", "fixed")]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[1])
