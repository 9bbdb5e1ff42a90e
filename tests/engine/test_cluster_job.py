"""A job on a cluster of two nodes chooses the rows that the embedded run chooses."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from evoray.doctor import examine
from tests.conftest import FinishedRun
from tests.processes import free_ports, marked
from tests.source_tree import ROOT
from tests.tiny_run import write_run_config

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]

_RAY = str(Path(sys.executable).with_name("ray"))
_SECONDS = 900.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where jobs are sent, and the environment that holds the token."""

    dashboard: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head and a second node, started in different folders, that want a token and listen on this machine alone."""
    folder = tmp_path_factory.mktemp("cluster")
    port, dashboard, client, *of_nodes = free_ports(7)
    # Sockets below them have short names only where their own are short. One folder each, as on two machines: a node
    # replaces the working directory that another one unpacked in the same place, under its running processes.
    with (
        tempfile.TemporaryDirectory(prefix="evo-") as first,
        tempfile.TemporaryDirectory(prefix="evo-") as second,
        marked() as mark,
    ):
        environment = {
            **os.environ,
            **mark,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
        }
        environment.pop("RAY_ADDRESS", None)
        head = [
            "--head", f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}", f"--temp-dir={first}",
        ]  # fmt: skip
        address = f"{ray.util.get_node_ip_address()}:{port}"
        nodes = [start_node("head", head, of_nodes[:2], folder, environment)]
        try:
            wait_for_nodes(1, address, nodes, folder, environment)
            joining = [f"--address={address}", f"--temp-dir={second}"]
            nodes.append(start_node("second", joining, of_nodes[2:], folder, environment))
            wait_for_nodes(2, address, nodes, folder, environment)
            yield Cluster(dashboard=f"http://127.0.0.1:{dashboard}", environment=environment)
        finally:
            for process in nodes:  # a graceful end takes half a minute; the mark ends what they started
                process.kill()
                process.wait()


def start_node(
    name: str, arguments: list[str], ports: list[int], folder: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    agent, metrics = ports
    (folder / name).mkdir()
    with (folder / f"{name}.txt").open("wb") as log:
        return subprocess.Popen(
            [
                _RAY, "start", "--block", "--num-cpus=3", "--disable-usage-stats",
                f"--object-store-memory={100 * 2**20}", f"--dashboard-agent-listen-port={agent}",
                f"--metrics-export-port={metrics}", *arguments,
            ],
            cwd=folder / name, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def wait_for_nodes(
    count: int, address: str, nodes: list[subprocess.Popen[bytes]], folder: Path, environment: dict[str, str]
) -> None:
    look = f"import ray; ray.init(address={address!r}, logging_level='ERROR'); print(len(ray.nodes()))"
    deadline = time.monotonic() + _SECONDS / 3
    while time.monotonic() < deadline and all(node.poll() is None for node in nodes):
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                [sys.executable, "-c", look], env=environment, capture_output=True, text=True, timeout=60
            )
            if done.returncode == 0 and int(done.stdout.split()[-1]) == count:
                return
        time.sleep(2)
    raise AssertionError("\n".join(path.read_text() for path in sorted(folder.glob("*.txt"))))


def test_a_submitted_job_selects_the_rows_of_the_embedded_run(
    cluster: Cluster, finished_run: FinishedRun, tiny_model_dir: Path, tmp_path: Path
) -> None:
    task = shutil.copytree(finished_run.task, tmp_path / "task")
    out = tmp_path / "run"
    # Three shards, two feature actors and two ranks, where the embedded run has two, one and one.
    selection = {"k": 8, "steps": 6, "lambda": 0.3, "r": 0.5, "shards": 3}
    config = write_run_config(
        task, tiny_model_dir, out, rounds=1, selection=selection, evaluation={"control": False},
        cluster={"workers": 2}, training={"epochs": 1, "workers": 2},
    )  # fmt: skip
    submit = [
        _RAY, "job", "submit", "--address", cluster.dashboard, "--working-dir", str(ROOT / "jobs"), "--",
        sys.executable, "run_loop.py", str(config), "--out", str(out),
    ]  # fmt: skip
    done = subprocess.run(submit, env=cluster.environment, capture_output=True, text=True, timeout=_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    name = Path("rounds") / "0001" / "selected.parquet"
    chosen = pq.read_table(out / name)["id"].to_pylist()
    assert chosen == pq.read_table(finished_run.out / name)["id"].to_pylist()


def test_a_client_without_the_token_is_refused(cluster: Cluster) -> None:
    environment = {**cluster.environment, "RAY_AUTH_TOKEN": "not-the-token"}
    done = subprocess.run(
        [_RAY, "job", "list", "--address", cluster.dashboard], env=environment, capture_output=True, timeout=300
    )
    assert done.returncode != 0


def test_the_doctor_sees_that_strangers_are_refused(cluster: Cluster) -> None:
    found = {one.check: one for one in examine(None, cluster.dashboard)}
    assert found["Jobs API"].found == f"{cluster.dashboard} wants a token"
    assert found["dashboard"].status == "ok"
