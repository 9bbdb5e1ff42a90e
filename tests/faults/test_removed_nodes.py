"""Whole nodes of a cluster that go while a run uses them: it goes on with those that are left."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import FinishedRun
from tests.faults.conftest import Note
from tests.killed_run import STAGE_PROCESSES, Job
from tests.local_cluster import Cluster, Node, local_cluster
from tests.processes import at_work
from tests.tiny_run import results, unit_files, write_run_config

pytestmark = [pytest.mark.ray, pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head that has no processor for work: all of it is on the two nodes."""
    with local_cluster(tmp_path_factory.mktemp("cluster"), head_cpus=0) as found:
        yield found


def job(name: str, cluster: Cluster, finished_run: FinishedRun, model: Path, folder: Path) -> tuple[Job, Path]:
    while len(cluster.nodes) < 3:
        cluster.add(cpus=6)
    task, out = shutil.copytree(finished_run.task, folder / f"task-{name}"), folder / name
    config = write_run_config(
        task, model, out, rounds=1, evaluation={"control": False},
        selection={"k": 8, "steps": 6, "lambda": 0.3, "r": 0.5, "shards": 2},
        cluster={"workers": 2, "address": cluster.address}, training={"epochs": 1, "workers": 2, "checkpoint_steps": 1},
    )  # fmt: skip
    return Job(arguments=("run", str(config)), environment=cluster.environment, output=folder / f"{name}.txt"), out


@pytest.fixture(scope="module")
def undisturbed(
    cluster: Cluster, finished_run: FinishedRun, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, float]:
    """Where a run is that kept its nodes, and its seconds."""
    plain, out = job("undisturbed", cluster, finished_run, tiny_model_dir, tmp_path_factory.mktemp("undisturbed"))
    started = time.monotonic()
    plain.finish()
    return out, time.monotonic() - started


def node_at_work(kind: str, cluster: Cluster, process: subprocess.Popen[bytes]) -> Node:
    """The first node, the head left out, with a process of that name that has begun. Fails where the run ends first."""
    while process.poll() is None:
        for node in cluster.nodes[1:]:
            if at_work(kind, node.processes()):
                return node
        time.sleep(0.02)
    raise AssertionError(f"the run ended before {kind}")


def result(out: Path) -> dict[str, Any]:
    """What has to be equal: chosen rows, weights, and the summary with all scores."""
    folder = out / "rounds" / "0001"
    return {
        "rows": pq.read_table(folder / "selected.parquet"),
        "adapter": (folder / "adapter" / "adapter_model.safetensors").read_bytes(),
        "summary": results(out),
    }


@pytest.mark.parametrize("kind", STAGE_PROCESSES)
def test_a_removed_node_costs_its_work_alone(
    kind: str, cluster: Cluster, undisturbed: tuple[Path, float], finished_run: FinishedRun, tiny_model_dir: Path,
    tmp_path: Path, fault: Note,
) -> None:  # fmt: skip
    expected, seconds = undisturbed
    disturbed, out = job("disturbed", cluster, finished_run, tiny_model_dir, tmp_path)
    started = time.monotonic()
    process = disturbed.start()
    cluster.remove(node_at_work(STAGE_PROCESSES[kind], cluster, process))
    assert process.wait(1800) == 0, disturbed.said()
    lost = time.monotonic() - started - seconds
    found = result(out)
    for name, value in result(expected).items():
        assert found[name] == value, name
    assert set(unit_files(out).values()) == {(1, 1)}
    fault("node removed", kind, lost)
