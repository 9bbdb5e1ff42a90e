"""Features after an actor and then the driver were killed in the middle of a pool: the same bytes, no unit twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from evoray import featurize
from evoray.config import FeatureConfig, LoraConfig, PoolConfig, WarmupConfig
from evoray.engine.session import Session
from evoray.storage import Storage, UnitStore
from tests.processes import alive, named
from tests.tiny_run import unit_files
from tests.tiny_task import write_task

# Soak: drivers are killed in tests/faults, and actors in test_units.py, in every test run.
pytestmark = [pytest.mark.ray, pytest.mark.soak, pytest.mark.timeout(1800)]

_SECONDS = 600.0


def start(task: Path, model: Path, out: Path, mark: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "evoray.cli", "featurize", "--pool", str(task / "pool.jsonl"), "--model", str(model)),
        *("--out", str(out), "--dim", "64", "--max-tokens", "96"),
        *("--set", "reading.unit_rows=8", "--set", "lora.rank=2", "--set", "features.warmup.rows=8"),
        *("--set", "cluster.workers=1"),
    ]
    with out.with_suffix(".txt").open("ab") as errors:
        return subprocess.Popen(
            command, env={**os.environ, **mark}, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )


def wait_until(condition: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def commits(out: Path) -> int:
    return len(list(out.glob("features/*/unit-*.json")))


def unit_actor(mark: dict[str, str]) -> psutil.Process | None:
    """The process in which Ray Data computes units."""
    return next(iter(named("MapBatches(", alive(mark))), None)


def features(out: Path) -> pa.Table:
    (folder,) = (out / "features").iterdir()
    store = UnitStore(Storage(out), f"features/{folder.name}")
    return pa.concat_tables([store.read(commit) for commit in store.commits().values()])


def test_features_are_the_same_after_an_actor_and_the_driver_were_killed(
    ray_session: Session, tiny_model_dir: Path, tmp_path: Path, mark: dict[str, str]
) -> None:
    task = write_task(tmp_path / "task", pool_rows=96)
    out, log = tmp_path / "disturbed", tmp_path / "disturbed.txt"
    first = start(task, tiny_model_dir, out, mark)
    wait_until(lambda: commits(out) >= 1, first, log)
    actor = unit_actor(mark)
    assert actor is not None
    actor.kill()
    killed_at = commits(out)
    wait_until(lambda: commits(out) >= killed_at + 2, first, log)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    survived = commits(out)
    assert survived < 12, "the driver was killed before the last unit"
    again = start(task, tiny_model_dir, out, mark)
    assert again.wait(_SECONDS) == 0, log.read_text()
    undisturbed = tmp_path / "undisturbed"
    featurize(
        str(task / "pool.jsonl"), str(tiny_model_dir), str(undisturbed), lora=LoraConfig(rank=2),
        features=FeatureConfig(dim=64, max_tokens=96, warmup=WarmupConfig(rows=8)), reading=PoolConfig(unit_rows=8),
    )  # fmt: skip
    assert features(out).equals(features(undisturbed))
    assert features(out).num_rows == 96
    assert set(unit_files(out).values()) == {(1, 1)}
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [event for event in events if event["event"] == "stage"], "the run noted its stages"
