"""Actors and training workers that are killed while a run goes on: it makes up for them by itself."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import FinishedRun
from tests.faults.conftest import Note
from tests.killed_run import STAGE_PROCESSES, Job
from tests.processes import alive, at_work, ended
from tests.tiny_run import outcome, unit_files, write_run_config

pytestmark = [pytest.mark.ray, pytest.mark.soak, pytest.mark.timeout(3600)]


def kill_when_there(name: str, process: subprocess.Popen[bytes], mark: dict[str, str]) -> bool:
    """SIGKILL a process of that name in the middle of its work; False where the run ended before."""
    while process.poll() is None:
        for one in at_work(name, alive(mark)):
            with suppress(psutil.NoSuchProcess):
                time.sleep(0.2)
                one.kill()
                return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("kind", STAGE_PROCESSES)
def test_a_lost_process_is_made_up_for(
    kind: str, finished_run: FinishedRun, tiny_model_dir: Path, tmp_path: Path, mark: dict[str, str], fault: Note
) -> None:
    def job(name: str) -> tuple[Job, Path]:
        task = shutil.copytree(finished_run.task, tmp_path / f"task-{name}")
        out = tmp_path / name
        config = write_run_config(task, tiny_model_dir, out, rounds=1, evaluation={"control": False})
        return Job.of_run(config, mark), out

    plain, undisturbed = job("undisturbed")
    started = time.monotonic()
    plain.finish()
    seconds = time.monotonic() - started
    disturbed, out = job("disturbed")
    started = time.monotonic()
    process = disturbed.start()
    assert kill_when_there(STAGE_PROCESSES[kind], process, mark), "the run ended before"
    assert process.wait(900) == 0, disturbed.said()
    lost = time.monotonic() - started - seconds
    expected = outcome(undisturbed, 1, ["adapter"])
    for name, value in outcome(out, 1, ["adapter"]).items():
        assert value == expected[name], name
    assert set(unit_files(out).values()) == {(1, 1)}
    assert ended(mark, 60.0), [process.cmdline() for process in alive(mark)]
    fault(f"process killed: {STAGE_PROCESSES[kind].rstrip('(')}", kind, lost)
