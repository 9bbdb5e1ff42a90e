"""One driver a run directory, whatever became of the one before."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from evoray.engine import lock
from evoray.engine.lock import ENDED, KEY, LOST, SUBMISSION, is_dead, run_lock
from evoray.errors import LockError
from evoray.storage import Storage

_HOLD = """
import sys, time
from evoray.engine.lock import run_lock
from evoray.storage import Storage
with run_lock(Storage(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder_in(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock of a folder."""
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    return process


def test_a_second_process_is_told_who_holds_the_run_and_a_killed_one_is_replaced(tmp_path: Path) -> None:
    holder = holder_in(tmp_path)
    try:
        with pytest.raises(LockError) as caught, run_lock(Storage(tmp_path)):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert f"process {holder.pid}" in caught.value.received
    assert socket.gethostname() in caught.value.received
    assert KEY in caught.value.remedy
    with run_lock(Storage(tmp_path)):
        assert json.loads((tmp_path / KEY).read_text())["pid"] == os.getpid()
    assert not (tmp_path / KEY).exists()


def stale_lock(folder: Path) -> None:
    """A lock whose process number is in use again by a process that started at another time: this one."""
    started = psutil.Process().create_time() - 1000.0
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": started, "taken": started, "token": "old"}
    Storage(folder).write_json(KEY, holder)


def test_a_process_number_that_is_used_again_does_not_keep_a_lock_alive(tmp_path: Path) -> None:
    stale_lock(tmp_path)
    with run_lock(Storage(tmp_path)):
        pass


def test_of_several_takers_of_a_stale_lock_one_wins(tmp_path: Path) -> None:
    stale_lock(tmp_path)
    takers = 6
    begin, finished = threading.Barrier(takers), threading.Barrier(takers)

    def take(_: int) -> bool:
        begin.wait()
        try:
            with run_lock(Storage(tmp_path)):
                finished.wait(60)
                return True
        except LockError:
            finished.wait(60)
            return False

    with ThreadPoolExecutor(takers) as pool:
        assert sum(pool.map(take, range(takers))) == 1


def test_a_lock_of_another_host_is_never_taken_over(tmp_path: Path) -> None:
    Storage(tmp_path).write_json(KEY, {"host": "elsewhere", "pid": 1, "started": 0.0, "taken": 0.0, "token": "t"})
    with pytest.raises(LockError, match="elsewhere"), run_lock(Storage(tmp_path)):
        pass


def of_a_submission(folder: Path, cluster: str) -> None:
    """A lock of a driver elsewhere that was submitted as `first`."""
    holder = {"host": "elsewhere", "pid": 1, "started": 0.0, "taken": 0.0, "submission": "first", "cluster": cluster}
    Storage(folder).write_json(KEY, {**holder, "token": uuid.uuid4().hex})


def can_be_taken(folder: Path) -> bool:
    try:
        with run_lock(Storage(folder)):
            return True
    except LockError:
        return False


def test_a_lock_of_a_submission_that_ray_calls_ended_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_a_submission(tmp_path, "elsewhere:6379")
    assert not can_be_taken(tmp_path)
    monkeypatch.setenv(ENDED, "another,first-not")
    assert not can_be_taken(tmp_path)
    monkeypatch.setenv(ENDED, "another,first")
    assert can_be_taken(tmp_path)


def test_a_lock_of_a_lost_cluster_stands_as_long_as_that_answers_somewhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOST, "first")
    with socket.create_server(("127.0.0.1", 0)) as old:
        cluster = f"127.0.0.1:{old.getsockname()[1]}"
        of_a_submission(tmp_path, cluster)
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        assert not can_be_taken(tmp_path)
    assert can_be_taken(tmp_path), "nobody answers at the old address"
    with socket.create_server(("127.0.0.1", 0)) as new:
        cluster = f"127.0.0.1:{new.getsockname()[1]}"
        of_a_submission(tmp_path, cluster)
        monkeypatch.setenv("RAY_ADDRESS", cluster)
        assert can_be_taken(tmp_path), "the new cluster answers there"


def test_a_lock_of_no_submission_is_not_taken_over_on_the_word_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Storage(tmp_path).write_json(KEY, {"host": "elsewhere", "pid": 1, "started": 0.0, "taken": 0.0, "token": "t"})
    monkeypatch.setenv(ENDED, "")
    monkeypatch.setenv(LOST, "None,")
    assert not can_be_taken(tmp_path)


def test_a_lock_says_which_submission_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUBMISSION, "second")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with run_lock(Storage(tmp_path)):
        held = Storage(tmp_path).read_json(KEY)
    assert (held["submission"], held["cluster"]) == ("second", "10.0.0.1:6379")


def test_a_lock_is_released_when_its_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_lock(Storage(tmp_path)):
        _ = 1 / 0
    with run_lock(Storage(tmp_path)):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"null", b"[]"])
def test_a_lock_that_cannot_be_read_is_never_taken_over(content: bytes, tmp_path: Path) -> None:
    (tmp_path / KEY).write_bytes(content)
    with pytest.raises(LockError, match="unknown"), run_lock(Storage(tmp_path)):
        pass
    assert (tmp_path / KEY).read_bytes() == content


def test_who_ends_leaves_the_lock_of_another_alone(tmp_path: Path) -> None:
    """A person deleted the first one's lock, as its message says, and a second process took it."""
    other = {"host": "elsewhere", "pid": 1, "started": 0.0, "token": "other"}
    with run_lock(Storage(tmp_path)):
        Storage(tmp_path).write_json(KEY, other)
    assert json.loads((tmp_path / KEY).read_text()) == other


def test_a_taker_that_died_before_it_removed_the_stale_lock_is_followed(tmp_path: Path) -> None:
    stale_lock(tmp_path)
    dead = json.loads((tmp_path / KEY).read_text())
    Storage(tmp_path).write_json("lock-stale/old.json", dead)
    with run_lock(Storage(tmp_path)):
        assert json.loads((tmp_path / KEY).read_text())["token"] != "old"
    assert (tmp_path / "lock-stale" / "old-1.json").exists()


@pytest.mark.skipif(not lock._NAMESPACE.is_symlink(), reason="no namespaces of process numbers here")
@pytest.mark.parametrize(("boot", "dead"), [(lock._read(lock._BOOT), False), ("before the machine was started", True)])
def test_of_a_container_beside_this_one_it_is_not_known_whether_a_process_lives(boot: str, dead: bool) -> None:
    """Of the same name, perhaps, and with numbers of processes of its own: this one's are not here."""
    free = max(psutil.pids()) + 1
    holder = {"host": socket.gethostname(), "pid": free, "started": 0.0, "boot": boot, "namespace": "pid:[1]"}
    assert is_dead(holder) == dead
