"""What does one reduction of the solver take on 512 shards: how much of it is latency, bytes, merging?

512 shards are 512 processes, which this machine does not have. So the calls of a real Ray actor and of a real Ray task
are measured (see `reduction_measures.py`), and then the solver's own reduction (`partial_sums`, `in_groups`, `combine`,
`merge`) runs over as many shards in this process, with a clock that adds what their calls would have taken. The clock
has three hands: calls that carry nothing; calls with their bytes; both, and the additions of groups and driver, which
are measured as they happen, in seconds of a processor. What the shards compute themselves comes on top and is left out.
The network is this machine's own: what a cluster's adds is arithmetic (`paper_plan.py`).

The same solve over one shard and over all of them must end in the same bits. And the driver's side as it is in a run,
`RayShards`, is timed over the real processes of this machine, each of which answers for many shards: that is no model,
but its processes are few and answer one call after another.

    python benchmarks/reduction.py [--shards 1 8 64 512] [--targets 256 1024 4096] [--tiles 2442] [--smoke]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from reduction_measures import Costs, measured, seen
from seeded_features import SeededFeatures
from sinkhorn_measures import cpu_name, uniform

from evoray.alignment.reduction import Array, Partials, combine, in_groups, merge, partial_sums
from evoray.alignment.sinkhorn import Potentials, solve
from evoray.engine.shard_actors import FAN_IN
from evoray.selection.protocol import split_tiles
from evoray.selection.shard import Shard, Tile

#: Seconds of calls that carry nothing; with their bytes; and with the additions.
Hands = npt.NDArray[np.float64]

#: Tiles of ten million rows in units of 64, 64 units a tile.
TILES = 2442
#: Of the second moment of the rows in the space of the diversity term.
MOMENT_DIM = 512
#: Of the solve whose bits are compared.
ROWS_A_TILE, SOLVE_TARGETS, DIM, EPS = 8, 64, 32, 0.05
#: Arrays that stand for all nodes: together larger than a processor's cache.
_RING_BYTES = 64 * 2**20


def main() -> None:
    """Measure, simulate, compare bits, print the JSON object."""
    options = _options()
    began, load = time.perf_counter(), os.getloadavg()[0]
    torch.set_num_threads(1)
    sizes: dict[str, tuple[int, ...]] = {f"M={count}": (count,) for count in options.targets}
    sizes |= {} if options.smoke else {"moment": (MOMENT_DIM, MOMENT_DIM)}
    quiet, busy = measured(max(options.targets), options.repeats)
    facts: dict[str, Any] = {
        "costs_quiet": quiet.facts(),
        "costs_busy": busy.facts(),
        "iteration_quiet": simulated(options, sizes, quiet),
        "iteration_busy": simulated(options, sizes, busy),
        "seen": seen(options.shards, options.tiles, options.targets[0], options.processes, options.repeats),
        "same_bits": same_bits(options.shards, options.tiles, quiet),
        "tiles": options.tiles,
        "fan_in": FAN_IN,
        "load": [load, os.getloadavg()[0]],
        "cpu": cpu_name(),
        "seconds": time.perf_counter() - began,
    }
    print(json.dumps(facts))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--targets", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--tiles", type=int, default=TILES)
    parser.add_argument("--processes", type=int, default=2, help="that are there, and answer for all shards")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--smoke", action="store_true", help="a quick look at whether it runs")
    options = parser.parse_args()
    if options.smoke:
        options.shards, options.targets, options.tiles, options.repeats = [1, 20], [256], 100, 4
    return options


@dataclass(frozen=True)
class _Timed:
    """Partial sums, and when they are there."""

    part: Partials
    ready: Hands


def reduced(parts: Sequence[Partials], n_tiles: int, costs: Costs) -> tuple[tuple[Array, ...], Hands]:
    """The merged arrays of so many shards' answers, and when the driver has them, seconds after its first call."""
    driver = _calls(0.0)

    def sent(seconds: float, with_bytes: float = 0.0) -> Hands:
        driver[:] += _calls(seconds) + _bytes_of(with_bytes)
        return driver.copy()

    def answer(part: Partials) -> _Timed:
        begun = sent(costs.send, costs.argument(_longest(part)))
        return _Timed(part, begun + _calls(costs.answer) + _bytes_of(costs.carried(_bytes(part))))

    def combined(group: Sequence[_Timed]) -> _Timed:
        begun = np.maximum(sent(costs.task_send), np.max([one.ready for one in group], axis=0))
        part, seconds = _processor_seconds(lambda: combine([one.part for one in group], n_tiles))
        carried = sum(costs.carried(_bytes(one.part)) for one in group)
        return _Timed(part, begun + _calls(costs.task) + _bytes_of(carried) + _additions(seconds))

    last = in_groups([answer(part) for part in parts], FAN_IN, combined)
    arrays, seconds = _processor_seconds(lambda: merge([one.part for one in last], n_tiles))
    # What comes from the shards themselves was carried with their answers.
    carried = sum(costs.carried(_bytes(one.part)) for one in last) if len(parts) > len(last) else 0.0
    there = np.max([driver, *(one.ready for one in last)], axis=0) + _calls(costs.take * len(last))
    return arrays, there + _bytes_of(carried) + _additions(seconds)


def _longest(part: Partials) -> int:
    """Bytes of the vector that goes out: potentials are as long as the sums that come back."""
    return max((array.nbytes for arrays in part.nodes.values() for array in arrays), default=0)


def _bytes(part: Partials) -> int:
    return sum(array.nbytes for arrays in part.nodes.values() for array in arrays)


def _calls(seconds: float) -> Hands:
    return np.array([seconds, seconds, seconds])


def _bytes_of(seconds: float) -> Hands:
    return np.array([0.0, seconds, seconds])


def _additions(seconds: float) -> Hands:
    return np.array([0.0, 0.0, seconds])


def _processor_seconds(work: Any) -> tuple[Any, float]:
    """What work answers, and its seconds of a processor: those of the clock on the wall count what else runs here."""
    began = time.thread_time()
    found = work()
    return found, time.thread_time() - began


def simulated(options: argparse.Namespace, sizes: dict[str, tuple[int, ...]], costs: Costs) -> dict[str, Any]:
    """Of a reduction of arrays of each size, by number of shards: milliseconds, their parts, and bytes."""
    found: dict[str, Any] = {}
    for name, shape in sizes.items():
        ring = _ring(shape)
        for count in options.shards:
            parts = answers_of(count, options.tiles, ring)
            hands = np.median([reduced(parts, options.tiles, costs)[1] for _ in range(5)], axis=0)
            latency, carried, whole = 1e3 * hands
            found.setdefault(name, {})[str(count)] = {
                "ms": whole,
                "latency_ms": latency,
                "bytes_ms": carried - latency,
                "merging_ms": whole - carried,
                "shard_bytes": max(map(_bytes, parts)),
                "all_bytes": sum(map(_bytes, parts)),
                "driver_bytes": _driver_bytes(parts, options.tiles),
            }
            print(f"{name} over {count} shards: {whole:.2f} ms", file=sys.stderr)
    return found


def answers_of(n_shards: int, n_tiles: int, ring: Sequence[Array]) -> list[Partials]:
    """What each shard answers: the nodes that its tiles fold into, each with an array of the ring."""
    parts = []
    for span in split_tiles(n_tiles, n_shards):
        nodes = partial_sums(((tile, (np.zeros(1),)) for tile in span), n_tiles).nodes
        held = {node: (ring[(span.start + place) % len(ring)],) for place, node in enumerate(nodes)}
        parts.append(Partials(ops=("sum",), nodes=held))
    return parts


def _ring(shape: tuple[int, ...]) -> list[Array]:
    rng = np.random.default_rng(0)
    count = max(8, _RING_BYTES // (8 * int(np.prod(shape))))
    return [rng.standard_normal(shape) for _ in range(min(count, 512))]


def _driver_bytes(parts: Sequence[Partials], n_tiles: int) -> int:
    """What reaches the driver, after the groups."""
    return sum(map(_bytes, in_groups(parts, FAN_IN, lambda group: combine(group, n_tiles))))


@dataclass
class SimulatedShards:
    """A `Reducer` over shards of this process, with a clock of what their calls would have taken on as many actors."""

    shards: Sequence[Shard]
    n_tiles: int
    costs: Costs
    hands: Hands = field(default_factory=lambda: _calls(0.0))
    reductions: int = 0

    def reduce(self, method: str, *args: Any) -> tuple[Array, ...]:
        """Call `method` on every shard and merge the partial sums as the driver of many actors does."""
        arrays, hands = reduced([getattr(shard, method)(*args) for shard in self.shards], self.n_tiles, self.costs)
        self.hands, self.reductions = self.hands + hands, self.reductions + 1
        return arrays


def same_bits(counts: Sequence[int], n_tiles: int, costs: Costs) -> dict[str, Any]:
    """A whole solve over each number of shards. SystemExit where one has other bits than the first."""
    found = {count: solved(count, n_tiles, costs) for count in counts}
    (first, _), *_ = found.values()
    for count, (ended, _) in found.items():
        if ended.g_M.tobytes() != first.g_M.tobytes() or ended != _like(first, ended):
            raise SystemExit(f"{count} shards: other numbers than {counts[0]}")
    return {
        "rows": n_tiles * ROWS_A_TILE,
        "iterations": first.iterations,
        "objective": first.objective,
        "seconds": {str(count): float(clock.hands[-1]) for count, (_, clock) in found.items()},
    }


def _like(first: Potentials, ended: Potentials) -> Potentials:
    """The first with the other's vector, which is compared by its bits: arrays have no equality that is one answer."""
    return Potentials(**{**vars(first), "g_M": ended.g_M})


def solved(count: int, n_tiles: int, costs: Costs) -> tuple[Potentials, SimulatedShards]:
    """Potentials of a seeded pool of so many tiles over so many shards, and the shards with their clock."""
    made = SeededFeatures(DIM)
    features_ND = torch.from_numpy(
        np.concatenate([made.block(index) for index in range(-(-n_tiles * ROWS_A_TILE // 4096))])
    )
    tiles = [_tile(index, features_ND) for index in range(n_tiles)]
    shards = [Shard([tiles[index] for index in span], n_tiles) for span in split_tiles(n_tiles, count)]
    b_M = uniform(SOLVE_TARGETS)
    target_MD = made.target(SOLVE_TARGETS).astype(np.float64)
    for shard in shards:
        shard.open("pool", target_MD, b_M, -float(np.log(n_tiles * ROWS_A_TILE)))
    clock = SimulatedShards(shards, n_tiles, costs)
    return solve(clock, "pool", b_M, eps=EPS), clock


def _tile(index: int, features_ND: torch.Tensor) -> Tile:
    rows = range(index * ROWS_A_TILE, (index + 1) * ROWS_A_TILE)
    return Tile(index=index, ids=[str(row) for row in rows], features_ND=features_ND[rows.start : rows.stop].clone())


if __name__ == "__main__":
    main()
