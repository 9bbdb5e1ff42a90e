"""One driver a run directory: a lock file that says who holds it, and a stale one is recognised."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from evoray.errors import ConfigError, LockError, StorageError
from evoray.storage import Storage

KEY = "lock.json"


@contextmanager
def run_lock(storage: Storage) -> Iterator[None]:
    """Hold the run directory for the time of the block.

    A lock of a dead process of this host is taken over. Raises LockError where another process holds it.
    """
    mine = _identity()
    while not _take(storage, mine):
        holder = _holder(storage)
        if holder is None:
            continue
        # Of several processes that find the same stale lock, one may remove it: who first leaves this mark.
        if not _is_dead(holder) or not storage.create_json(f"lock-stale/{holder.get('token')}.json", mine):
            raise _held(storage, holder)
        storage.delete(KEY)
    try:
        yield
    finally:
        storage.delete(KEY)


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
        "taken": time.time(),
        "token": uuid.uuid4().hex,
    }


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder is a process of this host that has ended. Of other hosts nothing is known."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        # A process number is used again: only the start time tells whether it is still the same process.
        started: float = psutil.Process(int(holder["pid"])).create_time()
        return abs(started - float(holder["started"])) > 1.0
    except psutil.NoSuchProcess:
        return True


def _held(storage: Storage, holder: dict[str, Any]) -> LockError:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.get("taken", 0)))
    return LockError(
        f"{storage.uri} is in use by process {holder.get('pid')} on {holder.get('host')} since {since}",
        "a run directory that no other process drives",
        f"wait for it or end it; if that host is gone for good, delete {storage.location(KEY)}",
    )
