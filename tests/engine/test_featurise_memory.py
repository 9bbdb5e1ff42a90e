"""Featurising a pool of a million rows: the memory of driver and workers is that for ten thousand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

POOLS = (10_000, 100_000, 1_000_000)
ALLOWED_MB = 150  # of growth between the first and the last; rows and features of the largest pool are 2 GB

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


def memory_mb(folder: Path, model: Path, rows: int) -> tuple[float, float]:
    """How much the driver grew, and the most that one worker had."""
    folder.mkdir()
    with (folder / "pool.jsonl").open("w") as file:
        for row in range(rows):
            file.write(json.dumps({"instruction": f"{row}+1?", "output": str(row + 1)}) + "\n")
    arguments = [sys.executable, "-c", _DRIVER, str(folder), str(model)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=5400)
    assert done.returncode == 0, done.stderr[-4000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["rows"], facts["quarantined"]) == (rows, 0)
    events = [json.loads(line) for line in (folder / "out" / "events.jsonl").read_text().splitlines()]
    return float(facts["grown_mb"]), max(float(event["peak_mb"]) for event in events if "peak_mb" in event)


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_driver_and_workers_of_a_million_rows_are_as_small_as_those_of_ten_thousand(
    tmp_path: Path, tiny_model_dir: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    found = {rows: memory_mb(tmp_path / str(rows), tiny_model_dir, rows) for rows in POOLS}
    record_testsuite_property("driver_growth_and_worker_peak_mb", found)
    for rows, (grown, peak) in found.items():
        print(f"{rows} rows: driver grew by {grown:.0f} MB, a worker had at most {peak:.0f} MB")  # noqa: T201
    (small, small_worker), *_, (large, large_worker) = found.values()
    assert large < small + ALLOWED_MB
    assert large_worker < small_worker + ALLOWED_MB
