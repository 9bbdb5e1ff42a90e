"""Whole runs on tiny data: what they leave, that they repeat, and that killing them at any point changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from evoray.config import ClusterConfig
from evoray.config_file import load_config
from evoray.engine.round import STATES
from evoray.errors import ConfigError
from evoray.pipeline import run
from evoray.single import select
from tests.conftest import FinishedRun
from tests.killed_run import Job, kill_after_each
from tests.processes import alive, ended
from tests.tiny_run import (
    FLAWS,
    ROUNDS,
    outcome,
    pool_features,
    results,
    unit_files,
    write_flawed_task,
    write_run_config,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]


def test_a_run_leaves_a_record_of_every_transition_and_the_promised_files(finished_run: FinishedRun) -> None:
    out = finished_run.out
    for number in range(1, ROUNDS + 1):
        folder = out / "rounds" / f"{number:04d}"
        assert [state for state in STATES if not (folder / f"{state}.json").exists()] == []
        assert load_file(folder / "adapter" / "adapter_model.safetensors")
    assert (out / "report.md").read_text().startswith("#")
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    best = json.loads((out / "best" / "best.json").read_text())
    assert best["round"] == finished_run.result.best
    if best["round"]:
        chosen = out / "rounds" / f"{best['round']:04d}" / "adapter" / "adapter_model.safetensors"
        assert (out / "best" / "adapter_model.safetensors").read_bytes() == chosen.read_bytes()
    assert not (out / "lock.json").exists()


def test_selected_rows_keep_all_columns_of_the_user_and_no_row_is_chosen_twice(finished_run: FinishedRun) -> None:
    pool = {row["id"]: row for row in map(json.loads, (finished_run.task / "pool.jsonl").read_text().splitlines())}
    chosen: list[str] = []
    for number in range(1, ROUNDS + 1):
        table = pq.read_table(finished_run.out / "rounds" / f"{number:04d}" / "selected.parquet")
        for row in table.to_pylist():
            assert {key: row[key] for key in pool[row["id"]]} == pool[row["id"]]
            assert row["evoray_round"] == number
            assert row["evoray_nearest"].startswith("align-")
        assert table["evoray_rank"].to_pylist() == list(range(8))
        chosen += table["id"].to_pylist()
    assert len(set(chosen)) == len(chosen) == 8 * ROUNDS


def test_rows_of_test_are_read_for_the_final_table_alone(finished_run: FinishedRun) -> None:
    last = finished_run.out / "rounds" / f"{ROUNDS:04d}" / f"{STATES[-1]}.json"
    assert finished_run.test_opened, "the watch sees the final table read them"
    assert min(finished_run.test_opened) > last.stat().st_mtime


def test_every_round_is_compared_with_the_untrained_model_and_the_best_before(finished_run: FinishedRun) -> None:
    out, losses = finished_run.out, {}
    for number in range(ROUNDS + 1):
        record = json.loads((out / "rounds" / f"{number:04d}" / "evaluated.json").read_text())
        losses[number] = record["loss"]
        if number:
            best = min(range(number), key=lambda earlier: losses[earlier])
            assert record["against_best"]["round"] == best
            assert record["against_best"]["value"] == pytest.approx(losses[number] - losses[best], abs=1e-9)
            assert record["against_untrained"]["value"] == pytest.approx(losses[number] - losses[0], abs=1e-9)
            assert record["harmful"] == (record["against_best"]["low"] > 0)
    shown = [(one.round, one.loss) for one in finished_run.result.summary.progress]
    assert shown == [(number, losses[number]) for number in range(1, ROUNDS + 1)]


def test_the_summary_has_every_arm_and_counts_the_rows_set_aside_by_reason(finished_run: FinishedRun) -> None:
    summary = finished_run.result.summary
    names = [arm.name for arm in summary.arms]
    assert names == ["base", "random 1", "round 1", "random 2", "round 2"]
    assert all(arm.steps == 4 and arm.rows == 8 for arm in summary.arms if arm.name.startswith("round"))
    assert dict(summary.quarantine) == FLAWS
    assert summary.split == "test"
    assert json.loads((finished_run.out / "summary.json").read_text()) == summary.to_json()


def test_the_summary_shows_where_rows_lie_what_some_say_and_how_training_went(finished_run: FinishedRun) -> None:
    summary = finished_run.result.summary
    chosen = max(finished_run.result.best, 1)
    assert summary.feature_map is not None
    clouds = {cloud.kind: (cloud.rows, len(cloud.places)) for cloud in summary.feature_map.clouds}
    assert (summary.feature_map.round, clouds["chosen"]) == (chosen, (8, 8))
    assert clouds["pool"][0] == clouds["pool"][1] > 8
    selected = pq.read_table(finished_run.out / "rounds" / f"{chosen:04d}" / "selected.parquet").to_pylist()
    shown = [(one.rank - 1, one.row.id, one.nearest and one.nearest.id) for one in summary.examples]
    assert shown == [(row["evoray_rank"], row["id"], row["evoray_nearest"]) for row in selected]
    reasons = [one.reason for one in summary.set_aside]
    assert {reason: reasons.count(reason) for reason in reasons} == FLAWS
    assert [curve.name for curve in summary.curves] == ["round 1", "random 1", "round 2", "random 2"]
    assert all(curve.steps == (1, 2, 3, 4) for curve in summary.curves)
    assert set(summary.train_seconds) == {arm.name for arm in summary.arms} - {"base"}
    assert summary.config == (finished_run.out / "config.yaml").read_text()
    assert summary.manifest is not None and set(summary.manifest.identity) >= {"pool", "align", "validate", "model"}


def test_every_unit_has_one_commit_and_one_file(finished_run: FinishedRun) -> None:
    counts = unit_files(finished_run.out)
    assert len(counts) > 10
    assert set(counts.values()) == {(1, 1)}


def test_the_same_run_again_does_no_work_and_has_the_same_results(finished_run: FinishedRun) -> None:
    out = finished_run.out
    before = results(out)
    files = {path: path.stat().st_mtime_ns for path in out.rglob("unit-*") if path.is_file()}
    events = (out / "events.jsonl").read_text()
    result = run(load_config(finished_run.config))
    assert result.best == finished_run.result.best
    assert results(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.rglob("unit-*") if path.is_file()} == files
    added = [json.loads(line) for line in (out / "events.jsonl").read_text().removeprefix(events).splitlines()]
    assert [event for event in added if event["event"] in ("transition", "trained")] == []


def test_features_and_picks_do_not_depend_on_workers_and_shards(
    finished_run: FinishedRun, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """A selection by two workers and one shard, beside the one worker and two shards of the finished run."""
    config = load_config(finished_run.config)
    for name in ("pool", "warmup"):
        shutil.copytree(finished_run.out / name, tmp_path / name)
    select(
        config.pool, config.target, str(tiny_model_dir), config.selection.k, str(tmp_path), features=config.features,
        lora=config.lora, selection=config.selection.model_copy(update={"shards": 1}), reading=config.reading,
        seed=config.seed, cluster=ClusterConfig(workers=2),
    )  # fmt: skip
    assert pool_features(tmp_path, finished_run.out).equals(pool_features(finished_run.out, finished_run.out))
    assert pq.read_table(tmp_path / "selected.parquet").equals(
        pq.read_table(finished_run.out / "rounds" / "0001" / "selected.parquet")
    )


@pytest.mark.parametrize(("rounds", "arms"), [(1, ["adapter"]), (ROUNDS, ["adapter", "control"])])
@pytest.mark.soak  # tests/faults kills at random moments, in every test run
def test_killing_the_driver_after_each_transition_changes_nothing(
    finished_run: FinishedRun, tiny_model_dir: Path, tmp_path: Path, mark: dict[str, str], rounds: int, arms: list[str]
) -> None:
    out = tmp_path / "run"
    task = shutil.copytree(finished_run.task, tmp_path / "task")
    config = write_run_config(task, tiny_model_dir, out, rounds=rounds, evaluation={"control": "control" in arms})
    states = [state for state in STATES if "control" in arms or not state.startswith("control")]
    kills = [(number, state) for number in range(1, rounds + 1) for state in states]
    killed = kill_after_each(Job.of_run(config, mark), out, kills)
    assert killed > len(kills) // 2, "most transitions were cut off one by one"
    undisturbed = outcome(finished_run.out, rounds, arms)
    for name, value in outcome(out, rounds, arms).items():
        assert value == undisturbed[name], name
    assert set(unit_files(out).values()) == {(1, 1)}
    assert ended(mark, 60.0), [process.cmdline() for process in alive(mark)]


@pytest.mark.soak
def test_a_harmful_round_is_rolled_back(tiny_model_dir: Path, tmp_path: Path) -> None:
    """All weights at a rate that ruins the model."""
    training = {"weights": "full", "epochs": 2, "batch_size": 2, "learning_rate": 0.5, "on_harm": "roll_back"}
    config = write_run_config(
        write_flawed_task(tmp_path / "task"), tiny_model_dir, tmp_path / "run", evaluation={"control": False},
        selection={"k": 8, "selector": "random"}, training={**training, "workers": 1},
    )  # fmt: skip
    result = run(load_config(config))
    second = result.summary.progress[1]
    assert (second.harmful, second.rolled_back, second.best, result.best) == (True, True, 1, 1)
    kept, first = tmp_path / "run" / "best", tmp_path / "run" / "rounds" / "0001" / "adapter"
    assert (kept / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    assert "HARMFUL, rolled back" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.soak
def test_all_weights_can_be_trained_in_every_round(tiny_model_dir: Path, tmp_path: Path) -> None:
    task = write_flawed_task(tmp_path / "task")
    config = write_run_config(
        task, tiny_model_dir, tmp_path / "run", training={"epochs": 1, "batch_size": 2, "weights": "full", "workers": 1}
    )
    with pytest.raises(ConfigError, match=r"features\.refresh"):
        run(load_config(config))
    result = run(load_config(config, ["features.refresh=never"]))
    losses = [arm.loss.value for arm in result.summary.arms if arm.name in ("base", "round 1", "round 2")]
    assert losses == sorted(losses, reverse=True)
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()
