"""Runs that are started as a shell would start them, killed at their records, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_SECONDS = 900.0  # for one start of a run to reach its next record, on a machine that does other things too


def kill_after_each(config: Path, out: Path, kills: Sequence[tuple[int, str]], mark: dict[str, str]) -> int:
    """Have a run killed after each (round, state), then let it end; how many kills there were.

    A state that is there already, since the process got further than it was to, is passed over.
    """
    killed = 0
    for number, state in kills:
        record = out / "rounds" / f"{number:04d}" / f"{state}.json"
        if record.exists():
            continue
        process = start(config, mark)
        if state == "trained":  # this one is cut off in the middle: after a step whose checkpoint is there
            record = out / "checkpoints" / "rounds" / f"{number:04d}" / "adapter" / "step-000001.json"
        wait_for(record, process, config)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
    finish(config, mark)
    return killed


def finish(config: Path, mark: dict[str, str]) -> None:
    """Have a run go to its end."""
    last = start(config, mark)
    assert last.wait(_SECONDS) == 0, _errors(config).read_text()


def start(config: Path, mark: dict[str, str]) -> subprocess.Popen[bytes]:
    """`evoray run` in a session of its own."""
    with _errors(config).open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "evoray.cli", "run", str(config)],
            env={**os.environ, **mark},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )


def wait_for(record: Path, process: subprocess.Popen[bytes], config: Path) -> None:
    """Until the record is there. Fails where the process ends before."""
    deadline = time.monotonic() + _SECONDS
    while not record.exists():
        assert process.poll() is None, f"ended before {record.name}: {_errors(config).read_text()}"
        assert time.monotonic() < deadline, f"no {record.name} in time"
        time.sleep(0.02)


def _errors(config: Path) -> Path:
    return config.with_name("errors.txt")
