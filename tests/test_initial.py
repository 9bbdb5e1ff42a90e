"""The config that `evoray init` writes: it is what was asked for, and each key behind # has the value that is shown."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from evoray.cli_settings import answers
from evoray.config import RunConfig
from evoray.config_file import build_config, load_config
from evoray.errors import ConfigError, PoolError, TargetError
from evoray.initial import initial_text, write_initial
from tests.commands import Command

GIVEN: dict[str, Any] = {"pool": "pool/*.jsonl", "target": "my: task", "rounds": 3, "selection.k": "1000tok"}
ASKED = dict.fromkeys(("pool", "target", "model", "out", "rounds", "selection.k"))


def test_it_is_what_was_asked_for() -> None:
    config = build_config(yaml.safe_load(initial_text("run.yaml", GIVEN)))
    expected = RunConfig.model_validate(
        {"pool": "pool/*.jsonl", "target": "my: task", "rounds": 3, "selection": {"k": "1000tok"}}
    )
    assert config == expected


def test_every_key_behind_a_mark_has_the_value_that_is_shown() -> None:
    text = initial_text("run.yaml", GIVEN)
    _, _, body = text.partition("\n\n")
    unmarked = re.sub(r"(?m)^#", "", body)
    assert build_config(yaml.safe_load(unmarked)) == build_config(yaml.safe_load(text))
    keys = [line.split(":")[0].strip() for line in unmarked.splitlines() if line.strip()]
    assert len(keys) > 80
    assert set(RunConfig.model_fields) <= set(keys)


def test_what_keys_mean_stands_behind_them() -> None:
    _, _, body = initial_text("run.yaml", GIVEN).partition("\n\n")
    lines = body.splitlines()
    assert [line for line in lines if line and "  # " not in line] == []
    assert any(line.startswith("rounds: 3  # of choosing and training") for line in lines)
    assert any(line.startswith("#  dim: 2048  # ") for line in lines)


@pytest.mark.parametrize("place", ["configs/run.yaml", "run.yaml"])
def test_paths_start_from_the_file_that_names_them(place: str, task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(task)
    path = task / place
    path.parent.mkdir(exist_ok=True)
    write_initial(Path(place), {"pool": "pool.jsonl", "target": "target"})
    config = load_config(path)
    assert Path(str(config.pool)).resolve() == (task / "pool.jsonl").resolve()
    assert Path(config.target).resolve() == (task / "target").resolve()


def test_a_local_model_starts_from_the_file_too(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(task)
    (task / "m").mkdir()
    (task / "configs").mkdir(exist_ok=True)
    write_initial(Path("configs/run.yaml"), {"pool": "pool.jsonl", "target": "target", "model": "m"})
    assert Path(load_config(task / "configs" / "run.yaml").model).resolve() == (task / "m").resolve()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"pool": "absent.jsonl"}, PoolError),
        ({"target": "absent"}, TargetError),
        ({"rounds": 0}, ConfigError),
        ({"selection.k": "many"}, ConfigError),
        ({"selection.k": "["}, ConfigError),
    ],
)
def test_what_a_run_would_refuse_is_refused_and_nothing_written(
    change: dict[str, Any], error: type[Exception], task: Path, tmp_path: Path
) -> None:
    given = {"pool": str(task / "pool.jsonl"), "target": str(task / "target"), **change}
    with pytest.raises(error):
        write_initial(tmp_path / "run.yaml", given)
    assert list(tmp_path.glob("*.yaml")) == []


def test_a_file_that_is_there_stays(task: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        write_initial(path, {"pool": str(task / "pool.jsonl"), "target": str(task / "target")})
    assert path.read_text() == "mine"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_a_terminal_it_asks_for_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("*.jsonl\n\n\n5\n0.2\n"))
    assert answers({**ASKED, "target": "task"}) == {
        "pool": "*.jsonl", "target": "task", "model": "smollm2", "out": "evoray-run", "rounds": 5, "selection.k": 0.2,
    }  # fmt: skip


def test_elsewhere_it_says_which_flags_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(ConfigError, match="no --pool and --target, and no terminal"):
        answers(ASKED)
    assert answers({**ASKED, "pool": "p", "target": "t", "selection.k": "["})["selection.k"] == "["
    assert answers({**ASKED, "pool": "p", "target": "t", "selection.k": "500"}) == {
        "pool": "p", "target": "t", "selection.k": 500,
    }  # fmt: skip


def test_the_command(evoray: Command, task: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    answer = evoray("init", path, "--pool", task / "pool.jsonl", "--target", task / "target", "--k", 7)
    assert (answer.code, answer.out) == (0, f"Written: {path}. Next: evoray plan {path}, then evoray run {path}\n")
    assert load_config(path).selection.k == 7
