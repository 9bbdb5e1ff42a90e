"""A disk that is full, and a write that fails half way: nothing that was committed is lost, and the run goes on."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pytest

from evoray.errors import StorageError
from evoray.storage import Storage, UnitStore
from tests.conftest import FinishedRun
from tests.faults.conftest import Note
from tests.killed_run import Job
from tests.tiny_run import outcome, unit_files, write_run_config

_LARGEST = 4096  # bytes of a file


def write_half(root: str) -> list[str]:
    """In a process whose files end at `_LARGEST` bytes, which the kernel enforces in the middle of a write."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST, _LARGEST))
    storage, failed = Storage(root), []
    for act in (storage.write, storage.create):
        for key in ("new", "old"):
            try:
                act(key, b"x" * 3 * _LARGEST)
            except StorageError:
                failed.append(f"{act.__name__} {key}")
    return failed


def test_an_object_is_there_whole_or_not_at_all(tmp_path: Path, fault: Note) -> None:
    Storage(tmp_path).write("old", b"as it was")
    with get_context("spawn").Pool(1) as pool:
        failed = pool.apply(write_half, (str(tmp_path),))
    assert failed == ["write new", "write old", "create new", "create old"]
    assert Storage(tmp_path).read("old") == b"as it was"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    for name in failed:
        fault("write that fails half way", name, None)


@contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[None]:
    """A file system of its own, in memory. Skips where this process may not mount one."""
    folder.mkdir()
    size = f"size={int(megabytes * 2**20)}"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "evoray-test", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def grow(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)


def test_a_full_disk_keeps_what_was_committed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 0.25):
        store = UnitStore(Storage(disk), "features/x")
        table = pa.table({"a": pa.array(range(4000)).cast(pa.int64())})
        committed = 0
        with pytest.raises(StorageError, match="cannot be written"):
            while True:
                store.commit(committed, table)
                committed += 1
        assert committed > 2
        grow(disk)
        store.commit(committed, table)
        assert [store.read(commit) == table for commit in store.commits().values()] == [True] * (committed + 1)
        files = sorted(path.name.partition(".")[0] for path in (disk / "features/x").iterdir())
        assert len(files) == 2 * (committed + 1), files


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", [0.03, 0.2, 0.5, 0.8])
def test_a_run_on_a_full_disk_ends_with_a_message_and_goes_on_when_there_is_room(
    part: float,
    finished_run: FinishedRun,
    tiny_model_dir: Path,
    tmp_path: Path,
    mark: dict[str, str],
    fault: Note,
) -> None:
    """part: of what the run will have written."""
    once = {"rounds": 1, "evaluation": {"control": False}}
    task = shutil.copytree(finished_run.task, tmp_path / "task")
    plain = tmp_path / "plain"
    started = time.monotonic()
    Job.of_run(write_run_config(task, tiny_model_dir, plain, **once), mark).finish()
    undisturbed = time.monotonic() - started
    written = sum(path.stat().st_size for path in plain.rglob("*") if path.is_file())
    disk = tmp_path / "disk"
    with small_disk(disk, part * written / 2**20):
        job = Job.of_run(write_run_config(task, tiny_model_dir, disk / "run", **once), mark)
        started = time.monotonic()
        code = job.start().wait(900)
        said = job.said()
        assert code in (1, 2), said
        assert "error: received: " in said and "Traceback" not in said, said
        assert "o space left" in said, said
        grow(disk)
        job.finish()
        seconds = time.monotonic() - started
        expected = outcome(plain, 1, ["adapter"])
        for name, value in outcome(disk / "run", 1, ["adapter"]).items():
            assert value == expected[name], name
        assert set(unit_files(disk / "run").values()) == {(1, 1)}
    fault("disk full", said.splitlines()[-4].partition("received: ")[2][:40], seconds - undisturbed)
