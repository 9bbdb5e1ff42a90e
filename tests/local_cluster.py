"""A Ray cluster of several nodes on this machine: token, own folders, ports of its own; nodes come and go."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import ray

from tests.processes import alive, free_ports, marked
from tests.source_tree import ROOT

RAY = str(Path(sys.executable).with_name("ray"))
_SECONDS = 300.0  # for a node to join
_ATTEMPTS = 3  # at a start: on a busy machine Ray's own processes wait too short for one another


@dataclass(frozen=True, kw_only=True)
class Node:
    """What `ray start` runs, and the mark of all processes of the node."""

    process: subprocess.Popen[bytes]
    mark: dict[str, str]
    cpus: int
    arguments: tuple[str, ...]  # beside those that every node has

    def processes(self) -> list[psutil.Process]:
        """Those of the node that run now."""
        return alive(self.mark)

    def remove(self) -> None:
        """SIGKILL to all of them, as a machine goes."""
        while left := self.processes():
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=10)
        self.process.wait()


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where a running cluster answers, and the environment that holds its token."""

    address: str
    dashboard: str
    environment: dict[str, str]
    folder: Path
    nodes: list[Node] = field(default_factory=list)
    _marks: ExitStack

    def add(self, cpus: int, *arguments: str) -> Node:
        """Start a node in a folder of its own and wait until it has joined."""
        for _ in range(_ATTEMPTS):
            node = self._start(cpus, arguments)
            self.nodes.append(node)
            if self._all_joined():
                return node
            self.remove(node)
        raise AssertionError("\n".join(path.read_text() for path in sorted(self.folder.glob("*.txt"))))

    def _start(self, cpus: int, arguments: tuple[str, ...]) -> Node:
        # Sockets below it have short names only where their own are short. One folder each, as on two machines: a node
        # replaces the working directory that another one unpacked in the same place, under its running processes.
        scratch = self._marks.enter_context(tempfile.TemporaryDirectory(prefix="evo-", ignore_cleanup_errors=True))
        mark = self._marks.enter_context(marked())
        agent, metrics = free_ports(2)
        home = self.folder / f"node-{len(list(self.folder.glob('*.txt')))}"  # those of removed nodes stay
        home.mkdir()
        with home.with_suffix(".txt").open("wb") as log:
            process = subprocess.Popen(
                [
                    RAY, "start", "--block", f"--num-cpus={cpus}", "--disable-usage-stats",
                    f"--object-store-memory={100 * 2**20}", f"--dashboard-agent-listen-port={agent}",
                    f"--metrics-export-port={metrics}", f"--temp-dir={scratch}",
                    *(arguments or (f"--address={self.address}",)),
                ],
                cwd=home, env={**self.environment, **mark}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return Node(process=process, mark=mark, cpus=cpus, arguments=arguments)

    def remove(self, node: Node) -> None:
        """End a node without notice."""
        self.nodes.remove(node)
        node.remove()

    def replace(self, node: Node) -> Node:
        """Start a node anew, at the same ports, where one was removed: of a head, another cluster."""
        return self.add(node.cpus, *node.arguments)

    def _all_joined(self) -> bool:
        """Whether they all are in the cluster, after some waiting."""
        look = (
            f"import ray; ray.init(address={self.address!r}, logging_level='ERROR');"
            " print(sum(node['Alive'] for node in ray.nodes()))"
        )
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline and all(node.process.poll() is None for node in self.nodes):
            with suppress(subprocess.TimeoutExpired):
                done = subprocess.run(
                    [sys.executable, "-c", look], env=self.environment, capture_output=True, text=True, timeout=60
                )
                if done.returncode == 0 and int(done.stdout.split()[-1]) == len(self.nodes):
                    return True
            time.sleep(2)
        return False


@contextmanager
def local_cluster(folder: Path, head_cpus: int) -> Iterator[Cluster]:
    """A head that wants a token and listens on this machine alone; more nodes are added to it."""
    port, dashboard, client = free_ports(3)
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),  # as where a venv is active
    }
    environment.pop("RAY_ADDRESS", None)
    with ExitStack() as marks:
        cluster = Cluster(
            address=f"{ray.util.get_node_ip_address()}:{port}",
            dashboard=f"http://127.0.0.1:{dashboard}",
            environment=environment,
            folder=folder,
            _marks=marks,
        )
        try:
            cluster.add(
                head_cpus, "--head", f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
                f"--ray-client-server-port={client}",
            )  # fmt: skip
            yield cluster
        finally:
            for node in cluster.nodes:  # a graceful end takes half a minute
                node.remove()
