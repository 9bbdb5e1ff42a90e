"""How long does a whole selection take, what memory does it need, and how do both grow with the pool?

`--stage select`: seeded features (see `seeded_features.py`; 512 dimensions, 1,000 target rows to aim at) are written to
a Parquet file in --out once, a row group a tile, and EvoSelect chooses a hundredth of the rows through `evoray.select`:
40 steps, relative_vendi, lambda 0.3, r 0.5, two workers of one thread. Memory is the sum over the tree of processes of
what each has to itself and its part of what is shared (PSS), sampled all the while. `--curve` does a hundredth and a
tenth of the rows first: times as powers of the number of rows. The last line printed is one JSON object; its `plan`
says, by measured costs of a row, what larger pools would need.

`--stage path`: the same out of text. A pool of short rows in Parquet (see `small_pool.py`) goes the whole way: read,
checked, featurised by gradients of a small transformer, stored, aligned, chosen from and written. Each stage has its
seconds and the highest memory while it ran; `growth` has a power for each of them, and the driver's memory is there by
itself. A stage's few seconds of starting make its power smaller: `growth` is of work, without what a pool of a thousand
rows takes.

    python benchmarks/million.py --stage select|path --out DIR [--rows 1000000] [--workers 2] [--curve]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from seeded_features import SeededFeatures, block_lengths
from sinkhorn_measures import cpu_name, feature_writer
from small_pool import write_model, write_pool
from small_pool import write_target as write_task

import evoray
from evoray.config import ClusterConfig, FeatureConfig, PoolConfig, SelectionConfig
from evoray.engine.events import Silent

DIM, TARGETS, STEPS, LAM, R, SHARE = 512, 1000, 40, 0.3, 0.5, 100
#: Of the whole path: rows of a unit, and of a pool that takes little but starting.
PATH_UNIT, PATH_START = 1024, 1024
SAMPLED_EVERY = 1.0
PLANNED = (10_000_000, 100_000_000)
#: Of a planned machine; memory beyond what is left free for the system.
CORES, MEMORY, FREE, BUDGET_SECONDS = 16, 64e9, 0.15, 1800.0


def main() -> None:
    """Run the stage, print the JSON object."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = [options.rows // 100, options.rows // 10, options.rows] if options.curve else [options.rows]
    found = []
    stage = {"select": select, "path": whole_path}[options.stage]
    for rows in sizes:
        found.append(stage(rows, options))
        print(json.dumps(found[-1]), file=sys.stderr)
    facts: dict[str, Any] = dict(found[-1])
    if options.stage == "path":
        facts |= path_growth(found, options) if options.curve else {}
    else:
        facts |= {"curve": found, "growth": growth(found)} if options.curve else {}
        facts["plan"] = plan(found)
    facts |= {"cpu": cpu_name(), "dim": DIM, "targets": TARGETS, "steps": STEPS}
    print(json.dumps(facts))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=["select", "path"], required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--curve", action="store_true", help="also a hundredth and a tenth of the rows")
    return parser.parse_args()


def write_features(path: Path, rows: int) -> None:
    """The pool's features, block by block; a file that is there already is left as it is."""
    if path.is_file():
        return
    made = SeededFeatures(DIM)
    partial = path.with_suffix(".partial")
    with feature_writer(partial, DIM) as write:
        for block, length in enumerate(block_lengths(rows)):
            write(made.block(block, length))
    partial.rename(path)


def write_target(path: Path) -> None:
    """Twice the target rows: a seeded half of a target's features is aimed at, the other left for choosing lambda."""
    if not path.is_file():
        with feature_writer(path, DIM) as write:
            write(SeededFeatures(DIM).target(2 * TARGETS))


@dataclass
class Clock:
    """A display that notes when things happened instead of showing them."""

    began: float = 0.0
    ended: float = 0.0
    steps: list[float] = field(default_factory=list)

    def begin(self, name: str, _total: int) -> None:
        """The stage that loads, aligns and selects."""
        if name == "align and select":
            self.began = time.perf_counter()

    def advance(self, _steps: int) -> None:
        """Nothing."""

    def share(self, _done: int, _total: int) -> None:
        """A step of the descent is done."""
        self.steps.append(time.perf_counter())

    def end(self, _seconds: float) -> None:
        """The stage is done; it is the last one."""
        self.ended = time.perf_counter()

    def note(self, _text: str) -> None:
        """Nothing."""

    def event(self, _facts: Mapping[str, Any]) -> None:
        """Nothing."""


class Memory:
    """Samples the PSS of this process and all below it, in a thread."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, int, int]] = []  # time, sum, largest process
        self.own: list[int] = []  # of this process, the driver, at the same times
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._done.wait(SAMPLED_EVERY):
            sizes = [_pss(process) for process in [own, *own.children(recursive=True)]]
            self.samples.append((time.perf_counter(), sum(sizes), max(sizes)))
            self.own.append(sizes[0])

    def peak(self) -> int:
        """Largest sum."""
        return max((total for _, total, _ in self.samples), default=0)

    def between(self, begun: float, ended: float) -> int:
        """Largest sum between two moments; 0 where none was sampled."""
        return max((total for when, total, _ in self.samples if begun <= when <= ended), default=0)

    def before(self, moment: float) -> int:
        """The last sum before a moment; the first one where there is none."""
        earlier = [total for when, total, _ in self.samples if when <= moment]
        return earlier[-1] if earlier else self.samples[0][1] if self.samples else 0


def _pss(process: psutil.Process) -> int:
    try:
        size: int = process.memory_full_info().pss
    except psutil.Error:
        return 0  # it ended meanwhile
    return size


def select(rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """One selection of a hundredth of the rows: its times, memory and certificates."""
    pool, target, out = (options.out / name for name in (f"pool-{rows}.parquet", "target.parquet", f"select-{rows}"))
    write_features(pool, rows)
    write_target(target)
    shutil.rmtree(out, ignore_errors=True)
    clock = Clock()
    with Memory() as memory:
        began = time.perf_counter()
        chosen = evoray.select(
            None,
            None,
            None,
            rows // SHARE,
            str(out),
            features_path=str(pool),
            target_features_path=str(target),
            selection=SelectionConfig.model_validate({"lambda": LAM, "r": R, "steps": STEPS}),
            cluster=ClusterConfig(workers=options.workers, threads=1),
            display=clock,
        )
        wall = time.perf_counter() - began
    steps = clock.steps
    return {
        "rows": rows,
        "picks": len(chosen.ids),
        "workers": options.workers,
        "wall_seconds": wall,
        "phases": {
            "start": clock.began - began,
            "load_and_first_step": steps[0] - clock.began,
            "steps": steps[-1] - steps[0],
            "finish": clock.ended - steps[-1],
            "write": began + wall - clock.ended,
        },
        "peak_bytes": memory.peak(),
        "idle_bytes": memory.before(clock.began),
        "largest_process_bytes": max((largest for _, _, largest in memory.samples), default=0),
    } | _quality(chosen.facts)


class Stages(Silent):
    """A display that notes when each stage began and ended."""

    def __init__(self) -> None:
        self.spans: dict[str, tuple[float, float]] = {}
        self._name, self._began = "", 0.0

    def begin(self, name: str, _total: int) -> None:
        """A stage begins."""
        self._name, self._began = name, time.perf_counter()

    def end(self, _seconds: float) -> None:
        """It ends."""
        self.spans[self._name.partition(" ")[0]] = (self._began, time.perf_counter())


def whole_path(rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """From a file of text to the chosen rows of it."""
    pool, target, model, out = (
        options.out / name for name in (f"text-{rows}.parquet", "task", "model", f"path-{rows}")
    )
    write_pool(pool, rows)
    write_task(target, 2 * TARGETS)
    write_model(model)
    shutil.rmtree(out, ignore_errors=True)
    stages = Stages()
    with Memory() as memory:
        began = time.perf_counter()
        chosen = evoray.select(
            str(pool),
            str(target),
            str(model),
            max(1, rows // SHARE),
            str(out),
            features=FeatureConfig.model_validate({"dim": DIM, "max_tokens": 64, "batch_tokens": 4096}),
            selection=SelectionConfig.model_validate({"lambda": LAM, "r": R, "steps": STEPS}),
            reading=PoolConfig(unit_rows=PATH_UNIT),
            cluster=ClusterConfig(workers=options.workers, threads=1),
            display=stages,
        )
        ended = time.perf_counter()
    last = max(end for _, end in stages.spans.values())
    spans = {**stages.spans, "write and stop": (last, ended)}
    return {
        "rows": rows,
        "picks": len(chosen.ids),
        "workers": options.workers,
        "wall_seconds": ended - began,
        "stages": {name: end - begin for name, (begin, end) in spans.items()},
        "stage_peak_bytes": {name: memory.between(begin, end) for name, (begin, end) in spans.items()},
        "peak_bytes": memory.peak(),
        "driver_peak_bytes": max(memory.own, default=0),
        "stored_bytes": sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
    } | _quality(chosen.facts)


def path_growth(found: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Powers of the number of rows over the last tenfold: of each stage's seconds beyond those of a pool that is almost
    none, of all of them, and of the driver's memory.
    """
    start = whole_path(PATH_START, options)
    earlier, last = found[-2:]
    tenfold = np.log(last["rows"] / earlier["rows"])

    def power(of_last: float, of_earlier: float) -> float | None:
        return float(np.log(of_last / of_earlier) / tenfold) if min(of_last, of_earlier) > 0 else None

    powers = {
        name: power(last["stages"][name] - least, earlier["stages"][name] - least)
        for name, least in start["stages"].items()
    }
    return {
        "curve": found,
        "start": start,
        "growth": {
            **powers,
            "wall": power(last["wall_seconds"], earlier["wall_seconds"]),
            "driver_memory": power(last["driver_peak_bytes"], earlier["driver_peak_bytes"]),
        },
    }


def _quality(facts: Any) -> dict[str, Any]:
    certificate, potentials = facts["certificate"], facts["potentials"]
    return {
        "objective": certificate["objective"],
        "gap": certificate["gap"],
        "marginal_error": potentials["marginal_error"],
        "domain": potentials["domain"],
        "aimed_at": len(potentials["g_M"]),
    }


def growth(found: list[dict[str, Any]]) -> dict[str, float]:
    """Exponents: of the wall time and of the steps alone over the last tenfold, and by least squares over all sizes."""

    def exponents(seconds: list[float]) -> tuple[float, float]:
        rows, taken = np.log([run["rows"] for run in found]), np.log(seconds)
        return float((taken[-1] - taken[-2]) / (rows[-1] - rows[-2])), float(np.polyfit(rows, taken, 1)[0])

    wall, wall_all = exponents([run["wall_seconds"] for run in found])
    steps, steps_all = exponents([run["phases"]["steps"] for run in found])
    return {"wall": wall, "wall_fitted": wall_all, "steps": steps, "steps_fitted": steps_all}


def plan(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What larger pools would need if a row costs what it does here: by the difference of a curve's last two sizes.

    A core is taken to be as fast with fifteen beside it as with one: memory's bandwidth must grow with the cores.
    """
    last = found[-1]
    earlier = found[-2] if len(found) > 1 else None
    rows: int = last["rows"] - (earlier["rows"] if earlier else 0)

    def per_row(of_last: float, of_earlier: float) -> float:
        return float(of_last - of_earlier) / rows

    memory = per_row(last["peak_bytes"], earlier["peak_bytes"] if earlier else last["idle_bytes"])
    step = per_row(last["phases"]["steps"], earlier["phases"]["steps"] if earlier else 0.0) / (STEPS - 1)
    whole = per_row(last["wall_seconds"], earlier["wall_seconds"] if earlier else last["phases"]["start"])
    cost = {
        "feature_bytes": 4 * DIM,
        "kernel_bytes": 4 * last["aimed_at"],
        "bytes": memory,
        "core_seconds_a_step": step * last["workers"],
        "core_seconds": whole * last["workers"],
    }
    machines = {}
    for size in PLANNED:
        by_memory = size * memory / (MEMORY * (1.0 - FREE))
        by_time = size * cost["core_seconds"] / (CORES * BUDGET_SECONDS)
        count = int(np.ceil(max(by_memory, by_time)))
        machines[str(size)] = {
            "machines": count,
            "by_memory": by_memory,
            "by_time": by_time,
            "bytes": size * memory,
            "minutes": size * cost["core_seconds"] / (CORES * count) / 60.0,
        }
    return {"a_row": cost, "machine": {"cores": CORES, "bytes": MEMORY}, "pools": machines}


if __name__ == "__main__":
    main()
