"""Selecting from a pool that is large beside the driver: the driver's memory does not grow with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS, TARGET, DIM, K = 200_000, 64, 32, 1000
LIMIT_MB = 300

_DRIVER = """
import json, sys
from evoray.config import ClusterConfig, SelectionConfig
from evoray.engine.session import session
from evoray.single import select
from tests.processes import MemoryGrowth

folder = sys.argv[1]
with session(ClusterConfig(workers=2)), MemoryGrowth() as grown:
    result = select(
        None, None, None, int(sys.argv[2]), f"{folder}/out", features_path=f"{folder}/pool.parquet",
        target_features_path=f"{folder}/target.parquet",
        selection=SelectionConfig(steps=6, lam=0.3, r=0.5, shards=2), cluster=ClusterConfig(workers=2),
    )
print(json.dumps({"grown_mb": grown.megabytes, "picks": len(result.ids), "usable": result.facts["usable"]}))
"""


def write_features(path: Path, rows: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(rows * DIM, dtype=np.float32)
    ids = pa.array([f"{path.stem}-{row}" for row in range(rows)])
    table = pa.table({"id": ids, "feature": pa.FixedSizeListArray.from_arrays(pa.array(values), DIM)})
    pq.write_table(table, path, row_group_size=10_000)


@pytest.mark.ray
@pytest.mark.slow
def test_the_driver_stays_small_while_a_thousand_of_two_hundred_thousand_rows_are_selected(
    tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    write_features(tmp_path / "pool.parquet", ROWS, 0)
    write_features(tmp_path / "target.parquet", TARGET, 1)
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(tmp_path), str(K)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    record_testsuite_property("driver_growth_mb", facts["grown_mb"])
    assert (facts["picks"], facts["usable"]) == (K, ROWS)
    assert facts["grown_mb"] < LIMIT_MB, facts
    selected = pq.read_table(tmp_path / "out" / "selected.parquet")
    assert len(set(selected["id"].to_pylist())) == K
