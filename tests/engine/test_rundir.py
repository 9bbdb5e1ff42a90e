"""Which configs may go on with a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from generated_pages import run_files

from evoray.config import RunConfig
from evoray.engine.lock import KEY
from evoray.engine.rundir import MANIFEST, OF_A_RUN, PLAN, open_run
from evoray.errors import ConfigError
from evoray.storage import Storage


def unpacked(session: str, package: str, out: Path, pool: str = "pool.jsonl") -> RunConfig:
    """A config whose files came with a job, as a driver on that cluster reads it."""
    folder = f"/tmp/ray/session_{session}/runtime_resources/working_dir_files/_ray_pkg_{package}"
    return RunConfig(pool=(f"{folder}/{pool}", "s3://bucket/more"), target=f"{folder}/task", out=str(out))


def test_files_that_came_with_a_job_may_be_unpacked_elsewhere_by_the_next_cluster(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    open_run(storage, unpacked("2026-01-01_1", "0123abcd", tmp_path))
    storage.write_json(MANIFEST, {})
    open_run(storage, unpacked("2026-02-02_9", "4567cdef", tmp_path))
    with pytest.raises(ConfigError, match="pool: "):
        open_run(storage, unpacked("2026-02-02_9", "4567cdef", tmp_path, pool="other.jsonl"))


def test_the_list_of_files_is_that_of_what_a_run_writes() -> None:
    lines = run_files().strip("`\n").splitlines()
    listed = {name.partition("/")[0] for line in lines for name in line[:32].split()}
    assert listed <= {*OF_A_RUN, KEY, PLAN}
    assert {*OF_A_RUN, KEY, PLAN} <= set(re.findall(r"[.\w-]+", "\n".join(lines)))
