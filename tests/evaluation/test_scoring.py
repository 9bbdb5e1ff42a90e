from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from evoray.config import EvaluationConfig
from evoray.engine.proxy import Checkpoint
from evoray.engine.site import Source
from evoray.engine.stages import Target, scores_name
from evoray.engine.workers import TargetRows
from evoray.errors import ConfigError
from evoray.evaluation.generation import generate
from evoray.evaluation.likelihood import score_rows
from evoray.evaluation.scoring import Scoring
from evoray.models.loading import load_model
from evoray.records import Message, Row
from tests.tiny import build_tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def ask(name: str, question: str, reference: str, **facts: Any) -> Row:
    return Row(id=name, messages=(Message("user", question), Message("assistant", reference)), **facts)


ROWS = [
    ask("sum", "1+1?", "2", answer="2", choices=("2", "3"), subtask="maths"),
    ask("name", "who?", "it was Ada", subtask="names"),
    Row(id="raw", messages=(Message("assistant", "raw text"),)),
    ask("unanswered", "a or b?", "a", choices=("a", "b")),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    """With larger weights than usual, so that it answers every row in another way."""
    return load_model(str(build_tiny_model(tmp_path_factory.mktemp("model"), initializer_range=0.3)))


def settings(**keys: Any) -> EvaluationConfig:
    return EvaluationConfig(precision="float32", max_new_tokens=6, **keys)


def scored(model: PreTrainedModel, **keys: Any) -> list[Any]:
    return Scoring.of(settings(**keys)).open(model, TOKENIZER, 100)(ROWS)


@pytest.fixture
def answers(model: PreTrainedModel) -> list[str | None]:
    return generate(model, TOKENIZER, ROWS, 100, 6)


@pytest.mark.parametrize("scorer", ["auto", "choice"])
def test_choices_are_judged_by_likelihood_and_nothing_is_generated(model: PreTrainedModel, scorer: str) -> None:
    found = scored(model, scorer=scorer)
    assert found == score_rows(model, TOKENIZER, ROWS, 100, token_budget=1024)
    assert [one.correct is None for one in found] == [False, True, True, True]


@pytest.mark.parametrize("scorer", ["loss", "exact_match"])
def test_the_loss_of_every_row_is_the_same_under_every_scorer(model: PreTrainedModel, scorer: str) -> None:
    expected = [one.loss for one in scored(model)]
    assert [one.loss for one in scored(model, scorer=scorer)] == pytest.approx(expected, abs=1e-5)


def test_loss_gives_no_verdicts(model: PreTrainedModel) -> None:
    assert {(one.correct, one.choice_scores, one.response) for one in scored(model, scorer="loss")} == {(None,) * 3}


def test_exact_match_judges_every_generated_answer_and_keeps_it(
    model: PreTrainedModel, answers: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = scored(model, scorer="exact_match", extract="whole")
    assert len(set(answers)) == len(ROWS)
    assert [one.response for one in found] == answers
    assert [one.correct for one in found] == [0.0, 0.0, None, 0.0]
    replies = ["it is 2.0.", "it was  ada.", None, "b"]
    monkeypatch.setattr("evoray.evaluation.generation.generate", lambda *_arguments, **_settings: replies)
    rules = {"maths": "last_number", "names": "whole", "*": "regex:[ab]"}
    assert [one.correct for one in scored(model, scorer="exact_match", extract=rules)] == [1.0, 1.0, None, 0.0]


def test_a_metric_judges_every_generated_answer(
    model: PreTrainedModel, answers: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "lengths.py").write_text("def of(row, response):\n    return min(len(response), 9) / 10\n")
    found = scored(model, scorer="lengths:of")
    assert [one.response for one in found] == answers
    assert [one.correct for one in found] == [None if text is None else min(len(text), 9) / 10 for text in answers]


def test_what_cannot_be_scored_by_is_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match="last_number"):
        Scoring.of(EvaluationConfig(extract="last_numbr"))
    with pytest.raises(ConfigError, match="absent"):
        Scoring.of(EvaluationConfig(scorer="absent:f"))


Change = Callable[[dict[str, Any]], None]


def named(folder: Path, **changes: Any) -> str:
    """The name of scores, with some of what they depend on changed."""
    facts = {"rows": "rows", "model": "model", "max_tokens": 64, "list_options": False, **changes}
    keys = {name: value for name, value in facts.items() if name in EvaluationConfig.model_fields}
    target = Target(
        split="validate",
        source=Source(
            rows=TargetRows(path="t", split="validate", seed=0, unit_rows=64), units=(0,), identity=facts["rows"]
        ),
        weights={},
        subtasks={}, rows=3, choices=1, questions=3, quarantine=None,
    )  # fmt: skip
    checkpoint = Checkpoint(model="m", adapter=None, identity=facts["model"])
    return scores_name(checkpoint, target, Scoring.of(EvaluationConfig(**keys)), facts["max_tokens"])


def test_scores_have_another_name_for_everything_that_matters_and_for_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("f = g = len\n")
    matters: list[dict[str, Any]] = [
        {},
        {"rows": "other rows"},
        {"model": "other model or adapter"},
        {"max_tokens": 65},
        {"precision": "bfloat16"},
        {"batch_tokens": 99},
        {"scorer": "loss"},
        {"scorer": "exact_match"},
        {"scorer": "exact_match", "extract": "boxed"},
        {"scorer": "exact_match", "extract": {"a": "boxed", "*": "whole"}},
        {"scorer": "exact_match", "max_new_tokens": 9},
        {"scorer": "mine:f"},
        {"scorer": "mine:g"},
        {"scorer": "mine:f", "max_new_tokens": 9},
    ]
    names = [named(tmp_path, **change) for change in matters]
    assert len(set(names)) == len(matters)
    (tmp_path / "mine.py").write_text("f = g = len  # edited\n")
    assert named(tmp_path, scorer="mine:f") not in names
    assert {
        named(tmp_path, **change) for change in ({"control": False}, {"max_new_tokens": 9}, {"extract": "boxed"})
    } == {names[0]}
    assert named(tmp_path, scorer="exact_match", control=False) == named(tmp_path, scorer="exact_match")
    # Listed options show in the rows: `open_target` names the source by them.
    assert named(tmp_path, list_options=True) == names[0]
