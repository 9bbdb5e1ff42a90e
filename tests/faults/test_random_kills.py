"""A driver that is killed at any moment: the run that is started again ends as one that was never touched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import FinishedRun
from tests.faults.conftest import Note
from tests.killed_run import Job, kill
from tests.processes import alive, ended
from tests.tiny_run import outcome, unit_files, write_run_config

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(6 * 3600)]

SEED = 20261126
#: Shortest part of a run's time that passes before a kill: earlier the process is still importing.
EARLIEST = 0.1


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One run directory, and the command that fills it."""

    job: Job
    out: Path


def kill_at_random(
    make: Callable[[int], Attempt],
    check: Callable[[Attempt], None],
    kills: int,
    seconds: float,
    fault: Note,
) -> None:
    """Kill runs of some `seconds` at random moments, as often as asked, and check each that came to its end.

    Only kills that hit a living process count; the time lost is what all starts took beyond undisturbed runs.
    """
    generator = np.random.default_rng(SEED)
    hits: list[str] = []
    place, spent = 0, 0.0
    while len(hits) < kills:
        attempt = make(place)
        place += 1
        finished: dict[Path, int] = {}
        while True:
            moment = generator.uniform(EARLIEST, 1.0) * seconds
            started = time.monotonic()
            process = attempt.job.start()
            over = ended_within(process, moment if len(hits) < kills else None)
            if not over:
                kill(process)
            spent += time.monotonic() - started
            assert_kept(finished)
            if over:
                assert process.returncode == 0, attempt.job.said()
                break
            hits.append(latest_stage(attempt.out))
            finished = committed(attempt.out)
        check(attempt)
    for stage in hits:
        fault("driver killed at a random moment", stage, (spent - place * seconds) / kills)


def ended_within(process: subprocess.Popen[bytes], seconds: float | None) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def latest_stage(out: Path) -> str:
    """The stage after which the run was killed, as its log has it; it may end in the middle of a line."""
    stages = ["start"]
    for line in (out / "events.jsonl").read_text().splitlines() if (out / "events.jsonl").exists() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event["event"] == "stage":
            stages.append(" ".join(event["stage"].split()[:2]))
    return f"after {stages[-1]}"


def committed(out: Path) -> dict[Path, int]:
    """Every commit record and its data file, with the time at which it was written."""
    records = [path for path in out.rglob("unit-*.json") if path.is_file()]
    data = [path for record in records for path in record.parent.glob(f"{record.stem}.*.parquet")]
    return {path: path.stat().st_mtime_ns for path in (*records, *data)}


def assert_kept(finished: dict[Path, int]) -> None:
    """What was committed before a kill is still there, and was not written again."""
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def names(out: Path) -> Counter[str]:
    """Relative paths of all files, fingerprints and names of attempts left out.

    Not counted: curves, of which each start writes a file, and marks of who took a dead process's lock, which have to
    stay: they keep a slower taker from removing the new one.
    """
    found = [str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()]
    kept = [name for name in found if not name.startswith(("tensorboard/", "lock-stale/"))]
    return Counter(re.sub(r"[0-9a-f]{8,}", "*", name) for name in kept)


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_a_driver_killed_at_random_moments_changes_nothing(
    kills: int, finished_run: FinishedRun, tiny_model_dir: Path, tmp_path: Path, mark: dict[str, str], fault: Note
) -> None:
    def make(place: int | str) -> Attempt:
        out = tmp_path / f"run-{place}"
        task = shutil.copytree(finished_run.task, tmp_path / f"task-{place}")
        config = write_run_config(task, tiny_model_dir, out, rounds=1, evaluation={"control": False})
        return Attempt(job=Job.of_run(config, mark), out=out)

    undisturbed = make("undisturbed")
    started = time.monotonic()
    undisturbed.job.finish()
    seconds = time.monotonic() - started
    assert undisturbed.job.said_by_libraries() == []
    expected = outcome(undisturbed.out, 1, ["adapter"])

    def check(attempt: Attempt) -> None:
        for name, value in outcome(attempt.out, 1, ["adapter"]).items():
            assert value == expected[name], name
        assert set(unit_files(attempt.out).values()) == {(1, 1)}
        assert names(attempt.out) == names(undisturbed.out), "neither a file lost nor a temporary one left"

    kill_at_random(make, check, kills, seconds, fault)
    assert ended(mark, 60.0), [process.cmdline() for process in alive(mark)]


@pytest.mark.soak
def test_the_small_demo_killed_at_random_moments_chooses_the_same(
    tmp_path: Path, mark: dict[str, str], fault: Note
) -> None:
    """With the embedded model, whose stages are long."""

    def make(place: int | str) -> Attempt:
        out = tmp_path / f"demo-{place}"
        arguments = ("demo", "--small", "--out", str(out))
        return Attempt(job=Job(arguments=arguments, environment=mark, output=tmp_path / f"output-{place}.txt"), out=out)

    undisturbed = make("undisturbed")
    started = time.monotonic()
    undisturbed.job.finish()
    seconds = time.monotonic() - started

    def check(attempt: Attempt) -> None:
        assert chosen(attempt.out) == chosen(undisturbed.out)
        assert set(unit_files(attempt.out).values()) == {(1, 1)}

    kill_at_random(make, check, 5, seconds, fault)
    assert ended(mark, 60.0), [process.cmdline() for process in alive(mark)]


def chosen(out: Path) -> list[Sequence[str]]:
    """Ids that each round chose, and what the manifest pins."""
    rounds = sorted((out / "rounds").glob("*/selected.json"))
    return [*(json.loads(path.read_text())["ids"] for path in rounds), (out / "manifest.json").read_text()]
