"""Temporary folders: gone with the block, and those of killed processes with the next process that needs one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from evoray.storage import process_folder, scratch_folder

WAITS = "import time; time.sleep(600)"


def another(folder: Path, then: str = "") -> subprocess.Popen[str]:
    """A process that has made a scratch folder in `folder`, then does what it is told."""
    code = (
        "from evoray.storage import process_folder\n"
        "folder = process_folder(); (folder / 'a').write_text('b'); print(folder, flush=True)\n" + then
    )
    environment = {"TMPDIR": str(folder), "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert Path(process.stdout.readline().strip()).is_relative_to(folder)
    return process


def left(folder: Path) -> list[Path]:
    return sorted(folder.glob("evoray-*"))


def test_a_folder_ends_with_its_block_and_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder() as folder:
        assert list(folder.iterdir()) == []
        (folder / "sub").mkdir()
        assert left(tmp_path)
    assert left(tmp_path) == []
    assert another(tmp_path).wait() == 0
    assert left(tmp_path) == []


def test_what_a_killed_process_left_goes_and_what_is_in_use_stays(tmp_path: Path) -> None:
    alive, killed = another(tmp_path, WAITS), another(tmp_path, WAITS)
    kept, other = tmp_path / "evoray-notes", tmp_path / "elsewhere"
    kept.mkdir()  # none of ours: it has no lock
    other.mkdir()
    (other / "lock").touch()
    (tmp_path / "evoray-link").symlink_to(other)
    try:
        killed.kill()
        killed.wait()
        assert len(left(tmp_path)) == 4
        assert another(tmp_path).wait() == 0
        assert len(left(tmp_path)) == 3
        assert (other / "lock").exists()
    finally:
        alive.kill()
        alive.wait()
    assert another(tmp_path).wait() == 0
    assert left(tmp_path) == [tmp_path / "evoray-link", kept]


def test_a_folder_of_the_process_is_another_one_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert process_folder() != process_folder()
