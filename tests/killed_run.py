"""Commands that are started as a shell would start them, killed, and started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: What Ray calls the processes that work in each stage of a run.
STAGE_PROCESSES = {
    "warm-up": "in_process",
    "features": "MapBatches(",
    "solver": "ShardActor",
    "training": "RayTrainWorker",
}

#: Log records, warnings, traces, and what Ray's workers print.
_OF_A_LIBRARY = re.compile(r"\b(DEBUG|INFO|WARNING)\b|Warning:|Traceback|\bpid=\d")

_SECONDS = 900.0  # for one start of a run to reach its next record, on a machine that does other things too


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command of evoray that goes on where it was ended."""

    arguments: tuple[str, ...]
    environment: dict[str, str]  # beside this process's own
    output: Path  # what the latest start says, on both streams

    @staticmethod
    def of_run(config: Path, environment: dict[str, str]) -> Job:
        """`evoray run CONFIG`."""
        return Job(arguments=("run", str(config)), environment=environment, output=config.with_name("output.txt"))

    def start(self) -> subprocess.Popen[bytes]:
        """In a session of its own."""
        with self.output.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "evoray.cli", *self.arguments],
                env={**os.environ, **self.environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self) -> None:
        """Start it and have it go to its end."""
        assert self.start().wait(_SECONDS) == 0, self.said()

    def wait_for(self, record: Path, process: subprocess.Popen[bytes]) -> None:
        """Until the record is there. Fails where the process ends before."""
        deadline = time.monotonic() + _SECONDS
        while not record.exists():
            assert process.poll() is None, f"ended before {record.name}: {self.said()}"
            assert time.monotonic() < deadline, f"no {record.name} in time"
            time.sleep(0.02)

    def said(self) -> str:
        """What the latest start wrote for a person."""
        return self.output.read_text("utf-8", "replace")

    def said_by_libraries(self) -> list[str]:
        """The lines of it that a library wrote for its own developers."""
        return [line for line in self.said().splitlines() if _OF_A_LIBRARY.search(line)]


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, as the kernel or a cloud would: nothing gets a chance to tidy up."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def kill_after_each(job: Job, out: Path, kills: Sequence[tuple[int, str]]) -> int:
    """Have a run killed after each (round, state), then let it end; how many kills there were.

    A state that is there already, since the process got further than it was to, is passed over.
    """
    killed = 0
    for number, state in kills:
        record = out / "rounds" / f"{number:04d}" / f"{state}.json"
        if record.exists():
            continue
        process = job.start()
        if state == "trained":  # this one is cut off in the middle: after a step whose checkpoint is there
            record = out / "checkpoints" / "rounds" / f"{number:04d}" / "adapter" / "step-000001.json"
        job.wait_for(record, process)
        kill(process)
        killed += 1
    job.finish()
    return killed
