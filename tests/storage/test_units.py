"""Units are written once: whoever commits first wins, and only what is committed is read."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from evoray.errors import StorageError
from evoray.storage import Storage, UnitCommit, UnitStore


def store_at(folder: Path) -> UnitStore:
    return UnitStore(Storage(folder), "features/abc")


def test_of_racing_writers_one_commits_and_the_others_return_its_record(tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    def write(writer: int) -> UnitCommit:
        barrier.wait()
        return store_at(tmp_path).commit(7, pa.table({"writer": [writer]}), {"writer": writer})

    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(write, range(4)))
    assert len({record.file for record in records}) == 1
    store = store_at(tmp_path)
    assert store.read(store.find(7))["writer"].to_pylist() == [records[0].facts["writer"]]


def test_the_loser_of_a_race_leaves_no_file(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.commit(0, pa.table({"a": [1]}))
    again = store.commit(0, pa.table({"a": [2]}))
    assert store.read(again)["a"].to_pylist() == [1]
    assert len(list((tmp_path / "features" / "abc").iterdir())) == 2


def test_a_file_without_commit_record_is_never_read(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.storage.write_table("features/abc/unit-000003.0123456789ab.parquet", pa.table({"a": [1]}))
    assert store.commits() == {}
    with pytest.raises(StorageError, match=r"unit-000003\.json"):
        store.find(3)


def test_a_changed_file_is_refused_with_both_hashes(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    commit = store.commit(0, pa.table({"a": [1]}))
    store.storage.write_table(f"features/abc/{commit.file}", pa.table({"a": [2]}))
    with pytest.raises(StorageError) as caught:
        store.read(commit)
    assert commit.sha256 in caught.value.expected
    assert "SHA-256" in caught.value.received
    assert "unit-000000.json" in caught.value.remedy


def test_commits_are_listed_in_order_with_their_facts(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    for unit in (2, 0, 11):
        store.commit(unit, pa.table({"a": list(range(unit))}), {"tokens": unit})
    assert [(unit, c.rows, c.facts["tokens"]) for unit, c in store.commits().items()] == [
        (0, 0, 0),
        (2, 2, 2),
        (11, 11, 11),
    ]
