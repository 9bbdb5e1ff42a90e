"""A job on a cluster of two nodes chooses the rows that the embedded run chooses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evoray.doctor import examine
from tests.conftest import FinishedRun
from tests.local_cluster import RAY, Cluster
from tests.source_tree import ROOT
from tests.tiny_run import write_run_config
from tests.tiny_task import write_task

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]

_SECONDS = 900.0


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
        RAY, "job", "submit", "--address", cluster.dashboard, "--working-dir", str(ROOT / "jobs"), "--",
        sys.executable, "run_loop.py", str(config), "--out", str(out),
    ]  # fmt: skip
    done = subprocess.run(submit, env=cluster.environment, capture_output=True, text=True, timeout=_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    name = Path("rounds") / "0001" / "selected.parquet"
    chosen = pq.read_table(out / name)["id"].to_pylist()
    assert chosen == pq.read_table(finished_run.out / name)["id"].to_pylist()
    assert len(nodes_of(cluster, "ShardActor")) == 2


def nodes_of(cluster: Cluster, actors: str) -> set[str]:
    """The nodes on which actors of a class were."""
    command = [RAY, "list", "actors", "--address", cluster.dashboard, "--filter", f"class_name={actors}"]
    done = subprocess.run(
        [*command, "--format", "json"], env=cluster.environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {one["node_id"] for one in json.loads(done.stdout)}


def test_a_stage_alone_is_a_job_of_the_project_s_folder(cluster: Cluster, tiny_model_dir: Path, tmp_path: Path) -> None:
    task, out = write_task(tmp_path / "task"), tmp_path / "features"
    submit = [
        RAY, "job", "submit", "--address", cluster.dashboard, "--working-dir", str(ROOT), "--",
        "python", "jobs/run_stage.py", "featurize", "--pool", str(task / "pool.jsonl"), "--model", str(tiny_model_dir),
        "--out", str(out), "--representation", "hidden_mean", "--set", "cluster.workers=1",
    ]  # fmt: skip
    done = subprocess.run(submit, env=cluster.environment, capture_output=True, text=True, timeout=_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"rows": 60' in done.stdout


def test_a_client_without_the_token_is_refused(cluster: Cluster) -> None:
    environment = {**cluster.environment, "RAY_AUTH_TOKEN": "not-the-token"}
    done = subprocess.run(
        [RAY, "job", "list", "--address", cluster.dashboard], env=environment, capture_output=True, timeout=300
    )
    assert done.returncode != 0


def test_the_doctor_sees_that_strangers_are_refused(cluster: Cluster) -> None:
    found = {one.check: one for one in examine(None, cluster.dashboard)}
    assert found["Jobs API"].found == f"{cluster.dashboard} wants a token"
    assert found["dashboard"].status == "ok"
