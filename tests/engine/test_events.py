"""The log: every line says where it belongs, and a failure says how to go on."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evoray.engine.events import Events, Silent
from evoray.errors import ConfigError, StageError
from evoray.program import run_program, typed
from evoray.storage import Storage


def test_every_line_says_where_it_belongs(tmp_path: Path) -> None:
    events = Events(Storage(str(tmp_path))).about(run="here")
    later = events.about(round=2)
    with later.stage("featurise", 3, parts=3) as stage:
        stage.report("unit failed", unit=7)
        for rows in (2, 3):
            stage.count(rows=rows)
    events.write("over")
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert all(line.pop("time") > 0 for line in lines)
    assert lines[0] == {"event": "unit failed", "run": "here", "round": 2, "stage": "featurise", "unit": 7}
    assert lines[1].pop("seconds") >= 0
    assert lines[1] == {
        "event": "stage", "run": "here", "round": 2, "stage": "featurise", "finished": True, "parts": 3, "rows": 5,
    }  # fmt: skip
    assert lines[2] == {"event": "over", "run": "here"}


def test_a_stage_that_fails_leaves_its_line(tmp_path: Path) -> None:
    events = Events(Storage(str(tmp_path)))
    with pytest.raises(StageError), events.stage("train", 1):
        raise StageError("a", "b", "c")
    (line,) = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert (line["stage"], line["finished"]) == ("train", False)


class Heard(Silent):
    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.stages: list[str] = []

    def begin(self, name: str, total: int) -> None:
        self.stages.append(name)

    def event(self, facts: Mapping[str, Any]) -> None:
        self.events.append(facts)


def test_a_display_gets_every_line_as_it_is_written_also_of_work_beside_other_work(tmp_path: Path) -> None:
    display = Heard()
    events = Events(Storage(str(tmp_path)), display).about(run="here")
    with events.stage("read", 1) as stage:
        stage.waits(61.3, "unit-000003")
    with events.unseen().about(round=1).stage("train", 1):
        pass
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert display.events == lines
    assert [line["event"] for line in lines] == ["waiting", "stage", "stage"]
    assert (lines[0]["stage"], lines[0]["seconds"], lines[0]["waits_for"]) == ("read", 61, "unit-000003")
    assert display.stages == ["read"], "work beside other work has no bar"


def test_a_wait_that_cannot_be_logged_ends_no_stage(tmp_path: Path) -> None:
    noted: list[str] = []

    class Noted(Silent):
        def note(self, text: str) -> None:
            noted.append(text)

    storage = Storage(str(tmp_path / "run"))
    with Events(storage, Noted()).stage("read", 1) as stage:
        (tmp_path / "run" / "events.jsonl").mkdir(parents=True)
        stage.waits(60.0, "unit-000003")
        (tmp_path / "run" / "events.jsonl").rmdir()
    assert "nothing done for 60 s; unit-000003 (not in events.jsonl: " in noted[0]


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("/somewhere/bin/evoray", "evoray run 'my config.yaml'"),
        ("jobs/run_loop.py", "python jobs/run_loop.py run 'my config.yaml'"),
    ],
)
def test_a_failure_shows_the_command_that_goes_on(
    program: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "run", "my config.yaml", "--anew"])

    def fails() -> None:
        raise StageError("a lost disk", "a disk", "find it")

    with pytest.raises(SystemExit) as ended:
        run_program(fails)
    assert ended.value.code == 1
    assert f"to go on from here: {command}\n" in capsys.readouterr().err


def test_a_job_shows_the_command_that_submitted_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["evoray/driver.py", "run", "submitted.yaml"])
    monkeypatch.setenv("EVORAY_COMMAND", "evoray submit mine.yaml")
    assert typed() == "evoray submit mine.yaml"


def test_a_mistake_in_the_input_is_to_be_corrected_first(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise ConfigError("k = 0", "k of 1 or more", "raise it")

    with pytest.raises(SystemExit) as ended:
        run_program(fails)
    assert ended.value.code == 2
    assert "to go on" not in capsys.readouterr().err
