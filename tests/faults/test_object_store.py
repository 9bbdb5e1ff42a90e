"""The same protocol in a bucket: one commit wins, whatever the others do; credentials come from the environment."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from evoray.config_file import load_config
from evoray.engine.session import Session
from evoray.errors import StorageError
from evoray.pipeline import run
from evoray.pool import load_rows
from evoray.storage import Storage, UnitStore
from tests.killed_run import Job
from tests.tiny_run import outcome, write_run_config
from tests.tiny_task import write_task

WRITERS = 4


@pytest.fixture(autouse=True)
def bucket(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{request.function.__name__}"


def test_objects_are_written_once_read_whole_and_listed(bucket: str) -> None:
    storage = Storage(bucket)
    assert storage.create("a/b.json", b"1") and not storage.create("a/b.json", b"2")
    assert storage.read("a/b.json") == b"1"
    storage.write("a/b.json", b"3")
    storage.write("a-c", b"4")
    assert [*storage.keys()] == ["a-c", "a/b.json"] and [*storage.keys("a")] == ["a/b.json"]
    storage.delete("a/b.json")
    storage.delete("a/b.json")
    assert not storage.exists("a/b.json")
    with pytest.raises(StorageError, match=r"no object s3://bucket/.*a/b\.json"):
        storage.read("a/b.json")


def test_empty_objects_that_stand_for_folders_are_no_keys(bucket: str, environment: dict[str, str]) -> None:
    """As pyarrow, and with it Ray Train, leaves them."""
    storage = Storage(bucket)
    storage.write("a/b/c", b"1")
    storage.write("a/empty", b"")
    for folder in ("", "a", "a/b"):
        request = f"{environment['AWS_ENDPOINT_URL']}/{bucket.removeprefix('s3://')}/{folder}".rstrip("/") + "/"
        with urllib.request.urlopen(urllib.request.Request(request, data=b"", method="PUT")) as response:
            assert response.status == 200
    assert [*storage.keys()] == ["a/b/c", "a/empty"]


def test_units_are_read_several_at_a_time_and_come_in_order(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request waits until three are under way: one after another they would never be answered."""
    store = UnitStore(Storage(bucket), "features/x")
    for unit in range(6):
        store.commit(unit, pa.table({"unit": [unit]}))
    together, read = threading.Barrier(3, timeout=60), Storage.read

    def answered(storage: Storage, key: str) -> bytes:
        together.wait()
        return read(storage, key)

    monkeypatch.setattr(Storage, "read", answered)
    assert list(store.commits()) == list(range(6))
    assert [table["unit"].to_pylist() for table in store.tables([5, 0, 1, 2, 3, 4])] == [[5], [0], [1], [2], [3], [4]]
    store.storage.delete_each([*store.storage.keys()])
    assert store.committed() == []


def commit(uri: str, writer: int) -> tuple[str, int]:
    """A unit's file, as this writer is told, and whose table it is."""
    store = UnitStore(Storage(uri), "features/x")
    record = store.commit(7, pa.table({"writer": [writer]}), {"writer": writer})
    return record.file, int(record.facts["writer"])


def test_of_racing_processes_one_commits_and_all_agree(bucket: str) -> None:
    with ProcessPoolExecutor(WRITERS, mp_context=get_context("spawn")) as pool:
        found = set(pool.map(commit, [bucket] * WRITERS, range(WRITERS)))
    ((file, writer),) = found
    store = UnitStore(Storage(bucket), "features/x")
    assert store.read(store.find(7)).to_pydict() == {"writer": [writer]}
    assert [*store.storage.keys()] == [f"features/x/{file}", "features/x/unit-000007.json"], "the losers left nothing"


def test_a_listing_that_lags_costs_a_second_computation_and_no_second_commit(bucket: str) -> None:
    store = UnitStore(Storage(bucket), "features/x")
    first = store.commit(1, pa.table({"a": [1]}))
    again = store.commit(1, pa.table({"a": [2]}))  # as by one who did not see it in a listing
    assert again == first
    assert store.read(again).to_pydict() == {"a": [1]}
    assert len([*store.storage.keys()]) == 2


def test_a_pool_in_a_bucket_is_that_of_the_files(bucket: str, tmp_path: Path) -> None:
    task = write_task(tmp_path)
    Storage(bucket).write("pool/a.jsonl", (task / "pool.jsonl").read_bytes())
    assert load_rows(f"{bucket}/pool")[0] == load_rows(str(task / "pool.jsonl"))[0]


@pytest.mark.parametrize(
    "act",
    [
        lambda storage: storage.write("a", b"1"),
        lambda storage: storage.create("a", b"1"),
        lambda storage: storage.read("a"),
        lambda storage: storage.exists("a"),
        lambda storage: storage.delete("a"),
        lambda storage: list(storage.keys()),
    ],
    ids=["write", "create", "read", "exists", "delete", "keys"],
)
def test_a_server_that_is_gone_is_an_error_in_reasonable_time(
    act: Callable[[Storage], Any], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="cannot be") as caught:
        act(Storage(bucket))
    assert "a-secret-for-tests" not in str(caught.value)


@pytest.mark.ray
@pytest.mark.soak
def test_a_run_in_a_bucket_ends_as_one_in_a_folder(
    bucket: str,
    environment: dict[str, str],
    mark: dict[str, str],
    tmp_path: Path,
    tiny_model_dir: Path,
    ray_session: Session,
) -> None:
    """Workers find the bucket by the environment that the driver has."""
    once = {"rounds": 1, "evaluation": {"control": False}}
    task = write_task(tmp_path / "task")
    run(load_config(write_run_config(task, tiny_model_dir, tmp_path / "local", **once)))
    in_bucket = write_run_config(task, tiny_model_dir, bucket, **once)
    Job.of_run(in_bucket, {**mark, **environment}).finish()
    copy = tmp_path / "copy"
    storage = Storage(bucket)
    for key in list(storage.keys()):
        (copy / key).parent.mkdir(parents=True, exist_ok=True)
        (copy / key).write_bytes(storage.read(key))
    expected = outcome(tmp_path / "local", 1, ["adapter"])
    for name, value in outcome(copy, 1, ["adapter"]).items():
        assert value == expected[name], name
    assert "a-secret-for-tests" not in "".join(
        path.read_text("utf-8", "replace")
        for path in copy.rglob("*")
        if path.suffix in (".json", ".jsonl", ".yaml", ".md")
    )
    assert json.loads((copy / "best/best.json").read_text())
