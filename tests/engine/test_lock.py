"""One driver a run directory, whatever became of the one before."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from evoray.engine.lock import KEY, run_lock
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
