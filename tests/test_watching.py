"""What a run shows of itself while it works, to a process that knows its directory alone."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evoray.cli_output import show_live
from evoray.engine import events as events_module
from evoray.engine.events import PROGRESS, Events, Silent
from evoray.engine.lock import run_lock
from evoray.errors import ConfigError, StorageError
from evoray.report.live import status_view
from evoray.storage import Storage
from evoray.watching import status, watch


@pytest.fixture
def begun(tmp_path: Path) -> Storage:
    """A run whose first round has got as far as its features."""
    (tmp_path / "config.yaml").write_text("pool: p\n")
    storage = Storage(tmp_path)
    for state in ("generated", "featurised"):
        storage.write_json(f"rounds/0001/{state}.json", {})
    return storage


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "_PUBLISHED_S", 0.0)


def shown(found: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(status_view(found))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


@pytest.mark.usefixtures("at_once")
def test_a_running_stage_is_seen_from_elsewhere(begun: Storage) -> None:
    with run_lock(begun), Events(begun).about(round=1).stage("align and select 1", 40) as stage:
        assert status(begun.uri)["running"]["done"] == 0
        stage.advance(2)
        assert status(begun.uri)["running"]["seconds_left"] is None, "of a first report no rate is known"
        time.sleep(0.3)
        stage.count(units=10, rows=640, tokens=12_800, quarantined=3)
        stage.highest(actors=2, peak_mb=800.4)
        stage.advance(8)
        found = status(begun.uri)
        running = found["running"]
        assert (running["stage"], running["round"], running["done"], running["total"]) == (
            "align and select 1",
            1,
            10,
            40,
        )
        assert running["rows_per_second"] == pytest.approx(640 / running["seconds"], rel=0.01)
        assert running["tokens_per_second"] == pytest.approx(20 * running["rows_per_second"], rel=0.01)
        assert running["seconds_left"] == pytest.approx(30 / 8 * running["seconds"], rel=0.4)
        assert found["rounds"] == {1: ["generated", "featurised"]}
        assert found["quarantined"] == 3
        text = shown(found)
        for part in (
            "driven by process",
            "generated, featurised",
            "10/40",
            "2 actors",
            "rows/s",
            "up to 800 MB in one",
        ):
            assert part in text
    assert not begun.exists(PROGRESS)
    found = status(begun.uri)
    assert (found["running"], found["lock"], found["quarantined"]) == (None, None, 3), "the log has it"
    assert "nobody drives it" in shown(found)


@pytest.mark.usefixtures("at_once")
def test_what_an_earlier_start_did_is_no_part_of_the_rate(begun: Storage) -> None:
    with run_lock(begun), Events(begun).stage("train round 1", 0) as stage:
        stage.share(900, 1000)
        assert status(begun.uri)["running"]["seconds_left"] is None
        time.sleep(0.3)
        stage.share(910, 1000)
        running = status(begun.uri)["running"]
    assert running["seconds_left"] == pytest.approx(9 * running["seconds"], rel=0.4)


def test_a_driver_that_was_killed_is_not_waited_for(begun: Storage) -> None:
    mine = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": 1.0, "token": "x"}
    begun.write_json("lock.json", mine)
    begun.write_json(
        PROGRESS,
        {"time": time.time() - 120, "stage": "score", "done": 1, "total": 2, "seconds": 3.0, "seconds_left": 3.0},
    )
    (found,) = watch(begun.uri, 0.1)
    assert found["abandoned"]
    text = shown(found)
    assert "has ended: the command that began it goes on" in text and "last seen 2 min" in text


def test_progress_that_cannot_be_written_stops_nothing(begun: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise StorageError("a full disk", "room", "make some")

    monkeypatch.setattr(Storage, "write_json", fails)
    notes: list[str] = []
    display = Silent()
    monkeypatch.setattr(display, "note", notes.append)
    events = Events(begun, display)
    with events.stage("score", 2) as stage:
        stage.advance(2)
    assert len(notes) == 1 and "will not see this stage: a full disk" in notes[0]


def test_progress_is_written_now_and_then_only(begun: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(Events, "publish", lambda _events, **facts: written.append(facts))
    with Events(begun).stage("score", 1000) as stage:
        for _ in range(1000):
            stage.advance()
    assert [one["done"] for one in written] == [0], "a thousand steps within a second are one write"


def test_work_beside_other_work_does_not_speak_for_the_run(begun: Storage) -> None:
    with Events(begun).stage("train 4 models", 4), Events(begun).unseen().stage("train one", 9):
        assert begun.read_json(PROGRESS)["stage"] == "train 4 models"
    assert not begun.exists(PROGRESS)


def test_a_stage_that_failed_leaves_what_it_had_done(begun: Storage) -> None:
    with pytest.raises(OSError, match="lost"), Events(begun).stage("featurise pool", 3):
        raise OSError("lost")
    assert begun.read_json(PROGRESS)["stage"] == "featurise pool"
    assert status(begun.uri)["running"] is None, "nobody holds the lock"


def test_watching_ends_with_the_driver(begun: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    lock = run_lock(begun)
    lock.__enter__()
    looks: list[float] = []

    def meanwhile(seconds: float) -> None:
        looks.append(seconds)
        changes[len(looks) - 1]()

    def finish() -> None:
        begun.write_json("summary.json", {})
        lock.__exit__(None, None, None)

    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: begun.write_json("rounds/0001/aligned.json", {}),
        finish,
    ]
    show_live(watch(begun.uri, 0.5, meanwhile))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(line["rounds"]["1"]) for line in lines] == [2, 3, 3], "a line a change"
    assert [line["finished"] for line in lines] == [False, False, True]
    assert looks == [0.5] * 3


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        status(str(tmp_path))
