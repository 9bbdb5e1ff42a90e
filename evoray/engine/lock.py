"""One driver a run directory: a lock file that says who holds it, and a stale one is recognised.

Of a process of this host it is known whether it lives, unless a container hides it. Of another host's nothing is known
here, so that its lock stands, but for a driver that was submitted as a job: who submits the next attempt asked Ray, and
says so in its environment.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from evoray.errors import ConfigError, LockError, StorageError
from evoray.storage import Storage

KEY = "lock.json"
#: Environment of a submitted driver. Each submission has a name that no other one has, in any cluster: SUBMISSION is
#: the driver's own; ENDED are those that Ray called ended, and LOST those that went with their cluster, with commas.
SUBMISSION, ENDED, LOST = "EVORAY_SUBMISSION", "EVORAY_ENDED_SUBMISSIONS", "EVORAY_LOST_SUBMISSIONS"
_CLUSTER = "RAY_ADDRESS"  # of the cluster that a submitted driver belongs to, as Ray sets it
_ANSWER_S = 10.0
#: On Linux: an id of the running system, and the namespace of this process's number.
_BOOT, _NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")


@contextmanager
def run_lock(storage: Storage) -> Iterator[None]:
    """Hold the run directory for the time of the block.

    A lock of a dead process of this host, or of a submission that is over, is taken over. Raises LockError where
    another process holds it.
    """
    mine = _identity()
    while not _take(storage, mine):
        holder = _holder(storage)
        if holder is None:
            continue
        if not is_dead(holder) or not _may_remove(storage, holder, mine):
            raise _held(storage, holder)
        _remove(storage, holder)
    try:
        yield
    finally:
        _remove(storage, mine)


def _remove(storage: Storage, holder: dict[str, Any]) -> None:
    """Delete the lock if it is still this holder's: a person may have deleted it, and another process have taken it."""
    found = _holder(storage)
    if found is not None and found.get("token") == holder.get("token"):
        storage.delete(KEY)


def _may_remove(storage: Storage, holder: dict[str, Any], mine: dict[str, Any]) -> bool:
    """Of several processes that find the same stale lock, one may remove it: who first leaves a mark.

    One that ended before it had removed the lock is followed by who first leaves the next mark.
    """
    for number in count():
        key = f"lock-stale/{holder.get('token')}{f'-{number}' if number else ''}.json"
        if storage.create_json(key, mine):
            return True
        if not is_dead(storage.read_json(key)):
            return False
    raise AssertionError("numbers do not end")


def _holder(storage: Storage) -> dict[str, Any] | None:
    """Who holds it; None where it was released just now. Raises StorageError where it cannot be read."""
    try:
        found = json.loads(storage.read(KEY))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"host": "unknown", "pid": "unknown"}


def _take(storage: Storage, mine: dict[str, Any]) -> bool:
    try:
        return storage.create_json(KEY, mine)
    except StorageError as error:  # the first thing that is written: where it fails, the place is wrong
        raise ConfigError(error.received, error.expected, "choose another --out, or mend its permissions") from error


def _identity() -> dict[str, Any]:
    started = psutil.Process().create_time()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": started,
        "boot": _read(_BOOT),
        "namespace": _namespace(),
        "taken": time.time(),
        "token": uuid.uuid4().hex,
        "submission": os.environ.get(SUBMISSION),
        "cluster": os.environ.get(_CLUSTER) if SUBMISSION in os.environ else None,
    }


def is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder is a process of this host that has ended, or a submission that is over."""
    if _is_over(holder.get("submission"), holder.get("cluster")):
        return True
    if holder.get("host") != socket.gethostname():
        return False
    if holder.get("boot") == _read(_BOOT) and holder.get("namespace") not in (None, _namespace()):
        return False  # in another container, whose processes have numbers of their own
    try:
        # A process number is used again: only the start time tells whether it is still the same process.
        started: float = psutil.Process(int(holder["pid"])).create_time()
        return abs(started - float(holder["started"])) > 1.0
    except psutil.NoSuchProcess:
        return True


def _read(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None


def _namespace() -> str | None:
    """What numbers of processes are relative to."""
    return str(_NAMESPACE.readlink()) if _NAMESPACE.is_symlink() else None


def _is_over(submission: Any, cluster: Any) -> bool:
    """Whether who submitted this driver knows that an earlier one is over.

    One whose cluster does not answer any more, or was replaced by this one, ended with it: a driver that cannot reach
    its cluster does not go on. Where the old cluster still answers, its driver may be at work.
    """
    if submission is None:
        return False
    if submission in os.environ.get(ENDED, "").split(","):
        return True
    gone = submission in os.environ.get(LOST, "").split(",")
    return gone and (cluster == os.environ.get(_CLUSTER) or not _answers(str(cluster)))


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return True  # unknown
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except OSError:
        return False
    return True


def _held(storage: Storage, holder: dict[str, Any]) -> LockError:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.get("taken", 0)))
    return LockError(
        f"{storage.uri} is in use by process {holder.get('pid')} on {holder.get('host')} since {since}",
        "a run directory that no other process drives",
        f"wait for it or end it; if that host is gone for good, delete {storage.location(KEY)}",
    )
