"""Loops of several rounds that are not EvoSelect's: DiverseEvol's and kMQ's, through the same round state machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from evoray.config_file import load_config
from evoray.engine.feedback import ANSWERED
from evoray.engine.round import STATES
from evoray.engine.session import Session
from evoray.pipeline import run
from tests.generation.server import good, serving
from tests.killed_run import Job, kill_after_each
from tests.tiny_run import outcome, write_run_config
from tests.tiny_task import write_task

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROUNDS = 2


TRAINING = {"epochs": 1, "batch_size": 4, "micro_batch_tokens": 512, "workers": 1, "checkpoint_steps": 1}
#: The three loops: EvoSelect's writes candidates for each round, and goes on from its last model.
DIVERSE_EVOL: dict[str, Any] = {"selection": {"selector": "k_center", "k": 6}, "training": {**TRAINING, "from": "base"}}
KMQ: dict[str, Any] = {
    "selection": {"selector": "kmeans_iterative", "k": 12},
    "features": {"representation": "rds", "max_tokens": 96, "refresh": "never"},
    "training": {**TRAINING, "from": "base"},
}
EVOSELECT: dict[str, Any] = {"training": {**TRAINING, "from": "previous"}}


def write_loop(folder: Path, model: Path, **settings: Any) -> Path:
    return write_run_config(
        write_task(folder), model, folder / "run", **{"rounds": ROUNDS, "evaluation": {"control": False}, **settings}
    )


def loop(folder: Path, model: Path, settings: dict[str, Any]) -> list[list[str]]:
    """Play the rounds; the ids that each chose."""
    run(load_config(write_loop(folder, model, **settings)))
    files = [folder / "run" / "rounds" / f"000{number}" / "selected.parquet" for number in range(1, ROUNDS + 1)]
    return [pq.read_table(file, columns=["id"])["id"].to_pylist() for file in files]


def record(folder: Path, number: int, state: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run" / "rounds" / f"000{number}" / f"{state}.json").read_text())
    return found


@pytest.mark.soak  # kMQ's below goes the same way in every test run
def test_diverse_evol_grows_its_rows_and_embeds_with_the_newest_model(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    chosen = loop(tmp_path, tiny_model_dir, DIVERSE_EVOL)
    assert len({row_id for ids in chosen for row_id in ids}) == 12
    trained = [record(tmp_path, number, "trained") for number in range(1, ROUNDS + 1)]
    assert [facts["rows"] for facts in trained] == [6, 12]
    stores = [record(tmp_path, number, "featurised")["pool"]["fingerprint"] for number in range(1, ROUNDS + 1)]
    assert len(set(stores)) == 2  # hidden states of the model as trained so far
    aligned = [record(tmp_path, number, "aligned") for number in range(1, ROUNDS + 1)]
    assert [facts["selected_before"] for facts in aligned] == [0, 6]
    assert [facts["start"] for facts in aligned] == [6, 0]


def test_kmq_learns_from_the_answers_of_each_round(tmp_path: Path, tiny_model_dir: Path, ray_session: Session) -> None:
    chosen = loop(tmp_path, tiny_model_dir, KMQ)
    assert len({row_id for ids in chosen for row_id in ids}) == 24
    assert [record(tmp_path, number, "trained")["rows"] for number in range(1, ROUNDS + 1)] == [12, 24]
    assert set(record(tmp_path, 1, "answered")["scores"]) == set(chosen[0])
    assert not (tmp_path / "run" / "rounds" / "0002" / "answered.json").exists()
    aligned = [record(tmp_path, number, "aligned") for number in range(1, ROUNDS + 1)]
    assert [facts["clusters_scored"] for facts in aligned] == [0, 3]
    assert aligned[0]["mean_score"] is None and aligned[1]["mean_score"] is not None


def test_rounds_that_make_nothing_better_are_rolled_back_and_end_the_run(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    """At a rate that ruins the model from the first round on."""
    ruin = {"weights": "full", "epochs": 2, "batch_size": 2, "learning_rate": 2.0, "on_harm": "roll_back", "workers": 1}
    selection = {"selector": "random", "k": 8}
    path = write_loop(tmp_path, tiny_model_dir, rounds=4, patience=2, selection=selection, training=ruin)
    result = run(load_config(path))
    assert [arm.name for arm in result.summary.arms] == ["base", "round 1", "round 2"]
    assert [(one.harmful, one.rolled_back, one.best) for one in result.summary.progress] == [(True, True, 0)] * 2
    assert result.best == 0 and list((tmp_path / "run" / "best").iterdir()) == [tmp_path / "run" / "best" / "best.json"]
    report = (tmp_path / "run" / "report.md").read_text()
    assert "HARMFUL, rolled back" in report and "2 rounds up to round 2 made no better model" in report


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["diverse_evol", "kmq", "evoselect"])
def test_killing_a_loop_in_each_stage_changes_nothing(
    name: str, tmp_path: Path, tiny_model_dir: Path, ray_session: Session, mark: dict[str, str]
) -> None:
    settings = {"diverse_evol": DIVERSE_EVOL, "kmq": KMQ, "evoselect": EVOSELECT}[name]
    states = [state for state in STATES if not state.startswith("control")]
    kills = [(number, state) for number in range(1, ROUNDS + 1) for state in states]
    if name == "kmq":
        kills.insert(kills.index((2, "aligned")), (1, ANSWERED))
    with serving(good) as server:
        if name == "evoselect":
            written = {"source": "endpoint", "model": "writer", "url": server.url, "key_env": None, "samples": 16}
            settings = {**settings, "generation": written}
        run(load_config(write_loop(tmp_path / "undisturbed", tiny_model_dir, **settings)))
        asked = len(server.requests)
        config = write_loop(tmp_path / "killed", tiny_model_dir, **settings)
        killed = kill_after_each(Job.of_run(config, mark), tmp_path / "killed" / "run", kills)
    assert killed > len(kills) // 2, "most transitions were cut off one by one"
    assert len(server.requests) == 2 * asked
    expected = outcome(tmp_path / "undisturbed" / "run", ROUNDS, ["adapter"])
    for part, value in outcome(tmp_path / "killed" / "run", ROUNDS, ["adapter"]).items():
        assert value == expected[part], part
