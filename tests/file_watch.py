"""When a file was opened, by whichever process: the kernel's own word (inotify), so on Linux alone."""

from __future__ import annotations

import ctypes
import os
import select
import threading
import time
from pathlib import Path

_IN_OPEN = 0x20


class Opened:
    """Within the block, the times at which a file was opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.times: list[float] = []

    def __enter__(self) -> Opened:
        libc = ctypes.CDLL(None, use_errno=True)
        self._events = libc.inotify_init1(os.O_NONBLOCK)
        if self._events < 0 or libc.inotify_add_watch(self._events, bytes(self.path), _IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), f"inotify on {self.path}")
        self._finished = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._finished.is_set():
            if select.select([self._events], [], [], 0.05)[0]:
                os.read(self._events, 65536)
                self.times.append(time.time())

    def __exit__(self, *_error: object) -> None:
        time.sleep(0.1)  # the last events are read
        self._finished.set()
        self._watcher.join()
        os.close(self._events)
