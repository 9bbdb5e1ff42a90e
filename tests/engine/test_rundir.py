"""Which configs may go on with a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from generated_pages import run_files

from evoray.config import RunConfig
from evoray.engine.lock import KEY
from evoray.engine.rundir import MANIFEST, OF_A_RUN, PLAN, open_run, start_anew
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


def test_a_run_that_starts_anew_leaves_files_of_the_user_alone(tmp_path: Path) -> None:
    """In a folder of a project, whose pool has the name of a folder of the run."""
    own = tmp_path / "pool" / "mine.jsonl"
    own.parent.mkdir()
    own.write_text("{}")
    storage = Storage(tmp_path)
    written = ["pool/0123456789abcdef/unit-000000.json", "generated/round-0001.parquet", "rounds/0001/selected.json"]
    open_run(storage, RunConfig(pool="elsewhere.jsonl", target="task", out=str(tmp_path)))
    for key in written:
        storage.write_json(key, {})
    start_anew(storage)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == ["pool/mine.jsonl"]


@pytest.mark.parametrize(
    "inputs", [{"pool": "pool/mine.jsonl"}, {"pool": ["a.jsonl", "best/b.jsonl"]}, {"target": "features"}]
)
def test_inputs_where_the_run_writes_are_refused(inputs: dict[str, Any], tmp_path: Path) -> None:
    def placed(value: Any) -> Any:
        return [placed(one) for one in value] if isinstance(value, list) else str(tmp_path / value)

    given = {"pool": "pool.jsonl", "target": "task", **inputs}
    config = RunConfig.model_validate({name: placed(value) for name, value in given.items()} | {"out": str(tmp_path)})
    with pytest.raises(ConfigError, match="inputs elsewhere"):
        open_run(Storage(tmp_path), config)
    assert list(tmp_path.iterdir()) == []


def test_inputs_beside_what_the_run_writes_are_inputs(tmp_path: Path) -> None:
    open_run(
        Storage(tmp_path), RunConfig(pool=str(tmp_path / "data/pool.jsonl"), target=str(tmp_path / "task"), out="x")
    )


def test_a_start_anew_that_is_cut_off_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its config and manifest, the rounds that are left would be taken for those of the next run."""
    storage = Storage(tmp_path)
    open_run(storage, RunConfig(pool="pool.jsonl", target="task", out=str(tmp_path)))
    for key in (MANIFEST, "rounds/0001/trained.json", "summary.json"):
        storage.write_json(key, {})
    delete = Storage.delete

    def interrupted(self: Storage, key: str) -> None:
        if key == "summary.json":
            raise KeyboardInterrupt
        delete(self, key)

    monkeypatch.setattr(Storage, "delete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start_anew(storage)
    assert storage.exists(MANIFEST) and storage.exists("config.yaml")
    monkeypatch.setattr(Storage, "delete", delete)
    start_anew(storage)
    assert list(storage.keys()) == []
