"""Process trees of tests, known by a mark in their environment: what Ray starts leaves its parent's group at once."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import psutil

_MARK = "EVORAY_TEST_MARK"


@contextmanager
def marked() -> Iterator[dict[str, str]]:
    """Environment variables for processes of a test; whatever carries them is ended with the block."""
    mark = {_MARK: uuid.uuid4().hex}
    try:
        yield mark
    finally:
        left = alive(mark)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=60)  # nothing writes to the test's folders from here on


def alive(mark: dict[str, str]) -> list[psutil.Process]:
    """Running processes that inherited the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == mark[_MARK] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def named(name: str, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those with the name in their command line, which is how Ray says what a worker runs.

    What ends meanwhile, a zombie too, has none.
    """
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found


def at_work(name: str, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those of the name that have computed something."""
    found = []
    for process in named(name, processes):
        with suppress(psutil.NoSuchProcess):
            if process.cpu_times().user > 0:
                found.append(process)
    return found


def ended(mark: dict[str, str], seconds: float) -> bool:
    """Whether all of them end by themselves in some time."""
    deadline = time.monotonic() + seconds
    while alive(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def free_ports(count: int) -> list[int]:
    """Different ports of this machine that nothing listened on just now."""
    with ExitStack() as held:
        probes = [held.enter_context(closing(socket.socket())) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class MemoryGrowth:
    """Growth of this process's resident memory within a block, at its highest; sampled ten times a second."""

    def __enter__(self) -> MemoryGrowth:
        self._process, self._finished = psutil.Process(), threading.Event()
        self._before = self._highest = self._process.memory_info().rss
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._finished.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._finished.wait(0.1):
            self._highest = max(self._highest, self._process.memory_info().rss)

    @property
    def megabytes(self) -> float:
        """The growth."""
        return (self._highest - self._before) / 2**20
