"""The `Shards` protocol over Ray actors: each holds a span of tiles, and a lost one is made again.

A shard is a pure function of its tiles and of the calls that changed it. The driver keeps those calls, as few as
rebuild what is there: the open problems, what changed them since weights were last saved or reset, and a reference to
what was saved. A lost actor costs its tiles' reload and those few calls; the other shards wait and lose nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayActorError, RayTaskError

from evoray.alignment.reduction import Array, Partials, combine, in_groups, merge
from evoray.engine import metrics
from evoray.engine.remote import fetch
from evoray.engine.session import Session
from evoray.engine.shards import TileSource, matrix_of
from evoray.errors import StageError
from evoray.selection.protocol import BEGINNING, CHANGING, MAKING, RESETTING, split_tiles
from evoray.storage import Storage

_LOG = logging.getLogger(__name__)

_INLINE_BYTES = 64 * 1024
#: Partial sums of more shards than this are merged in groups of as many, on the cluster, before the driver sees them.
FAN_IN = 16

_Call = tuple[str, tuple[Any, ...]]  # method of the actor, its arguments


class ShardActor:
    """Holds one `Shard`; the solver names its methods."""

    def __init__(
        self,
        source: TileSource,
        tiles: Sequence[int],
        n_tiles: int,
        excluded: Collection[str],
        threads: int,
        cache_bytes: int,
        extra: Sequence[str] = (),
        unit_rows: bool = True,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.source, self.tiles, self.n_tiles, self.excluded = source, tiles, n_tiles, excluded
        self.cache_bytes, self.extra, self.unit_rows = cache_bytes, tuple(extra), unit_rows

    def load(self) -> int:
        """Read the tiles; their rows. No part of the construction: of that, Ray reports failures as text alone."""
        import torch

        from evoray.selection.shard import Shard, Tile

        loaded = []
        for index in self.tiles:
            table = self.source.read(index, self.extra if self.unit_rows else (*self.extra, "norm"))
            has_features = "feature" in table.column_names
            features = matrix_of(table, self.unit_rows) if has_features else np.ones((table.num_rows, 1), np.float32)
            loaded.append(
                Tile(
                    index=index,
                    ids=table["id"].to_pylist(),
                    features_ND=torch.from_numpy(features),
                    sources=table["source"].to_pylist() if "source" in table.column_names else (),
                    columns={
                        name: torch.from_numpy(table[name].cast(pa.float64()).to_numpy().copy())
                        for name in self.extra
                        if name != "source"
                    },
                )
            )
        self.shard = Shard(loaded, self.n_tiles, self.excluded, self.cache_bytes)
        count: int = self.shard.n_rows
        return count

    def run(self, method: str, args: tuple[Any, ...]) -> Any:
        return getattr(self.shard, method)(*args)

    def save(self, problem: str, storage: Storage, prefix: str) -> None:
        """Write the state of a problem below a prefix: one table of this shard's tiles."""
        state = self.shard.save(problem)
        absorbed = None if state.absorbed is None else (state.absorbed[0].tolist(), state.absorbed[1])
        table = pa.table(
            {
                "tile": pa.array(list(state.log_w_N), pa.int64()),
                "log_w": pa.array(list(state.log_w_N.values()), pa.list_(pa.float64())),
            }
        ).replace_schema_metadata({"absorbed": json.dumps(absorbed)})
        storage.write_table(f"{prefix}/tiles-{self.tiles[0]:06d}.parquet", table)

    def restore(self, problem: str, storage: Storage, prefix: str) -> None:
        """Take the state of this shard's tiles from what any number of shards saved."""
        from evoray.selection.problem import State

        log_w_N: dict[int, Array] = {}
        absorbed = None
        for key in sorted(storage.keys(prefix)):
            if not key.endswith(".parquet"):
                continue
            table = storage.read_table(key)
            absorbed = json.loads(table.schema.metadata[b"absorbed"])
            for row, tile in enumerate(table["tile"].to_pylist()):
                if tile in self.tiles:
                    log_w_N[tile] = np.asarray(table["log_w"][row].values, dtype=np.float64)
        held = None if absorbed is None else (np.asarray(absorbed[0], dtype=np.float64), float(absorbed[1]))
        self.shard.restore(problem, State(log_w_N=log_w_N, absorbed=held))


class RayShards:
    """The `Shards` protocol over actors: one call and one merge of small arrays an operation.

    launch: makes the actor of a span of tiles. attempts: how often one span may lose its actor. stall: seconds that one
    answer may take.
    """

    def __init__(
        self,
        launch: Callable[[range], Any],
        spans: Sequence[range],
        n_tiles: int,
        storage: Storage | None = None,
        attempts: int = 3,
        stall: float | None = None,
    ) -> None:
        self._launch, self._spans, self._n_tiles = launch, list(spans), n_tiles
        self._storage, self._attempts, self._stall = storage, attempts, stall
        self._log: dict[str, list[_Call]] = {}  # by problem, in order
        self._losses = [0] * len(self._spans)
        self._actors = [launch(span) for span in self._spans]
        loading = [actor.load.remote() for actor in self._actors]
        self._n_rows: int = sum(self._answer(i, ref, ("load", ())) for i, ref in enumerate(loading))

    @property
    def n_rows(self) -> int:
        """Rows of all tiles, excluded ones too."""
        return self._n_rows

    @property
    def n_tiles(self) -> int:
        """Tiles of the pool, over all shards."""
        return self._n_tiles

    @property
    def losses(self) -> int:
        """Actors that were lost and made again."""
        return sum(self._losses)

    def call(self, method: str, *args: Any) -> list[Any]:
        """Run a method of `Shard` on every actor; the results in shard order."""
        call = _shared(method, args)
        results = self._everywhere(call)
        self._note(method, args, call)
        return results

    def reduce(self, method: str, *args: Any) -> tuple[Array, ...]:
        """Run a method that returns Partials on every actor and merge them over the fixed tree.

        Those of many shards are merged in groups on the cluster: the driver sees FAN_IN of them at most.
        """
        call = _shared(method, args)
        references = [_start(actor, call) for actor in self._actors]
        parts = self._merged_remotely(references)
        if parts is None:
            parts = [self._answer(index, reference, call) for index, reference in enumerate(references)]
        self._note(method, args, call)
        metrics.reduced(parts)
        return merge(parts, self._n_tiles)

    def _merged_remotely(self, references: list[Any]) -> list[Partials] | None:
        """Fewer parts with the same sum; None where shards are few, or where one of them was lost."""
        if len(references) <= FAN_IN:
            return None
        references = in_groups(references, FAN_IN, lambda group: _combining().remote(self._n_tiles, *group))
        try:
            found: list[Partials] = fetch(references, self._stall, "partial sums of the solver's shards")
        except (RayActorError, RayTaskError) as error:
            _LOG.info("partial sums are gathered one by one: %s", type(error).__name__)
            return None
        return found

    def save(self, problem: str, key: str) -> None:
        """Write the weights of a problem below a key of the storage; what came before need not be called again."""
        self._everywhere(("save", (problem, self._storage, key)))
        self._log[problem] = [*self._making(problem), ("restore", (problem, self._storage, key))]

    def restore(self, problem: str, key: str) -> None:
        """An open problem as it was when it was saved, by as many shards as there were then."""
        self._everywhere(("restore", (problem, self._storage, key)))
        self._log[problem] = [*self._making(problem), ("restore", (problem, self._storage, key))]

    def close(self) -> None:
        """End all actors."""
        for actor in self._actors:
            ray.kill(actor)

    def _everywhere(self, call: _Call) -> list[Any]:
        references = [_start(actor, call) for actor in self._actors]
        return [self._answer(index, reference, call) for index, reference in enumerate(references)]

    def _answer(self, index: int, reference: Any, call: _Call) -> Any:
        """One shard's answer; a lost actor is made again and asked once more."""
        while True:
            try:
                return fetch(
                    reference, self._stall, f"the solver's shard of tiles {self._spans[index]}, asked to {_name(call)}"
                )
            except RayActorError as error:
                self._losses[index] += 1
                if self._losses[index] >= self._attempts:
                    raise StageError(
                        f"the solver's shard of tiles {self._spans[index]} lost {self._losses[index]} processes",
                        "processes that survive: memory for their tiles above all",
                        "lower selection.cache_mb, or use more shards on more machines (selection.shards)",
                    ) from error
                _LOG.warning("a shard was lost (%s); it is loaded again", type(error).__name__)
            self._actors[index] = self._launch(self._spans[index])
            again = [("load", ()), *(entry for calls in self._log.values() for entry in calls)]
            waiting = [_start(self._actors[index], entry) for entry in again]
            reference = _start(self._actors[index], call)
            with contextlib.suppress(RayActorError):  # calls of one actor run in order: then `reference` is lost too
                fetch(waiting, self._stall, f"the solver's shard of tiles {self._spans[index]}, made again")

    def _making(self, problem: str) -> list[_Call]:
        return [call for call in self._log.get(problem, []) if call[0] == "run" and call[1][0] in MAKING]

    def _note(self, method: str, args: tuple[Any, ...], call: _Call) -> None:
        """Keep what rebuilds a shard; forget what a later call made needless."""
        if method in BEGINNING:
            self._log[args[0]] = [call]
        elif method == "close":
            self._log.pop(args[0], None)
        elif method in RESETTING:
            self._log[args[0]] = [*self._making(args[0]), call]
        elif method in MAKING or method in CHANGING:
            self._log[args[0]].append(call)


def _shared(method: str, args: tuple[Any, ...]) -> _Call:
    """A call of a shard's method. Small arguments travel with it; large ones are stored once for all actors."""
    size = sum(getattr(argument, "nbytes", 0) for argument in args)
    return ("run", (method, ray.put(args) if size > _INLINE_BYTES else args))


def _name(call: _Call) -> str:
    method, args = call
    return str(args[0]) if method == "run" else method


@cache
def _combining() -> Any:
    """The task of `_combine`, made once: the code of a new one goes out with its first call, milliseconds each time."""
    return ray.remote(num_cpus=0)(_combine)


def _combine(n_tiles: int, *parts: Partials) -> Partials:
    return combine(parts, n_tiles)


def _start(actor: Any, call: _Call) -> Any:
    method, args = call
    return getattr(actor, method).remote(*args)


def shard_count(asked: int | None, session: Session) -> int:
    """Shards of a selection, where it has as many tiles. asked: None for one an actor of the session, at least two."""
    wanted = asked or max(2, session.workers)
    return min(wanted, session.slots or wanted)


@contextlib.contextmanager
def ray_shards(
    source: TileSource,
    excluded: Collection[str],
    session: Session,
    storage: Storage | None = None,
    *,
    count: int | None = None,
    cache_mb: int = 3072,
    extra: Sequence[str] = (),
    unit_rows: bool = True,
) -> Iterator[RayShards]:
    """Actors that hold all tiles of a source, ended with the block.

    count: shards; None: one an actor of the session, at least two; never more than this machine runs at a time, of
    which some would wait for ever. cache_mb: each shard's memory for kernels. storage: where weights are saved; None:
    they cannot be. extra: columns of the tiles beside features. unit_rows: features are scaled to norm 1.
    """
    n_tiles = source.count()
    held = shard_count(count, session)
    if count is not None and held < count:
        _LOG.warning("selection.shards = %d, and this machine runs %d actors: %d shards are used", count, held, held)
    spans = split_tiles(n_tiles, held)
    # Over all machines, though they would fit on a few: memory is what they fill, and what they read travels.
    actor = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(ShardActor)
    barred = frozenset(excluded)

    def launch(span: range) -> Any:
        return actor.remote(source, list(span), n_tiles, barred, session.threads, cache_mb * 2**20, extra, unit_rows)

    shards = RayShards(launch, spans, n_tiles, storage, session.attempts, session.stall)
    try:
        yield shards
    finally:
        shards.close()
