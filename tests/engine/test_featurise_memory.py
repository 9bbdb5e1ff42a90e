"""Featurising a pool of a million rows: the driver's memory is that for ten thousand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL, LARGE = 10_000, 1_000_000
ALLOWED_MB = 150  # of growth between the two; rows and features of the larger pool are 2 GB

_DRIVER = """
import json, sys
from evoray.config import ClusterConfig, FeatureConfig, LoraConfig, PoolConfig
from evoray.engine.session import session
from evoray.single import featurize
from tests.processes import MemoryGrowth

folder, model = sys.argv[1:3]
with session(ClusterConfig(workers=2)), MemoryGrowth() as grown:
    found = featurize(
        f"{folder}/pool.jsonl", model, f"{folder}/out", cluster=ClusterConfig(workers=2), lora=LoraConfig(rank=1),
        features=FeatureConfig(dim=64, max_tokens=64, preconditioning="none", batch_tokens=8192, warmup={"rows": 8}),
        reading=PoolConfig(unit_rows=4096),
    )
print(json.dumps({"grown_mb": grown.megabytes, "rows": found.rows, "quarantined": found.quarantined}))
"""


def grown_mb(folder: Path, model: Path, rows: int) -> float:
    folder.mkdir()
    with (folder / "pool.jsonl").open("w") as file:
        for row in range(rows):
            file.write(json.dumps({"instruction": f"{row}+1?", "output": str(row + 1)}) + "\n")
    arguments = [sys.executable, "-c", _DRIVER, str(folder), str(model)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=5400)
    assert done.returncode == 0, done.stderr[-4000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["rows"], facts["quarantined"]) == (rows, 0)
    return float(facts["grown_mb"])


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_the_driver_of_a_million_rows_is_as_small_as_that_of_ten_thousand(
    tmp_path: Path, tiny_model_dir: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    small, large = (grown_mb(tmp_path / str(rows), tiny_model_dir, rows) for rows in (SMALL, LARGE))
    record_testsuite_property("driver_growth_mb", {SMALL: small, LARGE: large})
    print(f"driver growth: {small:.0f} MB at {SMALL} rows, {large:.0f} MB at {LARGE}")  # noqa: T201
    assert large < small + ALLOWED_MB
