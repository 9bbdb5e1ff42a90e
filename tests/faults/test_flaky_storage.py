"""A bucket whose server refuses, waits, or loses its answers: what was committed is there, once and whole."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pytest

from evoray.config_file import load_config
from evoray.engine.lock import run_lock
from evoray.engine.session import Session
from evoray.pipeline import run
from evoray.storage import Storage, UnitStore
from tests.faults.conftest import Note
from tests.faults.flaky import FAULTS, Flaky, flaky_proxy
from tests.killed_run import Job
from tests.tiny_run import outcome, write_run_config
from tests.tiny_task import write_task

UNITS = 12


@pytest.fixture(autouse=True)
def _credentials(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("kind", FAULTS)
def test_units_are_committed_once_and_read_whole(
    kind: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, fault: Note
) -> None:
    faults = Flaky({kind: 0.3})
    started = time.monotonic()
    with flaky_proxy(environment["AWS_ENDPOINT_URL"], faults) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        store = UnitStore(Storage(f"s3://bucket/{kind}"), "features/x")
        for unit in range(UNITS):
            store.commit(unit, pa.table({"unit": [unit] * 1000}))
        found = store.commits()
        tables = [store.read(found[unit])["unit"].to_pylist() for unit in range(UNITS)]
    seconds = time.monotonic() - started
    assert tables == [[unit] * 1000 for unit in range(UNITS)]
    assert len([*store.storage.keys("features")]) == 2 * UNITS, "one record and one file each"
    assert faults.counts[kind] >= UNITS // 2
    for _ in range(faults.counts[kind]):
        fault(f"request to a bucket: {kind}", "unit store", seconds / faults.counts[kind])


def test_a_lock_whose_answer_was_lost_is_held(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Flaky({"lose": 1.0}, once=True)
    with flaky_proxy(environment["AWS_ENDPOINT_URL"], faults) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        storage = Storage("s3://bucket/lock")
        with run_lock(storage):
            assert faults.counts["lose"] == 1
            assert [*storage.keys()] == ["lock.json"]
        assert [*storage.keys()] == []


@pytest.mark.ray
@pytest.mark.soak
def test_a_run_over_a_flaky_bucket_ends_as_one_in_a_folder(
    environment: dict[str, str],
    mark: dict[str, str],
    tmp_path: Path,
    tiny_model_dir: Path,
    ray_session: Session,
    fault: Note,
) -> None:
    once = {"rounds": 1, "evaluation": {"control": False}}
    task = write_task(tmp_path / "task")
    run(load_config(write_run_config(task, tiny_model_dir, tmp_path / "local", **once)))
    faults = Flaky({"refuse": 0.05, "lose": 0.05, "slow": 0.05})
    with flaky_proxy(environment["AWS_ENDPOINT_URL"], faults) as address:
        config = write_run_config(task, tiny_model_dir, "s3://bucket/run", **once)
        Job.of_run(config, {**mark, **environment, "AWS_ENDPOINT_URL": address}).finish()
    copy, storage = tmp_path / "copy", Storage("s3://bucket/run")
    for key in list(storage.keys()):
        (copy / key).parent.mkdir(parents=True, exist_ok=True)
        (copy / key).write_bytes(storage.read(key))
    expected = outcome(tmp_path / "local", 1, ["adapter"])
    for name, value in outcome(copy, 1, ["adapter"]).items():
        assert value == expected[name], name
    assert sum(faults.counts.values()) > 20
    for kind, count in faults.counts.items():
        for _ in range(count):
            fault(f"request to a bucket: {kind}", "whole run", None)
