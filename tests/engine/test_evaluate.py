"""Scores of whole splits through Ray: metrics of the user's, stored answers, comparisons, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evoray import evaluate, evaluate_paired
from evoray.config import ClusterConfig, EvaluationConfig, LoraConfig
from evoray.engine.session import Session
from evoray.errors import ConfigError, ModelError, TargetError
from evoray.evaluation.likelihood import RowScore, score_rows
from evoray.models.loading import load_for_inference, load_model, load_tokenizer, new_adapter
from evoray.pool import read_target_split
from tests.commands import Command
from tests.tiny import build_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CLUSTER = ClusterConfig(workers=1)
EXACT = EvaluationConfig(precision="float32")
#: Gives each row what its number and the length of the response say, so that no two rows can be mixed up.
METRIC = "def score(row, response):\n    return (int(row.id.split('-')[1]) + len(response) % 7) / {}\n"


def stored(folder: Path) -> list[dict[str, object]]:
    """Rows of the one store of scores that is younger than all others."""
    newest = max((folder / "scores").iterdir(), key=lambda store: store.stat().st_ctime_ns)
    rows: list[dict[str, object]] = pa.concat_tables(map(pq.read_table, newest.glob("*.parquet"))).to_pylist()
    return rows


def test_a_metric_in_the_current_directory_judges_until_it_is_edited(
    evoray: Command, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's weights are larger than usual, so that its answers differ."""
    model = build_tiny_model(tmp_path / "model", initializer_range=0.3)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def accuracy() -> float:
        facts = evoray.shown(
            "evaluate", "--model", model, "--target", task / "target", "--split", "test", "--scores", "kept",
            "--set", "evaluation.scorer=my_metric:score", "--set", "evaluation.max_new_tokens=5",
            "--set", "cluster.workers=1",
        )  # fmt: skip
        return float(facts["accuracy"])

    for divisor in (40, 50):
        (work / "my_metric.py").write_text(METRIC.format(divisor))
        found = accuracy()
        rows = stored(work / "kept")
        expected = [(int(str(row["id"])[5:]) + len(str(row["response"])) % 7) / divisor for row in rows]
        assert [row["correct"] for row in rows] == expected
        assert found == pytest.approx(np.mean(expected))
        assert len({row["response"] for row in rows}) > 6
        assert len(rows) == 12
    assert len(list((work / "kept" / "scores").iterdir())) == 2
    message = evoray.refused(
        "evaluate", "--model", model, "--target", "absent", "--set", "evaluation.scorer=my_metrics:score"
    )
    assert "no file of a module 'my_metrics'" in message


def test_two_models_are_compared_row_by_row_and_an_adapter_of_another_shape_is_refused(
    evoray: Command, task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The wide model is of the same family, with another hidden size."""
    wide = build_tiny_model(tmp_path / "wide", seed=1, hidden_size=64)
    new_adapter(load_model(str(wide)), LoraConfig(rank=2), 0).save_pretrained(tmp_path / "adapter")
    target, common = str(task / "target"), ("--set", "evaluation.precision=float32", "--set", "cluster.workers=1")
    facts = evoray.shown(
        "evaluate", "--target", target, "--model", wide, "--adapter", tmp_path / "adapter", "--against-model",
        tiny_model_dir, "--split", "test", "--scores", tmp_path / "kept", "--out", tmp_path / "c.json", *common,
    )  # fmt: skip
    assert json.loads((tmp_path / "c.json").read_text()) == facts

    def scores(model: Path) -> list[RowScore]:
        loaded = load_for_inference(str(model), None, None)  # a fresh adapter changes nothing
        return score_rows(loaded, load_tokenizer(str(model)), read_target_split(target, "test", 0)[0], 512)

    pairs = list(zip(scores(wide), scores(tiny_model_dir), strict=True))
    losses = [one.loss - other.loss for one, other in pairs]
    verdicts = [float(one.correct or 0) - float(other.correct or 0) for one, other in pairs]
    assert facts["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert facts["accuracy"] == pytest.approx(np.mean(verdicts))
    assert facts["loss_low"] <= facts["loss"] <= facts["loss_high"]
    assert (facts["rows"], facts["verdicts"]) == (12, 12)
    for side, model, adapter, place in (
        ("model", wide, str(tmp_path / "adapter"), 0),
        ("against", tiny_model_dir, None, 1),
    ):
        assert (facts[side]["model"], facts[side]["adapter"]) == (str(model), adapter)
        assert facts[side]["loss"] == pytest.approx(np.mean([pair[place].loss for pair in pairs]), abs=1e-5)
    message = evoray.refused(
        "evaluate", "--target", target, "--model", tiny_model_dir, "--adapter", tmp_path / "adapter", *common
    )
    assert "an adapter trained on a model of this shape" in message


def test_what_a_target_does_not_hold_is_refused(
    ray_session: Session, task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    dev = task / "target" / "validate.jsonl"
    with pytest.raises(TargetError, match="no test split"):
        evaluate(str(tiny_model_dir), str(dev), str(tmp_path / "s"), split="test", cluster=CLUSTER)
    (task / "raw.jsonl").write_text('{"text": "abc"}\n' * 2 + '{"text": "abd"}\n')
    for scorer, reason in (("choice", "no row with choices"), ("exact_match", "raw text alone")):
        settings = EvaluationConfig(scorer=scorer)
        with pytest.raises(TargetError, match=reason):
            evaluate(
                str(tiny_model_dir), str(task / "raw.jsonl"), str(tmp_path / "s"), evaluation=settings, cluster=CLUSTER
            )
    assert not list((tmp_path / "s").rglob("unit-*"))


def test_a_model_is_not_compared_with_itself_nor_with_what_is_not_there(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="on both sides"):
        evaluate_paired("t", str(tiny_model_dir), str(tmp_path), against_model=str(tiny_model_dir))
    with pytest.raises(ModelError, match="no such directory"):
        evaluate_paired("t", str(tiny_model_dir), str(tmp_path), adapter=str(tmp_path / "absent"), cluster=CLUSTER)


def test_marks_of_a_start_that_was_killed_after_its_last_unit_are_cleared(
    evoray: Command, task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    command = (
        "evaluate", "--model", tiny_model_dir, "--target", task / "target", "--scores", kept,
        "--set", "cluster.workers=1",
    )  # fmt: skip
    first = evoray.shown(*command)
    (store,) = (kept / "scores").iterdir()
    left = store / "attempt-0a1b2c3d-unit-000000.0"
    left.write_bytes(b"process 1 on host")
    assert evoray.shown(*command) == first
    assert not left.exists()
