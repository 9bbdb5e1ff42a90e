"""`evoray submit` on a real cluster that wants a token: a killed driver is replaced, other endings are told."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from evoray.engine.lock import KEY
from evoray.storage import Storage
from tests.commands import Answer, assert_refusal
from tests.conftest import FinishedRun
from tests.killed_run import Job
from tests.local_cluster import Cluster
from tests.tiny_run import write_run_config
from tests.tiny_task import write_task

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]


def driver_of(cluster: Cluster) -> psutil.Process:
    """The process of the one job that runs: neither the shell that started it nor a worker."""
    processes = [process for node in cluster.nodes for process in node.processes()]
    (driver,) = [process for process in processes if _arguments(process)[:3] == ["-m", "evoray.driver", "run"]]
    return driver


def _arguments(process: psutil.Process) -> list[str]:
    """What a process was started with; of one that has ended meanwhile (Ray's workers come and go) nothing."""
    try:
        return process.cmdline()[1:]
    except psutil.NoSuchProcess:  # a zombie, too
        return []


@pytest.mark.soak  # a job that ends well is submitted in test_cluster_job.py, in every test run
def test_a_run_whose_driver_is_killed_goes_on_as_the_next_attempt_and_chooses_the_same_rows(
    cluster: Cluster, finished_run: FinishedRun, tiny_model_dir: Path, tmp_path: Path
) -> None:
    task, out = shutil.copytree(finished_run.task, tmp_path / "task"), tmp_path / "run"
    config = write_run_config(
        task, tiny_model_dir, out, rounds=1, evaluation={"control": False},
        selection={"k": 8, "steps": 6, "lambda": 0.3, "r": 0.5, "shards": 2}, cluster={"workers": 2},
    )  # fmt: skip
    arguments = ("submit", str(config), "--address", cluster.dashboard, "--retries", "1")
    job = Job(arguments=arguments, environment=cluster.environment, output=tmp_path / "said.txt")
    submitter = job.start()
    job.wait_for(out / "rounds" / "0001" / "featurised.json", submitter)
    driver_of(cluster).send_signal(signal.SIGKILL)
    lock = Storage(out).read_json(KEY)
    Storage(out).write_json(KEY, {**lock, "host": "a-node-that-is-gone"})  # of a process there nothing is known
    assert submitter.wait(1800) == 0, job.said()
    assert "evoray-run-1 lost its driver, which was killed; it is submitted again in 15 s" in job.said()
    assert "evoray-run-2 is done" in job.said()
    assert cluster.environment["RAY_AUTH_TOKEN"] not in job.said()
    name = Path("rounds") / "0001" / "selected.parquet"
    chosen = pq.read_table(out / name)["id"].to_pylist()
    assert chosen == pq.read_table(finished_run.out / name)["id"].to_pylist()


def submitted(cluster: Cluster, config: Path, **changed: str) -> Answer:
    """`evoray submit CONFIG`, to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "evoray.cli", "submit", str(config), "--address", cluster.dashboard],
        env={**cluster.environment, **changed}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    return Answer(code=done.returncode, out=done.stdout, err=done.stderr)


def test_a_run_that_refuses_its_input_is_not_tried_again_and_its_output_says_why(
    cluster: Cluster, tiny_model_dir: Path, tmp_path: Path
) -> None:
    task = write_task(tmp_path / "task")
    config = write_run_config(task, tiny_model_dir, tmp_path / "refused", pool=str(tmp_path / "nowhere.jsonl"))
    answer = submitted(cluster, config)
    assert_refusal(answer)
    assert "nowhere.jsonl: no such file or folder" in answer.out
    assert "evoray-refused-1 refused its input" in answer.err
    assert "submitted again" not in answer.err


@pytest.mark.parametrize("changed", [{"RAY_AUTH_TOKEN": "not-the-token"}, {"RAY_AUTH_MODE": "disabled"}], ids=str)
def test_a_submission_without_the_token_says_which_one_is_wanted(
    changed: dict[str, str], cluster: Cluster, tiny_model_dir: Path, tmp_path: Path
) -> None:
    config = write_run_config(write_task(tmp_path / "task"), tiny_model_dir, tmp_path / "run")
    answer = submitted(cluster, config, **changed)
    assert_refusal(answer)
    assert f"{cluster.dashboard} refuses" in answer.err
    assert "export RAY_AUTH_MODE=token" in answer.err
