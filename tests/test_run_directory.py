"""Run directories from outside: never mixed up, never deleted by mistake, one driver each."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.commands import Command
from tests.conftest import FinishedRun
from tests.engine.test_lock import holder_in

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


def test_a_config_that_changed_under_its_run_is_shown_line_by_line(evoray: Command, finished_run: FinishedRun) -> None:
    message = evoray.refused("run", finished_run.config, "--seed", 7)
    assert "seed: 0 -> 7" in message
    assert "--anew" in message


def test_a_refused_config_can_be_corrected(evoray: Command, config: Path) -> None:
    evoray.refused("run", config, "--set", "pool=/absent.jsonl")
    assert "other.jsonl" in evoray.refused("run", config, "--set", "pool=/other.jsonl")


def test_a_place_that_cannot_hold_a_run_is_refused(evoray: Command, config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", "nowhere://bucket/run"):
        assert "storage at" in evoray.refused("run", config, "--out", place)


def test_anew_deletes_a_run_and_nothing_else(evoray: Command, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / "notes").mkdir(parents=True)
    (out / "notes" / "mine.txt").write_text("kept")
    evoray.refused("run", config, "--anew", "--set", "pool=/absent.jsonl")
    (out / "rounds").mkdir()
    (out / "rounds" / "old.json").write_text("{}")
    evoray.refused("run", config, "--anew", "--set", "pool=/absent.jsonl")
    assert (out / "notes" / "mine.txt").read_text() == "kept"
    assert not (out / "rounds" / "old.json").exists()


@pytest.mark.parametrize("mine", ["mine: 1\n", "pool: p\ntarget: t\nmodel: m\nout: .\nrounds: 2\nselection: {k: 5}\n"])
def test_a_config_that_evoray_did_not_write_is_left_alone(
    mine: str, evoray: Command, config: Path, tmp_path: Path
) -> None:
    """A person's own config may lie there, and the pool beside it."""
    out = tmp_path / "run"
    (out / "pool").mkdir(parents=True)
    (out / "pool" / "a.jsonl").write_text("kept")
    (out / "config.yaml").write_text(mine)
    for options in ([], ["--anew"]):
        assert "not the record of a run" in evoray.refused("run", config, *options)
    assert (out / "config.yaml").read_text() == mine
    assert (out / "pool" / "a.jsonl").read_text() == "kept"


def test_a_run_of_a_version_that_knew_fewer_keys_goes_on(evoray: Command, finished_run: FinishedRun) -> None:
    record = finished_run.out / "config.yaml"
    before = record.read_text()
    older = yaml.safe_load(before)
    del older["machines"]
    record.write_text(yaml.safe_dump(older))
    try:
        assert evoray("run", finished_run.config).code == 0
    finally:
        record.write_text(before)


def test_a_run_directory_in_use_is_refused_with_its_holder(evoray: Command, config: Path, tmp_path: Path) -> None:
    holder = holder_in(tmp_path / "run")
    try:
        assert f"process {holder.pid}" in evoray.refused("run", config)
    finally:
        holder.kill()
        holder.wait()


def test_a_folder_without_a_run_is_refused(evoray: Command, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    evoray.refused("status", tmp_path / "folder")
    evoray.refused("report", tmp_path / "folder")


def test_a_path_that_is_not_there_is_not_created_by_a_look_at_it(evoray: Command, tmp_path: Path) -> None:
    evoray.refused("status", tmp_path / "absent")
    evoray.refused("report", tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
