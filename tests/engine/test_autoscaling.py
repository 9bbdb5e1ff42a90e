"""A run on a cluster that grows and shrinks under it: Ray's own autoscaler, its nodes being processes of one host."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from evoray.engine.events import logged
from evoray.storage import Storage
from tests.hosts import Host, hosts, missing_rights
from tests.tiny_run import write_run_config
from tests.tiny_task import write_task

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(3600)]

_SECONDS = 1800.0
_IDLE = 4.0  # seconds without work, after which a node goes
_PORT = 6379

_COMMANDS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter",
)  # fmt: skip

#: Writes a line whenever nodes came or went: the time, and how many there are beside the head.
_WATCH = """
import json, sys, time, ray
ray.init(address=sys.argv[1], logging_level="ERROR")
before = None
while True:
    nodes = sum(node["Alive"] for node in ray.nodes()) - 1
    if nodes != before:
        print(json.dumps([time.time(), nodes]), flush=True)
        before = nodes
    time.sleep(0.25)
"""
_COUNT = re.compile(r"^\[(\d+\.\d+), (\d+)\]$")


def autoscaler(address: str) -> dict[str, Any]:
    """Settings of a cluster whose head has one processor, and which has no worker until work waits for one."""
    return {
        # Nothing of what a node of a cloud is prepared with. Ray wants every key.
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in _COMMANDS},
        "file_mounts_sync_continuously": False,
        "cluster_name": "growing",
        "max_workers": 2,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": _IDLE / 60,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"{address}:{_PORT}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            # All nodes have the host's address, and none is reached by SSH.
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": {"CPU": 2, "object_store_memory": 100 * 2**20},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 2,
            },
        },
    }


@contextmanager
def growing_cluster(host: Host, environment: dict[str, str]) -> Iterator[Path]:
    """A head on the host, with the autoscaler; the file in which the number of its workers is written down."""
    settings = host.folder / "autoscaler.json"
    settings.write_text(json.dumps(autoscaler(host.address)))
    head = host.start(
        [
            "ray", "start", "--block", "--head", f"--port={_PORT}", f"--node-ip-address={host.address}", "--num-cpus=1",
            f"--object-store-memory={100 * 2**20}", f"--temp-dir={host.temporary}/ray", "--include-dashboard=false",
            "--disable-usage-stats", f"--autoscaling-config={settings}",
        ],
        {**environment, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}, host.folder / "ray.txt",
    )  # fmt: skip
    seen = host.folder / "nodes.txt"
    watchers: list[subprocess.Popen[bytes]] = []  # one after the other, until one finds Ray
    try:
        deadline = time.monotonic() + 300
        while not counts(seen):
            assert time.monotonic() < deadline and head.poll() is None, (host.folder / "ray.txt").read_text()
            if not watchers or watchers[-1].poll() is not None:
                command = [sys.executable, "-c", _WATCH, f"{host.address}:{_PORT}"]
                watchers.append(host.start(command, environment, seen))
            time.sleep(1)
        yield seen
    finally:
        for process in (*watchers, head):
            host.end(process)


def counts(seen: Path) -> list[tuple[float, int]]:
    """(time, workers from then on), in order, among all else that Ray says there."""
    found = map(_COUNT.match, seen.read_text().splitlines()) if seen.exists() else ()
    return [(float(match[1]), int(match[2])) for match in found if match]


def workers_within(changes: list[tuple[float, int]], begin: float, end: float) -> list[int]:
    """Numbers of workers that there were within a span of time, in order."""
    before = [workers for at, workers in changes if at <= begin][-1:]
    return before + [workers for at, workers in changes if begin < at <= end]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> tuple[list[tuple[float, int]], Path]:
    """How many workers there were during a run, and its folder."""
    if missing := missing_rights():
        pytest.skip(f"NOT TESTED WITH AN AUTOSCALER: {missing}")
    folder = tmp_path_factory.mktemp("growing")
    out = folder / "run"
    config = write_run_config(
        write_task(folder / "task", pool_rows=120), tiny_model_dir, out, rounds=1, evaluation={"control": False},
        reading={"unit_rows": 8, "max_chars": 1000},
        selection={"k": 8, "steps": 100, "lambda": 0.3, "r": 0.5, "shards": 1},
        cluster={"workers": 4, "address": f"10.77.0.1:{_PORT}"}, training={"epochs": 1, "workers": 3},
    )  # fmt: skip
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with hosts(folder, ["growing"]) as (host,), growing_cluster(host, environment) as seen:
        log = host.folder / "run.txt"
        process = host.start([sys.executable, "-m", "evoray.cli", "run", str(config)], environment, log)
        try:
            code = process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        assert code == 0, log.read_text() + seen.read_text()
        return counts(seen), out


def span(out: Path, stage: str) -> tuple[float, float]:
    """(begin, end) of the one stage whose name begins so."""
    (found,) = [
        (line["time"] - line["seconds"], line["time"])
        for line in logged(Storage(out))
        if line["event"] == "stage" and line["stage"].startswith(stage)
    ]
    return found


def test_workers_come_for_features_go_while_rows_are_chosen_and_come_again_for_training(
    grown: tuple[list[tuple[float, int]], Path],
) -> None:
    changes, out = grown
    features, choice, training = (span(out, stage) for stage in ("featurise", "align and select", "train"))
    assert max(workers_within(changes, *features)) == 2
    assert workers_within(changes, choice[0], training[0])[-1] == 0
    assert max(workers_within(changes, *training)) > 0
