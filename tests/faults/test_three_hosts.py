"""A cluster of three hosts with a network and a bucket between them, and a cable that is pulled meanwhile."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.faults.conftest import Note
from tests.hosts import Host, hosts, missing_rights
from tests.tiny_run import write_run_config
from tests.tiny_task import write_task

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(3600)]

_SECONDS = 1800.0
_BUCKET, _PORT = "bucket", 9000
_REQUEST = re.compile(rf'^(\S+) - - \[[^]]*\] .*?"(\w+) /{_BUCKET}/([^ ?]*)\S* HTTP/1\.1[^ ]* (\d+)')
_UNIT = re.compile(r"/(pool|features|scores)/[^/]+/(unit-\d+)\.json$")
#: The object that shows that a stage is under way, and the record that ends the stage.
_STAGES = {
    "features": (re.compile(r"/features/[^/]+/unit-\d+\.json$"), "rounds/0001/featurised.json"),
    "training": (re.compile(r"/checkpoints/.*/step-000001\.json$"), "rounds/0001/trained.json"),
}

_COPY = """
import sys
from evoray.storage import Storage
source, target = map(Storage, sys.argv[1:])
for key in list(source.keys()):
    target.write(key, source.read(key))
"""
_MAKE_BUCKET = """
import sys, time, urllib.error, urllib.request
while True:
    try:
        urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="PUT"), timeout=5)
        break
    except urllib.error.URLError:
        time.sleep(0.5)
"""
_LIVING = """
import sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR")
print("living", *(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]))
"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the bucket's server has written down of one request."""

    client: str  # address
    method: str
    key: str
    status: int


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A head without processors for work, two workers with one each, and a bucket on a fourth host."""

    head: Host
    workers: tuple[Host, Host]
    store: Host
    environment: dict[str, str]
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)  # by host

    @property
    def address(self) -> str:
        """Where Ray answers."""
        return f"{self.head.address}:6379"

    def join(self, host: Host) -> None:
        """Start Ray there and wait until it is of the cluster."""
        what = ("--head", "--port=6379", "--include-dashboard=false", "--num-cpus=0")
        if host is not self.head:
            what = (f"--address={self.address}", "--num-cpus=1")
        command = [
            "ray", "start", "--block", *what, f"--node-ip-address={host.address}", f"--temp-dir={host.temporary}/ray",
            f"--object-store-memory={100 * 2**20}", "--disable-usage-stats",
        ]  # fmt: skip
        log = host.folder / "ray.txt"
        self._running[host.name] = host.start(command, self.environment, log)
        self._wait(lambda: host.address in self.living(), f"{host.name} to join", log)

    def living(self) -> set[str]:
        """Addresses of the nodes that the head takes for alive; none where it does not answer yet."""
        try:
            said = self.head.run([sys.executable, "-c", _LIVING, self.address], self.environment)
        except AssertionError:
            return set()
        return set(said.rpartition("living ")[2].split())

    def wait_until_given_up(self, host: Host) -> None:
        """Until the head takes it for dead."""
        self._wait(lambda: self._has_given_up(host), f"{host.name} to be given up", self.head.folder)

    def regain(self, host: Host) -> None:
        """Have the link mended and Ray on the host find out that it was given up; start it anew, as a person would."""
        host.mend()
        process = self._running[host.name]
        self._wait(lambda: process.poll() is not None, f"Ray on {host.name} to end", host.folder / "ray.txt")
        self.join(host)

    def requests(self) -> list[Request]:
        """What the bucket was asked so far, in order."""
        found = map(_REQUEST.match, (self.store.folder / "requests.txt").read_text().splitlines())
        parts = [match.groups() for match in found if match]
        return [Request(client=who, method=how, key=key, status=int(code)) for who, how, key, code in parts]

    def copy(self, source: str | Path, target: str | Path) -> None:
        """Copy all that is below a folder or URI to another."""
        self.store.run([sys.executable, "-c", _COPY, str(source), str(target)], self.environment)

    def end(self) -> None:
        """End Ray on all hosts without notice."""
        for name, process in self._running.items():
            next(host for host in (self.head, *self.workers) if host.name == name).end(process)

    def _has_given_up(self, host: Host) -> bool:
        living = self.living()
        return self.head.address in living and host.address not in living

    def _wait(self, reached: Callable[[], bool], what: str, log: Path) -> None:
        deadline = time.monotonic() + 300
        while not reached():
            assert time.monotonic() < deadline, f"waited for {what}; see {log}"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if missing := missing_rights():
        pytest.skip(f"NOT TESTED ON HOSTS: {missing}")
    with hosts(tmp_path_factory.mktemp("hosts"), ["head", "left", "right", "store"]) as (head, left, right, store):
        url = f"http://store:{_PORT}"
        found = Cluster(head=head, workers=(left, right), store=store, environment=_environment(url))
        command = ["moto_server", "-H", store.address, "-p", str(_PORT)]
        server = store.start(command, found.environment, store.folder / "requests.txt")
        try:
            store.run([sys.executable, "-c", _MAKE_BUCKET, f"{url}/{_BUCKET}"], found.environment, 120)
            for host in (head, left, right):
                found.join(host)
            yield found
        finally:
            found.end()
            store.end(server)


def _environment(url: str) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    return {
        **mine,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # A host is given up after about half a minute, as by default, and a busy machine is none too soon.
        "RAY_health_check_period_ms": "3000",
        "RAY_health_check_timeout_ms": "8000",
        "RAY_health_check_failure_threshold": "4",
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "a-secret-for-tests",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "HF_HUB_OFFLINE": "1",
    }


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that `evoray run` on the head does or did."""

    name: str
    cluster: Cluster
    process: subprocess.Popen[bytes]
    log: Path

    def finish(self) -> None:
        """Wait for its good end."""
        assert self.process.wait(_SECONDS) == 0, self.log.read_text()

    def requests(self) -> list[Request]:
        """What it asked of the bucket, by keys below its own folder."""
        return [request for request in self.cluster.requests() if request.key.startswith(f"{self.name}/")]

    def wait_for(self, key: re.Pattern[str], clients: set[str]) -> None:
        """Until one of some hosts has written such an object. Fails where the run ends before."""
        while not any(one.client in clients and key.search(one.key) and _wrote(one) for one in self.requests()):
            assert self.process.poll() is None, f"ended before {key.pattern}: {self.log.read_text()}"
            time.sleep(0.05)


def _wrote(request: Request) -> bool:
    return request.method == "PUT" and request.status == 200


def start(name: str, cluster: Cluster, model: Path) -> Run:
    """Begin a run of the tiny task, whose files are in the bucket."""
    head = cluster.head
    task = write_task(head.folder / f"task-{name}", pool_rows=240)
    cluster.copy(task, f"s3://{_BUCKET}/task")
    config = write_run_config(
        task, model, f"s3://{_BUCKET}/{name}", rounds=1, evaluation={"control": False},
        pool=f"s3://{_BUCKET}/task/pool.jsonl", target=f"s3://{_BUCKET}/task/target",
        reading={"unit_rows": 8, "max_chars": 1000},
        selection={"k": 8, "steps": 6, "lambda": 0.3, "r": 0.5, "shards": 2},
        cluster={"workers": 2, "address": cluster.address},
        training={"epochs": 8, "workers": 2, "checkpoint_steps": 1},
    )  # fmt: skip
    log = head.folder / f"{name}.txt"
    process = head.start([sys.executable, "-m", "evoray.cli", "run", str(config)], cluster.environment, log)
    return Run(name=name, cluster=cluster, process=process, log=log)


def result(run: Run, folder: Path) -> dict[str, Any]:
    """What has to be equal: chosen rows with all that is known of them, what was trained on them, hashes of inputs."""
    run.cluster.copy(f"s3://{_BUCKET}/{run.name}", folder)
    return {
        "rows": pq.read_table(folder / "rounds" / "0001" / "selected.parquet").to_pylist(),
        "adapter": (folder / "rounds" / "0001" / "adapter" / "adapter_model.safetensors").read_bytes(),
        "manifest": json.loads((folder / "manifest.json").read_text())["identity"],
    }


def commits(run: Run) -> list[str]:
    """Keys of all units' records, as often as one was written with success."""
    return [one.key for one in run.requests() if _UNIT.search(one.key) and _wrote(one)]


def units(run: Run) -> Counter[tuple[str, ...]]:
    """How many stores of a kind (pool, features, scores) have a unit of a number."""
    return Counter(found.groups() for found in map(_UNIT.search, commits(run)) if found)


@pytest.fixture(scope="module")
def undisturbed(
    cluster: Cluster, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, dict[str, Any], float]:
    """A run whose hosts all kept their links, its result, and its seconds."""
    started = time.monotonic()
    run = start("undisturbed", cluster, tiny_model_dir)
    run.finish()
    return run, result(run, tmp_path_factory.mktemp("undisturbed")), time.monotonic() - started


def test_every_stage_of_a_run_works_on_both_workers(
    cluster: Cluster, undisturbed: tuple[Run, dict[str, Any], float]
) -> None:
    run, found, _ = undisturbed
    both = {worker.address for worker in cluster.workers}
    for stage in ("pool", "features", "scores"):
        key = re.compile(rf"/{stage}/[^/]+/unit-\d+\.json$")
        assert {one.client for one in run.requests() if key.search(one.key) and _wrote(one)} == both, stage
    assert len(found["rows"]) == 8
    assert len(commits(run)) == len(set(commits(run)))


def test_a_link_that_is_cut_in_the_middle_of_stages_changes_no_choice_and_no_weight(
    cluster: Cluster, undisturbed: tuple[Run, dict[str, Any], float], tiny_model_dir: Path, tmp_path: Path, fault: Note
) -> None:
    plain, expected, seconds = undisturbed
    started = time.monotonic()
    run, lost = start("cut", cluster, tiny_model_dir), cluster.workers[1]
    for stage, (begun, ended) in _STAGES.items():
        run.wait_for(begun, {lost.address} if stage == "features" else {worker.address for worker in cluster.workers})
        lost.cut()
        assert not any(one.key.endswith(ended) and _wrote(one) for one in run.requests()), f"{stage}: too late"
        cluster.wait_until_given_up(lost)
        cluster.regain(lost)
    run.finish()
    assert result(run, tmp_path / "out") == expected
    assert units(run) == units(plain)
    assert len(commits(run)) == len(set(commits(run)))
    fault("link cut, twice", " and ".join(_STAGES), time.monotonic() - started - seconds)
