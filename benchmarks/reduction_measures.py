"""What `reduction.py` measures of Ray on this machine: single calls, and the solver's driver over few processes.

Each number is taken many times, and two of its quantiles are kept: the lowest tenth, which is nearest to a machine that
does nothing else, and the median, which has in it whatever ran beside.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from evoray.alignment.reduction import Partials, partial_sums
from evoray.config import ClusterConfig
from evoray.engine.session import session
from evoray.engine.shard_actors import RayShards
from evoray.selection.protocol import split_tiles

Array = npt.NDArray[np.float64]

_QUIET, _BUSY = 0.1, 0.5
#: Bytes of an answer: one number; vectors; a moment of 512 x 512 in float64; features of a tile in 2,048 dimensions.
_SIZES = (8, 2048, 8192, 32768, 131072, 2**21, 4096 * 2048 * 4)
#: Calls that are sent one after another without waiting, and answers that are taken in together.
_BURST = 32


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of calls to actors and tasks. `sizes` are bytes, ascending, with the seconds that each adds to a call."""

    send: float  # for the driver, until it can send the next call
    answer: float  # from there until a small answer is there
    take: float  # for the driver, to take in an answer that is there
    core: float  # of a processor, for one call in all threads of the driver, from sending to taking in
    task_send: float
    task: float  # of a task that merges small sums, from having been sent to its end
    sizes: tuple[int, ...]
    back: tuple[float, ...]  # until an answer is there
    out: tuple[float, ...]  # for the driver, to send an argument: of the first sizes

    def carried(self, size: int) -> float:
        """Seconds that an answer of so many bytes takes more than one of a number."""
        return _between(size, self.sizes, self.back)

    def argument(self, size: int) -> float:
        """Seconds that an argument of so many bytes takes the driver; none where it does not travel with each call."""
        sizes = self.sizes[: len(self.out)]
        return _between(size, sizes, self.out) if size <= sizes[-1] else 0.0

    def facts(self) -> dict[str, Any]:
        """Milliseconds."""
        single = {name: 1e3 * getattr(self, name) for name in ("send", "answer", "take", "core", "task_send", "task")}
        back = {str(size): 1e3 * seconds for size, seconds in zip(self.sizes, self.back, strict=True)}
        out = {str(size): 1e3 * seconds for size, seconds in zip(self.sizes, self.out, strict=False)}
        return {**single, "back": back, "out": out}


def _between(size: int, sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Linear between the sizes that were measured, and beyond the largest in proportion to it."""
    if size > sizes[-1]:
        return seconds[-1] * size / sizes[-1]
    return float(np.interp(size, sizes, seconds))


class _Process:
    """Answers for some shards: with arrays of a size that is asked for, and with nodes of their tiles."""

    def __init__(self) -> None:
        self._kept: dict[range, Partials] = {}

    def give(self, size: int, _argument: Any = None) -> Array:
        """An array of so many bytes."""
        return np.zeros(size // 8)

    def load(self, _span: range) -> int:
        """Nothing: rows."""
        return 0

    def run(self, span: range, _method: str, args: tuple[Any, ...]) -> Partials:
        """Sums of vectors as long as the argument, over the tiles of a span: computed once, and kept."""
        if span not in self._kept:
            n_tiles, vector_M = args
            self._kept[span] = partial_sums(((tile, (vector_M,)) for tile in span), n_tiles)
        return self._kept[span]


def merged(size: int, *parts: Array) -> int:
    """A task that takes in what actors made, and answers with little."""
    return size + len(parts)


def measured(targets: int, repeats: int) -> tuple[Costs, Costs]:
    """Costs of the lowest tenth and of the median. targets: the longest vector that travels with a call."""
    with session(ClusterConfig(workers=2, threads=1)):
        process = ray.remote(num_cpus=0)(_Process).remote()
        ray.get(process.give.remote(8))
        back = {size: _repeated(partial(_answered, process, size), repeats) for size in _SIZES}
        sent = [size for size in _SIZES if size <= max(8 * targets, _SIZES[1])]
        # In turns, so that what else runs here meets all sizes alike.
        bursts = np.array([[_burst(process, np.zeros(size // 8)) for size in sent] for _ in range(repeats)])
        task = ray.remote(num_cpus=0)(merged)
        ray.get(task.remote(0, process.give.remote(8)))
        tasks = np.array([_task(task, process) for _ in range(repeats)])
        ray.kill(process)
    taken = np.array(list(back.values())).T
    return _costs(taken, bursts, tasks, _QUIET), _costs(taken, bursts, tasks, _BUSY)


def _costs(back: Array, bursts: Array, tasks: Array, quantile: float) -> Costs:
    """back: seconds by repeat and size; bursts: by repeat, size, parts of `_burst`; tasks: by repeat, send and work."""

    def added(seconds: Array) -> tuple[float, ...]:
        # Noise must not make a larger answer quicker than a smaller one.
        return tuple(float(one) for one in np.maximum.accumulate(seconds - seconds[0]))

    answers, sends = (np.quantile(taken, quantile, axis=0) for taken in (back, bursts[..., 0]))
    send, take, core = (float(value) for value in np.quantile(bursts[:, 0], quantile, axis=0))
    task_send, task = (float(value) for value in np.quantile(tasks, quantile, axis=0))
    small = float(answers[0])
    return Costs(
        send=send,
        answer=max(small - send - take, 0.0),
        take=take,
        core=core,
        task_send=task_send,
        task=task,
        sizes=_SIZES,
        back=added(answers),
        out=added(sends),
    )


def _answered(process: Any, size: int) -> Any:
    return ray.get(process.give.remote(size))


def _burst(process: Any, argument: Array) -> tuple[float, float, float]:
    """Seconds a call, sent one after another; an answer, taken in when all are there; and of a processor, for both."""
    busy, began = time.process_time(), time.perf_counter()
    references = [process.give.remote(8, argument) for _ in range(_BURST)]
    sent = time.perf_counter()
    ray.wait(references, num_returns=_BURST)
    there = time.perf_counter()
    for reference in references:
        ray.get(reference)
    ended, busy = time.perf_counter(), time.process_time() - busy
    return (sent - began) / _BURST, (ended - there) / _BURST, busy / _BURST


def _task(task: Any, process: Any) -> tuple[float, float]:
    """Seconds to send a task, and from there to its end, with two arguments that are there."""
    arguments = [process.give.remote(8) for _ in range(2)]
    ray.wait(arguments, num_returns=2)
    began = time.perf_counter()
    reference = task.remote(0, *arguments)
    sent = time.perf_counter()
    ray.get(reference)
    return sent - began, time.perf_counter() - sent


def _repeated(work: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each time; the first one does not count."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


@dataclass(frozen=True)
class _Method:
    """A method of one shard, on the process that answers for it."""

    method: Any
    span: range

    def remote(self, *args: Any) -> Any:
        """The reference to its answer."""
        return self.method.remote(self.span, *args)


class _Handle:
    """What `RayShards` holds of a shard, where a process has many."""

    def __init__(self, process: Any, span: range) -> None:
        self.load, self.run = _Method(process.load, span), _Method(process.run, span)


def _handle(actors: Sequence[Any], place: Mapping[int, int], span: range) -> _Handle:
    return _Handle(actors[place[span.start]], span)


def seen(counts: Sequence[int], n_tiles: int, targets: int, processes: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of `RayShards.reduce` itself, by number of shards: the lowest tenth and the median."""
    found: dict[str, Any] = {}
    vector_M = np.zeros(targets)
    with session(ClusterConfig(workers=2, threads=1)):
        actors = [ray.remote(num_cpus=0)(_Process).remote() for _ in range(processes)]
        ray.get([actor.give.remote(8) for actor in actors])
        for count in counts:
            spans = split_tiles(n_tiles, count)
            place = {span.start: index * processes // len(spans) for index, span in enumerate(spans)}
            shards = RayShards(partial(_handle, actors, place), spans, n_tiles)
            taken = _repeated(partial(shards.reduce, "sums", n_tiles, vector_M), max(3, repeats // 4))
            found[str(count)] = {"quiet_ms": 1e3 * float(np.quantile(taken, _QUIET)), "busy_ms": 1e3 * median(taken)}
            print(f"RayShards over {count} shards of {processes} processes: {found[str(count)]}", file=sys.stderr)
        for actor in actors:
            ray.kill(actor)
    return found
