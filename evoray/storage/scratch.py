"""Temporary folders that do not pile up: what a killed process left, the next one deletes.

Each folder holds a lock, which the system lets go with the process, however that ends.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_PREFIX = "evoray-"
_LOCK = "lock"
_FILES = "files"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder in the system's temporary one, for the time of the block."""
    root, descriptor = _new()
    try:
        yield root / _FILES
    finally:
        _delete(root, descriptor)


def process_folder() -> Path:
    """An empty folder in the system's temporary one, for the rest of this process."""
    root, descriptor = _new()
    atexit.register(_delete, root, descriptor)
    return root / _FILES


def _new() -> tuple[Path, int]:
    """The folder, and the open file that holds its lock."""
    _sweep()
    root = Path(tempfile.mkdtemp(prefix=_PREFIX))
    unlocked = root / "unlocked"
    descriptor = os.open(unlocked, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    (root / _FILES).mkdir()
    unlocked.rename(root / _LOCK)  # only now can another process find it, and then it is held
    return root, descriptor


def _delete(root: Path, descriptor: int) -> None:
    shutil.rmtree(root, ignore_errors=True)
    os.close(descriptor)


@cache
def _sweep() -> None:
    """Delete this user's folders whose processes are gone. Once a process: it lists a folder that all share."""
    for root in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if root.lstat().st_uid != os.getuid() or root.is_symlink():
                continue
            descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # deleted by its own process, or no folder of this kind
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)  # in use
        else:
            _delete(root, descriptor)
