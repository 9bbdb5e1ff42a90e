"""What does a row, or a unit, cost the processes that see all of them?

Most of a pool is seen by its workers alone. What the driver, or one task, holds or asks for all rows or units is
measured here on small numbers of them, as bytes and seconds of each: `paper_plan.py` multiplies. And the
calls are counted that a selection with unchanged defaults makes.

    python benchmarks/growth.py [--smoke]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import psutil
import pyarrow as pa
import torch
from seeded_features import SeededFeatures
from sinkhorn_measures import cpu_name

from evoray.alignment.reduction import Array
from evoray.config import ClusterConfig, SelectionConfig
from evoray.engine.session import session
from evoray.pool import find_duplicates
from evoray.selection.evoselect import EvoSelectParams, evoselect
from evoray.selection.local import LocalShards
from evoray.selection.shard import Tile
from evoray.storage import Storage, UnitStore
from evoray.storage.units import UnitCommit

#: Two sizes of each, whose difference is counted: rows of ids and hashes, ranked rows, units, blocks of Ray Data.
SIZES = {"duplicates": (400_000, 800_000), "ranked": (100_000, 300_000), "commits": (2000, 6000), "blocks": (500, 2000)}
_SMALL = 50


def main() -> None:
    """Measure each in processes of its own, print the JSON object."""
    options = _options()
    if options.child:
        print(json.dumps(WORK[options.child](options.size)))
        return
    load = os.getloadavg()[0]
    facts: dict[str, Any] = {}
    for name, sizes in SIZES.items():
        small, large = [size // _SMALL for size in sizes] if options.smoke else sizes
        one, other = (_in_process(name, size) for size in (small, large))
        # Memory by the difference, without what the process had; seconds of the larger, for noise may exceed theirs.
        taken = (other["bytes"] - one["bytes"]) / (large - small)
        facts[name] = {"bytes": taken, "seconds": other["seconds"] / large, "sizes": [small, large]}
        print(f"{name}: {facts[name]}", file=sys.stderr)
    facts["path"] = path_calls(*((200, 8) if options.smoke else (2000, 64)))
    print(json.dumps({**facts, "load": [load, os.getloadavg()[0]], "cpu": cpu_name()}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a quick look at whether it runs")
    parser.add_argument("--child", choices=list(SIZES), help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_process(name: str, size: int) -> dict[str, float]:
    """What one of the works says of itself, at one size, in a process that does nothing else."""
    command = [sys.executable, __file__, "--child", name, "--size", str(size)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _hash(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def duplicates(rows: int) -> dict[str, float]:
    """`find_duplicates` of rows that all differ."""
    unit = 64
    units = (
        (start // unit, pa.array([f"row-{row:09d}" for row in range(start, start + unit)]),
         pa.array([_hash(row) for row in range(start, start + unit)]))
        for start in range(0, rows, unit)
    )  # fmt: skip
    return _grown(lambda: find_duplicates(units))


def ranked(rows: int) -> dict[str, float]:
    """Rows as the driver of a descent ranks them: (-log w, f, id, tile, row)."""
    return _grown(
        lambda: sorted((-float(_noise(row)), float(row), f"row-{row:09d}", row // 64, row) for row in range(rows))
    )


def commits(units: int) -> dict[str, float]:
    """All commit records of a store on this disk, read by one process."""
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        store = UnitStore(Storage(folder), "features/0123456789abcdef")
        facts = {"quarantined": 0, "truncated": 3, "norm_outliers": 1, "tokens": 11_000, "halvings": 0}
        for unit in range(units):
            file = f"unit-{unit:06d}.{_hash(unit)[:12]}.parquet"
            record = UnitCommit(unit=unit, file=file, sha256=2 * _hash(unit), rows=64, facts=facts)
            store.storage.create_json(f"{store.prefix}/unit-{unit:06d}.json", asdict(record))
        return _grown(store.commits)


def blocks(units: int) -> dict[str, float]:
    """The input of a stage: one block of Ray Data a unit, as `run_units` makes it."""
    import ray.data

    pending = [{"work": 0, "unit": unit} for unit in range(units)]
    with session(ClusterConfig(workers=2, threads=1)):
        ray.data.from_items(pending[:1], override_num_blocks=1)
        return _grown(lambda: ray.data.from_items(pending, override_num_blocks=units))


class _Counted:
    """Shards of this process that count what is asked of them."""

    def __init__(self, tiles: list[Tile]) -> None:
        self._shards = LocalShards.of_tiles(tiles)
        self.n_rows, self.n_tiles = self._shards.n_rows, self._shards.n_tiles
        self.save, self.restore = self._shards.save, self._shards.restore
        self.reductions, self.moments, self.calls = 0, 0, 0

    def call(self, method: str, *args: Any) -> list[Any]:
        """One call of all shards."""
        self.calls += 1
        return self._shards.call(method, *args)

    def reduce(self, method: str, *args: Any) -> tuple[Array, ...]:
        """One reduction, of vectors or of a moment."""
        self.moments += method == "moment"
        self.reductions += method != "moment"
        return self._shards.reduce(method, *args)


def path_calls(rows: int, targets: int) -> dict[str, int]:
    """Reductions of vectors, of moments, and other calls of a whole selection: they hardly depend on the rows."""
    made = SeededFeatures(32)
    features_ND, target_MD = torch.from_numpy(made.block(0, rows)), made.target(targets)
    tiles = [
        Tile(
            index=index,
            ids=[str(row) for row in range(start, start + 100)],
            features_ND=features_ND[start : start + 100],
        )
        for index, start in enumerate(range(0, rows, 100))
    ]
    shards = _Counted(tiles)
    half = targets // 2
    params = EvoSelectParams(k=max(1, rows // 100), trials=SelectionConfig().trials)
    found = evoselect(shards, target_MD[:half], None, target_MD[half:], params)
    counted = {"reductions": shards.reductions, "moments": shards.moments, "calls": shards.calls}
    return {**counted, "points": len(found.path), "steps": params.steps}


WORK: dict[str, Callable[[int], dict[str, float]]] = {
    "duplicates": duplicates,
    "ranked": ranked,
    "commits": commits,
    "blocks": blocks,
}


def _noise(row: int) -> int:
    """Another order than that of the rows."""
    return row * 2_654_435_761 % 2**32


def _grown(work: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a piece of work, and bytes that it took of memory: at its highest, or at its end where that says more.

    The highest memory of a process is no help where its imports took more for a moment.
    """
    process = psutil.Process()
    held, highest, began = process.memory_info().rss, _highest(), time.perf_counter()
    kept = work()
    seconds = time.perf_counter() - began
    taken = max(process.memory_info().rss - held, _highest() - highest)
    del kept
    return {"seconds": seconds, "bytes": float(taken)}


def _highest() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
