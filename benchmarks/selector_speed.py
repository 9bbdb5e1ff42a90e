"""How long does each selector take, and in how much memory, beside the dense form of the same algorithm?

Seeded rows: 64 cluster centres, noise such that cosines within a cluster are about .5 to .9, target rows around 8 of
the centres in 4 subtasks, a quality for each row. Peers: `selectors_baselines.py`. Defaults throughout, but that
`evoselect` runs at one point of its path (lambda 0.3, r 0.5). Ours has one shard, in its own process, in tiles of 4,096
rows.

Every run is a process of its own, on the same processors. The features are in its memory and it has made a small
selection before the clock starts; ours and the peer take turns, and medians are compared. `ratio` and `memory_ratio`
are ours over dense: below 1 ours is faster, or smaller. `*_mb` is the largest size of the process, features and
libraries included, `*_added_mb` what the selection added to what was there before. `overlap` is the share of picks that
both made. `knn_kde` and `qdit` compare all pairs of rows: they are timed alone, and beside their peers on the first
8,000 rows (`small`; there `overlap` is the recall of the exact picks).

`--million`: ours alone on a million rows, and whether the process stays within 10 GB. Prints a table, and as the last
line a JSON object; the exit code is 1 where a selector failed, or was too large.

    python benchmarks/selector_speed.py [--selectors less uot ...] [--n 200000] [--k 5000] [--repeats 3] [--scratch DIR]
        [--million]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from sinkhorn_baselines import limit_threads, memory_now

Matrix = npt.NDArray[np.float32]

NAMES = (
    "random", "all", "less", "round_robin", "doubly_greedy", "uot", "knn_uniform", "knn_kde", "k_center",
    "kmeans_random", "kmeans_quality", "deita", "qdit", "entropy", "margin", "least_confidence", "evoselect",
)  # fmt: skip
COLUMNS = ("entropy", "margin", "least_confidence")  # of features with three columns
ALL_PAIRS = ("knn_kde", "qdit")
OPTIONS: dict[str, dict[str, Any]] = {"evoselect": {"lam": 0.3, "r": 0.5}}
MILLION, MILLION_MB = 1_000_000, 10_000
SMALL_ROWS, SMALL_SHARE = 8000, 4  # of a comparison of all pairs; one row of so many is picked, at most
WARM_ROWS, WARM_K = 2048, 64
TILE_ROWS = 4096
SEED = 0
_CENTRES, _TARGET_CENTRES, _SUBTASKS = 64, 8, 4
#: Length of the noise around a centre of norm 1: rows of lengths a, b have cosine ((1 + a^2) (1 + b^2))^-1/2 or so.
_NOISE = (0.33, 1.0)
_TIMEOUT = 7200.0  # seconds of one run


def main() -> int:
    """Measure the selectors, print the table and the JSON object."""
    options = _options()
    limit_threads(options.threads)
    if options.child:
        print(json.dumps(_child(options)))
        return 0
    with tempfile.TemporaryDirectory(prefix="selectors-") as name:
        options.folder = options.scratch or Path(name)
        options.folder.mkdir(parents=True, exist_ok=True)
        _write_data(options.folder, options.n, options.targets, options.dim)
        measure = _million if options.million else _compared
        found = []
        for selector in options.selectors:
            found.append(measure(options, selector))
            print(json.dumps(found[-1]), file=sys.stderr)  # what an interrupted run leaves
    print(_table(found, options.million))
    sizes = {key: getattr(options, key) for key in ("n", "targets", "dim", "k", "repeats", "threads")}
    print(json.dumps({"selectors": found} | sizes | _hardware()))
    return int(any("error" in one or one.get("too_large") for one in found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--selectors", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME")
    parser.add_argument("--n", type=int, help="candidates; 200,000, or a million with --million")
    parser.add_argument("--targets", type=int, default=256)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--scratch", type=Path, help="folder of the data, which is kept; else a temporary one")
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--child", choices=["ours", "dense"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.n = options.n or (MILLION if options.million else 200_000)
    if options.k > options.n:
        parser.error(f"--k {options.k} of --n {options.n} rows")
    return options


# What is selected from.


def _write_data(folder: Path, rows: int, targets: int, dim: int) -> None:
    """Features, target and quality as .npy files; those that are there already are left as they are."""
    made = {"rows": rows, "targets": targets, "dim": dim, "seed": SEED}
    note = folder / "data.json"
    if note.is_file() and json.loads(note.read_text()) == made:
        return
    note.unlink(missing_ok=True)
    centres_CD = _unit(np.random.default_rng([SEED, 0]).standard_normal((_CENTRES, dim)))
    features_ND = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float32, (rows, dim))
    quality_N, columns_NC = np.empty(rows), np.empty((rows, len(COLUMNS)), np.float32)
    for block, start in enumerate(range(0, rows, TILE_ROWS)):
        # A block is drawn whole: a larger pool begins with the smaller one.
        generator, span = np.random.default_rng([SEED, 1, block]), slice(start, min(start + TILE_ROWS, rows))
        centre_B = generator.integers(_CENTRES, size=TILE_ROWS)
        held = span.stop - start
        features_ND[span] = _around(centres_CD[centre_B], generator)[:held]
        quality_N[span] = generator.standard_normal(TILE_ROWS)[:held]
        columns_NC[span] = generator.standard_normal((TILE_ROWS, len(COLUMNS)))[:held]
    features_ND.flush()
    generator = np.random.default_rng([SEED, 2])
    centre_M = generator.integers(_TARGET_CENTRES, size=targets)
    np.save(folder / "target.npy", _around(centres_CD[centre_M], generator))
    np.save(folder / "subtasks.npy", centre_M % _SUBTASKS)
    np.save(folder / "quality.npy", quality_N)
    np.save(folder / "columns.npy", columns_NC)
    note.write_text(json.dumps(made))


def _around(centres_ND: Matrix, generator: np.random.Generator) -> Matrix:
    noise_ND = generator.standard_normal(centres_ND.shape, dtype=np.float32)
    length_N = generator.uniform(*_NOISE, len(centres_ND)).astype(np.float32)
    return _unit(centres_ND + length_N[:, None] * _unit(noise_ND))


def _unit(rows_ND: npt.NDArray[np.floating]) -> Matrix:
    unit: Matrix = (rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)).astype(np.float32)
    return unit


# One run, in a process of its own.


def _child(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and memory of one selection, and the numbers of the rows that it picked."""
    import torch

    torch.set_num_threads(options.threads)
    (name,) = options.selectors
    ready = _ours if options.child == "ours" else _dense
    features = "columns.npy" if name in COLUMNS else "features.npy"
    features_ND = _first_rows(options.folder / features, options.n)
    ready(name, options.folder, features_ND[:WARM_ROWS], min(WARM_K, options.k))()
    run = ready(name, options.folder, features_ND, options.k)
    loaded = memory_now("VmHWM")
    before = _restart_peak()
    began = time.perf_counter()
    rows = run()
    seconds = time.perf_counter() - began
    peak = memory_now("VmHWM")
    facts = {"seconds": seconds, "mb": max(loaded, peak) / 1e6, "rows": rows}
    return facts | {"added_mb": None if before is None else (peak - before) / 1e6}


def _first_rows(path: Path, rows: int) -> Matrix:
    """The beginning of a .npy file, read: a mapped file would count in the process's memory beside its copy."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        (_, width), _, dtype = np.lib.format.read_array_header_1_0(file)
        found: Matrix = np.fromfile(file, dtype, rows * width).reshape(rows, width)
    return found


def _restart_peak() -> int | None:
    """What the process holds now, from which its peak starts anew; None where that is not allowed."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return memory_now("VmRSS")


def _ids(rows: int) -> list[str]:
    return [f"{row:08d}" for row in range(rows)]


def _ours(name: str, folder: Path, features_ND: Matrix, k: int) -> Callable[[], list[int]]:
    """Our selector on one shard, ready to run."""
    import torch

    from evoray.selection.local import LocalShards
    from evoray.selection.selector import Goal, Request
    from evoray.selection.selectors import build_selector
    from evoray.selection.shard import Tile

    ids, held_ND = _ids(len(features_ND)), torch.from_numpy(features_ND)
    quality_N = torch.from_numpy(np.load(folder / "quality.npy")[: len(ids)])
    spans = [slice(start, min(start + TILE_ROWS, len(ids))) for start in range(0, len(ids), TILE_ROWS)]
    shards = LocalShards.of_tiles(
        [
            Tile(index=index, ids=ids[span], features_ND=held_ND[span], columns={"quality": quality_N[span]})
            for index, span in enumerate(spans)
        ]
    )
    subtasks = tuple(str(task) for task in np.load(folder / "subtasks.npy"))
    goal = Goal(align_MD=np.load(folder / "target.npy"), subtasks_M=subtasks)
    request = Request(k=k, rows=k, seed=SEED, goal=goal)
    selector = build_selector(name, OPTIONS.get(name, {}))
    return lambda: [int(pick.id) for pick in selector.select(shards, request).picks]


def _dense(name: str, folder: Path, features_ND: Matrix, k: int) -> Callable[[], list[int]]:
    """The peer, ready to run."""
    import torch
    from selectors_baselines import BASELINES, Pool

    pool = Pool(
        ids=_ids(len(features_ND)),
        features_ND=torch.from_numpy(features_ND),
        target_MD=torch.from_numpy(np.load(folder / "target.npy")),
        subtasks_M=torch.from_numpy(np.load(folder / "subtasks.npy")),
        quality_N=torch.from_numpy(np.load(folder / "quality.npy")[: len(features_ND)]),
        k=k,
        seed=SEED,
    )
    return lambda: BASELINES[name](pool)


# All runs of a selector.


class _FailedError(Exception):
    """A run that gave no answer."""


def _run(options: argparse.Namespace, side: str, selector: str, rows: int, k: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", side, "--selectors", selector, "--folder", str(options.folder)]
    command += ["--n", str(rows), "--k", str(k), "--threads", str(options.threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise _FailedError(f"{side}: more than {_TIMEOUT:.0f} s") from error
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
        raise _FailedError(f"{side}: the process ended with {done.returncode}: {last}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{selector}, {rows} rows, {side}: {found['seconds']:.2f} s, {found['mb']:.0f} MB", file=sys.stderr)
    return found


def _race(options: argparse.Namespace, selector: str, sides: Sequence[str], rows: int, k: int) -> dict[str, Any]:
    """The medians of all repeats, the sides in turn, and what they come to beside each other."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for repeat in range(options.repeats):
        for side in sides if repeat % 2 == 0 else reversed(sides):
            runs[side].append(_run(options, side, selector, rows, k))
    facts: dict[str, Any] = {}
    for side, found in runs.items():
        added = [run["added_mb"] for run in found if run["added_mb"] is not None]
        facts[f"{side}_s"] = median(run["seconds"] for run in found)
        facts[f"{side}_mb"] = median(run["mb"] for run in found)
        facts[f"{side}_added_mb"] = median(added) if added else None
    if len(sides) > 1:
        facts["ratio"] = facts["ours_s"] / facts["dense_s"]
        facts["memory_ratio"] = facts["ours_mb"] / facts["dense_mb"]
        ours, dense = (set(runs[side][0]["rows"]) for side in sides)
        facts["overlap"] = len(ours & dense) / len(dense)
    return facts


def _compared(options: argparse.Namespace, selector: str) -> dict[str, Any]:
    """Ours beside the dense form; of those that have none at this size, alone and at a smaller one."""
    facts: dict[str, Any] = {"selector": selector}
    try:
        if selector not in ALL_PAIRS:
            return facts | _race(options, selector, ("ours", "dense"), options.n, options.k)
        rows = min(SMALL_ROWS, options.n)
        k = min(options.k, rows // SMALL_SHARE)
        facts["small"] = {"n": rows, "k": k} | _race(options, selector, ("ours", "dense"), rows, k)
        return facts | _race(options, selector, ("ours",), options.n, options.k)
    except _FailedError as error:
        print(f"{selector}: {error}", file=sys.stderr)
        return facts | {"error": str(error)}


def _million(options: argparse.Namespace, selector: str) -> dict[str, Any]:
    """Ours alone."""
    facts: dict[str, Any] = {"selector": selector}
    try:
        found = _run(options, "ours", selector, options.n, options.k)
    except _FailedError as error:
        print(f"{selector}: {error}", file=sys.stderr)
        return facts | {"error": str(error)}
    found.pop("rows")
    peak_gb = {"ours_s": found["seconds"], "peak_gb": found["mb"] / 1e3, "ours_added_mb": found["added_mb"]}
    return facts | peak_gb | {"too_large": found["mb"] > MILLION_MB}


# What is printed.


def _table(found: Sequence[dict[str, Any]], million: bool) -> str:
    if million:
        heads = {"seconds": "ours_s", "peak GB": "peak_gb", "added MB": "ours_added_mb"}
    else:
        heads = {"ours s": "ours_s", "dense s": "dense_s", "ratio": "ratio", "ours MB": "ours_mb"}
        heads |= {"dense MB": "dense_mb", "memory ratio": "memory_ratio", "overlap": "overlap"}
    lines = [f"| selector | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for one in found:
        rows = [(one["selector"], one)]
        if "small" in one:
            rows.append((f"{one['selector']}, {one['small']['n']} rows", one["small"]))
        for label, facts in rows:
            shown = [_shown(key, facts.get(key)) for key in heads.values()]
            lines.append(f"| {label} | {' | '.join(shown)} |")
        if "error" in one:
            lines[-1] = f"| {one['selector']} | {one['error'].replace('|', '/')} |{' |' * (len(heads) - 1)}"
    return "\n".join(lines)


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if key.endswith("_mb") else f"{value:.4f}" if key == "overlap" else f"{value:.2f}"


def _hardware() -> dict[str, Any]:
    import torch
    from sinkhorn_measures import cpu_name

    return {"cpus": os.cpu_count(), "cpu": cpu_name(), "torch": torch.__version__}


if __name__ == "__main__":
    sys.exit(main())
