"""A head that goes, with the driver on it, and a new one in its place: the submitter has the run go on there."""

from __future__ import annotations

from pathlib import Path

import pytest

from evoray.engine.lock import KEY
from evoray.storage import Storage
from tests.killed_run import Job
from tests.local_cluster import local_cluster
from tests.tiny_run import write_run_config

pytestmark = [pytest.mark.ray, pytest.mark.soak, pytest.mark.timeout(3600)]


def test_a_run_goes_on_in_the_cluster_that_takes_the_place_of_a_lost_one(
    task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = write_run_config(task, tiny_model_dir, out, rounds=1, evaluation={"control": False})
    folder = tmp_path / "cluster"
    folder.mkdir()
    with local_cluster(folder, head_cpus=4) as cluster:
        arguments = ("submit", str(config), "--address", cluster.dashboard, "--retries", "1")
        job = Job(arguments=arguments, environment=cluster.environment, output=tmp_path / "said.txt")
        submitter = job.start()
        job.wait_for(out / "rounds" / "0001" / "featurised.json", submitter)
        (head,) = cluster.nodes
        cluster.remove(head)
        lock = Storage(out).read_json(KEY)
        Storage(out).write_json(KEY, {**lock, "host": "a-head-that-is-gone"})
        cluster.replace(head)
        assert submitter.wait(1800) == 0, job.said()
    assert "answers again" in job.said()
    assert "evoray-run-1 was lost" in job.said()
    assert (out / "report.md").is_file()
