"""Shard actors that are killed in the middle of a solve, drivers that are, and sums over many shards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from evoray import select
from evoray.alignment.reduction import combine, merge, partial_sums
from evoray.config import ClusterConfig, SelectionConfig
from evoray.engine import shard_actors
from evoray.engine.journal import StorageJournal
from evoray.engine.session import Session
from evoray.engine.shard_actors import RayShards, ray_shards
from evoray.engine.shards import ParquetTiles
from evoray.errors import StageError
from evoray.selection.evoselect import evoselect
from evoray.selection.evoselect_records import EvoSelectParams, EvoSelectResult
from evoray.storage import Storage
from tests.processes import marked, named
from tests.selection.pools import pool_and_target

PARAMS = EvoSelectParams(k=9, lam=0.3, r=0.2, steps=10)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = []
    for name, features_ND in zip(("pool", "target"), pool_and_target(2, 20_000, 24, dim=16), strict=True):
        values = pa.array(features_ND.astype(np.float32).ravel())
        column = pa.FixedSizeListArray.from_arrays(values, features_ND.shape[1])
        ids = pa.array([f"{name}-{row:05d}" for row in range(len(features_ND))])
        paths.append(tmp_path / f"{name}.parquet")
        pq.write_table(pa.table({"id": ids, "feature": column}), paths[-1])
    return paths[0], paths[1]


class Killer:
    """Shards of which one loses its process at certain calls."""

    def __init__(self, shards: RayShards, at: dict[int, int]) -> None:
        self.shards, self.at, self.calls = shards, at, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.shards, name)

    def _strike(self) -> None:
        victim = self.at.get(self.calls)
        if victim is not None:
            ray.kill(self.shards._actors[victim])
        self.calls += 1

    def call(self, method: str, *args: Any) -> list[Any]:
        self._strike()
        return self.shards.call(method, *args)

    def reduce(self, method: str, *args: Any) -> Any:
        self._strike()
        return self.shards.reduce(method, *args)


def selected(path: Path, target: Path, session: Session, storage: Storage, at: dict[int, int]) -> EvoSelectResult:
    table = pq.read_table(target)
    y = np.stack(table["feature"].to_pylist()).astype(np.float32)
    with ray_shards(ParquetTiles.open(str(path)), (), session, storage, count=2) as shards:
        journal = StorageJournal(storage, f"solver/{len(at)}", shards, "pool")
        result = evoselect(Killer(shards, at), y, None, None, PARAMS, journal=journal)
        assert shards.losses == len(at)
    return result


@pytest.mark.ray
@pytest.mark.slow
def test_a_lost_shard_costs_its_reload_and_changes_no_bit(
    files: tuple[Path, Path], ray_session: Session, tmp_path: Path
) -> None:
    storage = Storage(tmp_path / "run")
    undisturbed = selected(*files, ray_session, storage, {})
    disturbed = selected(*files, ray_session, storage, {7: 1, 60: 0})
    assert disturbed.picks == undisturbed.picks
    assert disturbed.trace == undisturbed.trace
    assert disturbed.certificate == undisturbed.certificate


@pytest.mark.ray
@pytest.mark.slow
def test_a_shard_that_is_lost_again_and_again_ends_the_stage(files: tuple[Path, Path], ray_session: Session) -> None:
    with ray_shards(ParquetTiles.open(str(files[0])), (), ray_session, count=2) as shards:
        killer = Killer(shards, dict.fromkeys(range(10), 1))
        with pytest.raises(StageError, match="lost 3 processes"):
            for _ in range(10):
                killer.call("counts")


@pytest.mark.ray
@pytest.mark.slow
def test_a_shard_that_stands_still_ends_the_stage_and_is_named(files: tuple[Path, Path], ray_session: Session) -> None:
    def shard_processes() -> set[psutil.Process]:
        return set(named("ShardActor", psutil.Process().children(recursive=True)))

    before = shard_processes()
    with ray_shards(ParquetTiles.open(str(files[0])), (), ray_session, count=1) as shards:
        shards._stall = 3.0  # no more of it: a start takes longer
        (mine,) = shard_processes() - before
        mine.suspend()
        with pytest.raises(StageError, match=r"waiting for the solver's shard of tiles range\(0, 5\), asked to counts"):
            shards.call("counts")
    psutil.wait_procs([mine], timeout=60)
    assert not mine.is_running()


@pytest.mark.ray
@pytest.mark.slow
def test_sums_of_many_shards_are_merged_on_the_cluster_to_the_same_bits(
    files: tuple[Path, Path], ray_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moments(count: int) -> bytes:
        with ray_shards(ParquetTiles.open(str(files[0])), (), ray_session, count=count) as shards:
            shards.call("open", "pool", np.eye(3, 16), np.full(3, 1 / 3), -float(np.log(20_000)))
            (found,) = shards.reduce("cost_moments", "pool")
        return bytes(found.tobytes())

    one = moments(1)
    monkeypatch.setattr(shard_actors, "FAN_IN", 2)
    assert moments(3) == one


@pytest.mark.ray
def test_no_shard_waits_for_a_processor_that_this_machine_has_not(
    files: tuple[Path, Path], ray_session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    session = replace(ray_session, slots=2)
    with ray_shards(ParquetTiles.open(str(files[0])), (), session, count=3) as shards:
        assert len(shards.call("counts")) == 2
        assert shards.n_rows == 20_000
    assert "selection.shards = 3" in caplog.text


def test_combined_parts_merge_to_the_bits_of_the_parts() -> None:
    rng = np.random.default_rng(0)
    values = {tile: (rng.standard_normal(4),) for tile in range(11)}
    whole = merge([partial_sums(values.items(), 11)], 11)
    parts = [
        partial_sums({tile: values[tile] for tile in span}.items(), 11)
        for span in (range(4), range(4, 7), range(7, 11))
    ]
    combined = [combine(parts[:2], 11), parts[2]]
    assert merge(combined, 11)[0].tobytes() == whole[0].tobytes()


def command(files: tuple[Path, Path], out: Path) -> list[str]:
    return [
        *(
            sys.executable,
            "-m",
            "evoray.cli",
            "select",
            "--features",
            str(files[0]),
            "--target-features",
            str(files[1]),
        ),
        *("--k", "9", "--out", str(out), "--set", "selection.lambda=0.3", "--set", "selection.r=0.2"),
        *("--set", "selection.steps=400", "--set", "cluster.workers=2"),
    ]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.soak  # tests/faults kills drivers, in every test run
def test_a_killed_driver_goes_on_from_its_notes(files: tuple[Path, Path], ray_session: Session, tmp_path: Path) -> None:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    again = partial(
        select, None, None, None, 9, features_path=str(files[0]), target_features_path=str(files[1]),
        selection=SelectionConfig(lam=0.3, r=0.2, steps=400), cluster=ClusterConfig(workers=2),
    )  # fmt: skip
    again(str(undisturbed))
    assert not (undisturbed / "solver").exists() or not list((undisturbed / "solver").rglob("*.json"))
    with marked() as mark:
        process = subprocess.Popen(command(files, killed), env={**os.environ, **mark}, **quiet, start_new_session=True)
        while not list(killed.glob("solver/*/point-000/last.json")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        for one in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
            if one.is_running():
                one.send_signal(signal.SIGKILL)
        process.communicate()
    (note,) = killed.glob("solver/*/point-000/last.json")
    assert 0 < json.loads(note.read_text())["step"] < 400
    again(str(killed))
    facts = [json.loads((out / "selection.json").read_text()) for out in (undisturbed, killed)]
    assert facts[0] == facts[1]
    tables = [pq.read_table(out / "selected.parquet") for out in (undisturbed, killed)]
    assert tables[0].equals(tables[1])
    assert not list(killed.glob("solver/**/*.json"))
