"""Hosts on one machine: Linux namespaces with addresses of their own on a switch that nothing else is plugged into.

A host has its own network, name, processes, temporary folder and shared memory. All of them end with the process that
made them, however it ends: the first process of each reads a pipe, and the kernel ends the others with it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from evoray.models.cache import cache_dir
from tests.source_tree import ROOT

_NAMESPACES = ("--net", "--uts", "--ipc", "--mount", "--pid")
_NETWORK = "10.77.0"
_SECONDS = 60.0  # for what takes no second on a machine that does nothing else

#: What the first process of a host does: it waits for the end of its input, and meanwhile for lost children of others.
_FIRST = """
mount -t tmpfs shm /dev/shm && mount --bind {names} /etc/hosts && mount --bind {resolver} /etc/resolv.conf &&
hostname {name} && ip link set lo up && echo ready && cat; exit
"""


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine of its own, as far as its programs can tell."""

    name: str
    address: str
    folder: Path  # its own, where programs begin
    temporary: Path  # its TMPDIR, of a name that is short enough for sockets
    pid: int  # of its first process, as seen from here
    switch: int  # the same of the switch

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program on it. environment: all of it, but for what is the host's own."""
        own = {
            "TMPDIR": str(self.temporary),
            "HOME": str(self.folder),
            "EVORAY_CACHE": str(self.folder / "cache"),
            "PYTHONPATH": str(ROOT),
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        }
        with log.open("ab") as stream:
            return subprocess.Popen(
                ["nsenter", f"--target={self.pid}", *_NAMESPACES, f"--wd={self.folder}", "--", *command],
                env={**environment, **own}, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            )  # fmt: skip

    def run(self, command: Sequence[str], environment: Mapping[str, str], seconds: float = _SECONDS) -> str:
        """Run a program on it to its end; what it wrote. Fails where the program does."""
        log = self.folder / "command.txt"
        log.unlink(missing_ok=True)
        process = self.start(command, environment, log)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end(process)
            code = None
        assert code == 0, f"{shlex.join(command)} on {self.name}: {log.read_text()}"
        return log.read_text()

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL to a program that `start` began, with all that it started."""
        started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for one in started:
            one.kill()
        process.kill()
        process.wait()

    def cut(self) -> None:
        """Pull the cable: nothing comes or goes, and no one is told."""
        self._set_link("down")

    def mend(self) -> None:
        """Plug it in again."""
        self._set_link("up")

    def _set_link(self, state: str) -> None:
        _within(self.switch, "ip", "link", "set", self.name, state)


@contextmanager
def hosts(folder: Path, names: Sequence[str]) -> Iterator[list[Host]]:
    """Hosts of these names, all of them on one switch. folder: for their own folders."""
    addresses = {name: f"{_NETWORK}.{number}" for number, name in enumerate(names, 1)}
    known = folder / "names"
    known.write_text("127.0.0.1 localhost\n" + "".join(f"{where} {name}\n" for name, where in addresses.items()))
    (folder / "resolver").write_text("")  # nobody is asked for other names
    with ExitStack() as ends:
        switch = ends.enter_context(_first_process("switch", folder))
        _within(switch, "ip", "link", "add", "switch", "type", "bridge")
        _within(switch, "ip", "link", "set", "switch", "up")
        found = []
        for name, address in addresses.items():
            home = folder / name
            home.mkdir()
            if (compiled := cache_dir() / "torch_extensions").is_dir():  # else each host compiles its own
                shutil.copytree(compiled, home / "cache" / "torch_extensions")
            temporary = ends.enter_context(tempfile.TemporaryDirectory(prefix="evo-", ignore_cleanup_errors=True))
            pid = ends.enter_context(_first_process(name, folder))
            _within(switch, "ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
            _within(switch, "ip", "link", "set", name, "master", "switch", "up")
            _within(pid, "ip", "address", "add", f"{address}/24", "dev", "eth0")
            _within(pid, "ip", "link", "set", "eth0", "up")
            found.append(
                Host(name=name, address=address, folder=home, temporary=Path(temporary), pid=pid, switch=switch)
            )
        yield found


def missing_rights() -> str:
    """Why no host can be made here, in words; empty where they can."""
    try:
        with tempfile.TemporaryDirectory() as folder, hosts(Path(folder), ["probe"]):
            return ""
    except (OSError, AssertionError) as error:
        return f"no namespaces can be made here: {error}"


@contextmanager
def _first_process(name: str, folder: Path) -> Iterator[int]:
    """The first process of new namespaces, by its number here; all that runs in them ends with the block."""
    script = _FIRST.format(
        name=shlex.quote(name), names=shlex.quote(str(folder / "names")), resolver=shlex.quote(str(folder / "resolver"))
    )
    process = subprocess.Popen(
        ["unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    try:
        ready = process.stdout.readline()
        assert ready == b"ready\n", process.stderr.read().decode()
        (first,) = psutil.Process(process.pid).children()
        yield first.pid
    finally:
        process.stdin.close()
        process.wait(_SECONDS)
        process.stdout.close()
        process.stderr.close()


def _within(pid: int, *command: str) -> None:
    done = subprocess.run(
        ["nsenter", f"--target={pid}", "--net", "--", *command], capture_output=True, text=True, timeout=_SECONDS
    )
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
