from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evoray.config.task import TaskName, with_path
from evoray.config_file import load_config
from evoray.errors import TargetError
from evoray.pool import find_target, read_target_split


def test_a_name_has_a_task_and_perhaps_a_folder() -> None:
    assert TaskName.of("lm-eval:arc_challenge") == TaskName(name="arc_challenge")
    assert TaskName.of("lm-eval:mine@a/b@c") == TaskName(name="mine", folder="a/b@c")
    assert str(TaskName.of("lm-eval:mine@a/b@c")) == "lm-eval:mine@a/b@c"
    assert TaskName.of("data/lm-eval") is None


@pytest.mark.parametrize("target", ["lm-eval:", "lm-eval:@tasks", "lm-eval:mine@"])
def test_a_name_without_a_task_or_folder_is_refused(target: str) -> None:
    with pytest.raises(TargetError, match="lm-eval:NAME"):
        TaskName.of(target)


def test_of_a_task_only_the_folder_is_a_path() -> None:
    assert with_path("a/b", str.upper) == "A/B"
    assert with_path("lm-eval:arc", str.upper) == "lm-eval:arc"
    assert with_path("lm-eval:arc@a/b", str.upper) == "lm-eval:arc@A/B"


def test_the_folder_of_a_task_starts_from_the_folder_of_the_config(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    for given, expected in [
        ("lm-eval:arc", "lm-eval:arc"),
        ("lm-eval:arc@tasks", f"lm-eval:arc@{tmp_path}/tasks"),
        ("lm-eval:arc@/all/tasks", "lm-eval:arc@/all/tasks"),
    ]:
        config.write_text(f"pool: pool.jsonl\ntarget: {given}\n")
        assert load_config(config).target == expected


def test_without_the_harness_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    target = f"lm-eval:arc@{tmp_path}"
    with pytest.raises(TargetError, match="pip install 'lm-eval"):
        find_target(target)
    with pytest.raises(TargetError, match="pip install 'lm-eval"):
        read_target_split(target, "align", 0)


def test_a_folder_of_tasks_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=f"no folder {tmp_path}/absent"):
        find_target(f"lm-eval:arc@{tmp_path}/absent")
