"""What `sinkhorn.py` measures of our solver alone: a pass beside the memory's bandwidth, and two actors beside one."""

from __future__ import annotations

import contextlib
import itertools
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from seeded_features import BLOCK_ROWS

from evoray.alignment.sinkhorn import solve
from evoray.config import ClusterConfig
from evoray.engine.session import session
from evoray.engine.shard_actors import ray_shards
from evoray.engine.shards import ParquetTiles
from evoray.selection.local import LocalShards
from evoray.selection.shard import Tile
from evoray.storage import Storage

Array = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]

_PASSES = 15
_SLOW_PASSES = 3
_CACHE_MB = 3072
_STREAMED_FLOATS = 2**28


def local_shards(features_ND: Matrix, similarity_NM: Matrix, target_MD: Matrix) -> LocalShards:
    """One shard with the problem `pool` open at uniform weights, and the similarity of every tile in place."""
    rows = len(features_ND)
    tiles = [
        Tile(
            index=index,
            ids=[str(row) for row in range(start, min(start + BLOCK_ROWS, rows))],
            features_ND=torch.from_numpy(features_ND[start : start + BLOCK_ROWS].copy()),
        )
        for index, start in enumerate(range(0, rows, BLOCK_ROWS))
    ]
    shards = LocalShards.of_tiles(tiles)
    shards.call("open", "pool", target_MD.astype(np.float64), uniform(len(target_MD)), -float(np.log(rows)))
    for shard in shards._shards:
        for index, held in shard._problems["pool"].rows.items():
            start = index * BLOCK_ROWS
            held._matrix_NM = torch.from_numpy(similarity_NM[start : start + BLOCK_ROWS].copy())
            held._holds_similarity = True
    return shards


def uniform(targets: int) -> Array:
    """Weights of the target."""
    weights: Array = np.full(targets, 1.0 / targets)
    return weights


def bandwidth(folder: Path, eps: float) -> dict[str, Any]:
    """Bytes a second of one read of the kernel in each pass, over those of a plain read of memory."""
    features_ND = np.load(folder / "features.npy", mmap_mode="r")
    target_MD = np.load(folder / "target.npy")
    shards = local_shards(features_ND, np.load(folder / "similarity.npy", mmap_mode="r"), target_MD)
    before = _streamed()
    (g_M,) = shards.reduce("column_minimum", "pool")
    seconds = _pass_seconds(lambda: shards.reduce("sinkhorn_kernel", "pool", g_M, eps))
    stream = max(before, _streamed())
    rate = 4 * len(features_ND) * len(target_MD) / seconds
    return {"bandwidth": rate / stream, "pass_seconds": seconds, "pass_gb_s": rate / 1e9, "stream_gb_s": stream / 1e9}


def scaling(folder: Path, eps: float, repeats: int) -> dict[str, Any]:
    """Times with one single-threaded actor over those with two.

    Of a pass over kernels that are kept, which the memory's bandwidth limits; of one that computes them anew from
    features (`_recomputed`: a pool that does not fit), which the processor limits; and of a solve from similarities.
    """
    target_MD = np.load(folder / "target.npy")
    path, storage = folder / "features.parquet", Storage(str(folder / "shards"))
    features_ND = np.load(folder / "features.npy", mmap_mode="r")
    with feature_writer(path, features_ND.shape[1]) as write:
        for start in range(0, len(features_ND), BLOCK_ROWS):
            write(features_ND[start : start + BLOCK_ROWS])
    b_M, opening = uniform(len(target_MD)), target_MD.astype(np.float64)
    seconds: dict[str, dict[int, list[float]]] = {name: {1: [], 2: []} for name in ("", "_solve", "_recomputed")}
    with session(ClusterConfig(workers=2, threads=1)) as workers:
        for repeat, cache_mb in itertools.product(range(repeats), (_CACHE_MB, 0)):
            for count in (1, 2) if repeat % 2 == 0 else (2, 1):
                tiles = ParquetTiles.open(str(path))
                with ray_shards(tiles, (), workers, storage, count=count, cache_mb=cache_mb) as shards:
                    shards.call("open", "pool", opening, b_M, -float(np.log(shards.n_rows)))
                    (g_M,) = shards.reduce("column_minimum", "pool")
                    if cache_mb:
                        shards.reduce("sinkhorn_kernel", "pool", g_M, eps)  # loads what was compiled
                        shards.call("reset", "pool")
                        began = time.perf_counter()
                        g_M = solve(shards, "pool", b_M, eps=eps, g_M=g_M).g_M
                        seconds["_solve"][count].append(time.perf_counter() - began)

                    def once(shards: Any = shards, g_M: Array = g_M) -> Any:
                        return shards.reduce("sinkhorn_kernel", "pool", g_M, eps)

                    passes = seconds["" if cache_mb else "_recomputed"][count]
                    passes.append(_pass_seconds(once, _PASSES if cache_mb else _SLOW_PASSES))
    facts: dict[str, Any] = {}
    for name, found in seconds.items():
        facts[f"scaling{name}"] = median(one / two for one, two in zip(found[1], found[2], strict=True))
        facts[f"scaling{name}_seconds"] = [median(found[1]), median(found[2])]
    return facts


@contextlib.contextmanager
def feature_writer(path: Path, dim: int) -> Iterator[Callable[[Matrix], None]]:
    """Writes rows of features, with ids in their order, to a Parquet file: a call a row group."""
    schema = pa.schema([("id", pa.string()), ("feature", pa.list_(pa.float32(), dim))])
    written = 0
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:

        def write(features_ND: Matrix) -> None:
            nonlocal written
            ids = pa.array([f"row-{row}" for row in range(written, written + len(features_ND))])
            values = pa.FixedSizeListArray.from_arrays(pa.array(features_ND.ravel()), dim)
            writer.write_table(pa.table([ids, values], schema=schema))
            written += len(features_ND)

        yield write


def cpu_name() -> str:
    """As the kernel names the processor."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.is_file() else []
    names = [line.split(": ")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _pass_seconds(once: Callable[[], Any], passes: int = _PASSES) -> float:
    """Median over passes; the first builds the kernel and does not count."""
    once()
    seconds = []
    for _ in range(passes):
        began = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def _streamed() -> float:
    """Best rate, in bytes a second, of reading a gigabyte of float32 once: by a sum, and by an inner product."""
    values = torch.ones(_STREAMED_FLOATS)
    left, right = values.chunk(2)
    reads: list[Callable[[], torch.Tensor]] = [lambda: torch.sum(values), lambda: torch.dot(left, right)]
    best = 0.0
    for read in reads:
        for _ in range(5):
            began = time.perf_counter()
            read()
            best = max(best, values.nbytes / (time.perf_counter() - began))
    return best
