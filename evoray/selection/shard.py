"""A shard: a contiguous range of tiles with all state of their rows. Rows and features never leave it.

Every public method takes and returns plain numbers, strings, numpy arrays or Partials: they are what a remote
worker exposes by name. Each is a deterministic function of the calls before it, given a fixed number of torch
threads (the process that holds the shard sets it: results of different thread counts differ by rounding).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evoray.alignment.reduction import Array, Partials
from evoray.diversity.energies import Moment, moment_of, rowwise_gradient
from evoray.diversity.projection import project_rows
from evoray.errors import SelectionError, SolverError
from evoray.selection import capped
from evoray.selection.problem import Problem, Rows, State
from evoray.selection.shares import NO_SOURCE, Entry
from evoray.selection.smallest import smallest

#: A mirror step changes no log weight by more than this.
MAX_CHANGE = 1.0
CACHE_BYTES = 3 * 2**30


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One stored unit: a fixed list of rows, never split. `features_ND` has unit rows, fp32 (or fp64, slower).

    sources: of each row, where a selection has shares; none at all: no row has one. columns: numbers of each row
    that a selector asked for, by name, fp64; NaN where a row has none.
    """

    index: int
    ids: Sequence[str]
    features_ND: torch.Tensor
    sources: Sequence[str | None] = ()
    columns: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.features_ND.ndim != 2 or len(self.ids) != len(self.features_ND):
            raise SelectionError(
                f"tile {self.index} with {len(self.ids)} ids and features of shape {tuple(self.features_ND.shape)}",
                "one id for each feature row",
                "read the feature unit again",
            )
        if len(self.sources) not in (0, len(self.ids)):
            raise SelectionError(
                f"tile {self.index} with {len(self.ids)} ids and {len(self.sources)} sources",
                "one source for each row, or none",
                "read the sources again",
            )
        if not bool(torch.isfinite(self.features_ND).all()):
            raise SolverError(
                f"non-finite features in tile {self.index}",
                "finite unit rows",
                "quarantine the rows when features are computed",
            )


class Shard:
    """Contiguous tiles of a pool of `n_tiles`; rows whose id is in `excluded` weigh nothing and are never picked.

    cache_bytes: memory that a problem may keep similarities and kernels in; results do not depend on it.
    """

    def __init__(
        self, tiles: Sequence[Tile], n_tiles: int, excluded: Collection[str] = (), cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.n_tiles = n_tiles
        self._cache_bytes = cache_bytes
        self._tiles = {tile.index: tile for tile in tiles}
        barred = frozenset(excluded)
        self._usable = {
            tile.index: torch.tensor([row_id not in barred for row_id in tile.ids], dtype=torch.bool) for tile in tiles
        }
        self._problems: dict[str, Problem] = {}
        self._states: dict[str, dict[str, Any]] = {}

    # What selectors send here: functions of a module, run where the rows are.

    def tiles(self) -> list[tuple[Tile, torch.Tensor]]:
        """Each tile of this shard with the mask of its usable rows, in order."""
        return [(tile, self._usable[index]) for index, tile in self._tiles.items()]

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The answer of `function(shard, *arguments)`, which leaves the shard as it is."""
        return function(self, *arguments)

    def begin(self, name: str) -> None:
        """Make an empty state under a name, for `tell`."""
        self._states[name] = {}

    def tell(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """The answer of `function(shard, state, *arguments)`, which may change the state.

        It is called again, in order, on a shard that is loaded anew: it must be a function of the calls before it.
        """
        return function(self, self._states[name], *arguments)

    @property
    def n_rows(self) -> int:
        """Rows held, excluded ones too."""
        return sum(len(tile.ids) for tile in self._tiles.values())

    def counts(self) -> tuple[int, int]:
        """(rows, usable rows)."""
        return self.n_rows, sum(int(usable.sum()) for usable in self._usable.values())

    def usable_rows(self) -> list[tuple[str, int, int]]:
        """(id, tile, row in the tile) of every usable row, in order."""
        return [
            (row_id, index, row)
            for index, tile in self._tiles.items()
            for row, (row_id, usable) in enumerate(zip(tile.ids, self._usable[index].tolist(), strict=True))
            if usable
        ]

    def similarities(self, target_MD: Array) -> tuple[list[tuple[str, int, int]], Array]:
        """`usable_rows`, and their inner products with a target's rows [n, M] in fp64."""
        target = torch.from_numpy(np.array(target_MD, dtype=np.float64))
        parts = []
        for index, tile in self._tiles.items():
            if len(tile.ids):
                _check_dim(tile.features_ND, target_MD)
                parts.append((tile.features_ND.double() @ target.T)[self._usable[index]])
        similarity_NM: Array = (torch.cat(parts) if parts else torch.zeros(0, len(target))).double().numpy()
        return self.usable_rows(), similarity_NM

    # Sources, for shares.

    def source_counts(self) -> dict[str, tuple[int, int]]:
        """(rows, usable rows) of each source."""
        held: Counter[str] = Counter()
        usable: Counter[str] = Counter()
        for index, tile in self._tiles.items():
            for source, free in zip(_sources_of(tile), self._usable[index].tolist(), strict=True):
                held[source] += 1
                usable[source] += free
        return {source: (count, usable[source]) for source, count in held.items()}

    # Problems: rows against a target, by name.

    def open(
        self,
        problem: str,
        target_MD: Array,
        weights_M: Array,
        log_weight: float,
        rows: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        """Make a problem of all rows, or of the given rows of each tile (then in fp64), at weight exp(log_weight)."""
        chosen: dict[int, Rows] = {}
        for index, tile in self._tiles.items():
            usable_N, features_ND = self._usable[index], tile.features_ND
            if len(tile.ids):
                _check_dim(features_ND, target_MD)
            position_N = torch.arange(len(tile.ids))
            if rows is not None:
                position_N = torch.tensor(list(rows.get(index, ())), dtype=torch.int64)
                usable_N, features_ND = usable_N[position_N], features_ND[position_N].double()
            log_w_N = torch.zeros(len(position_N), dtype=torch.float64)
            chosen[index] = Rows(features_ND=features_ND, position_N=position_N, usable_N=usable_N, log_w_N=log_w_N)
        self._problems[problem] = Problem(
            chosen, self.n_tiles, target_MD, weights_M, log_weight=log_weight, cache_bytes=self._cache_bytes
        )

    def divide(self, problem: str, sources: Sequence[str]) -> None:
        """Tell a problem's rows apart by source, in the order of these names; without it all are of one."""
        number = {source: index for index, source in enumerate(sources)}
        held = self._problems[problem]
        held.sources = len(number)
        for index, rows in held.rows.items():
            of_tile = torch.tensor([number[source] for source in _sources_of(self._tiles[index])], dtype=torch.int64)
            rows.source_N = of_tile[rows.position_N]

    def close(self, problem: str) -> None:
        """Forget a problem, or a state, and free its memory."""
        self._problems.pop(problem, None)
        self._states.pop(problem, None)

    def reset(self, problem: str) -> None:
        """Every usable row back to the weight it was opened with; what follows is as on a fresh problem."""
        self._problems[problem].reset()

    def column_minimum(self, problem: str) -> Partials:
        """(min_i C_ij [M]) over usable rows."""
        return self._problems[problem].column_minimum()

    def cost_moments(self, problem: str) -> Partials:
        """([entries, sum C, sum C^2]) over usable rows."""
        return self._problems[problem].cost_moments()

    def sinkhorn_kernel(self, problem: str, g_M: Array, eps: float) -> Partials:
        """One kernel-domain pass: (column masses [M])."""
        return self._problems[problem].sinkhorn_kernel(g_M, eps)

    def sinkhorn_log(self, problem: str, g_M: Array, eps: float) -> Partials:
        """One log-domain pass: (log column masses [M])."""
        return self._problems[problem].sinkhorn_log(g_M, eps)

    def weighted_potential(self, problem: str) -> Partials:
        """([<w, f>]), f of the last pass."""
        return self._problems[problem].weighted_potential()

    def save(self, problem: str) -> State:
        """Weights and absorbed potentials of a problem: what `restore` takes."""
        return self._problems[problem].save()

    def restore(self, problem: str, state: State) -> None:
        """An open problem back to the moment of `save`, bit for bit, once a pass and the gradients are made anew."""
        self._problems[problem].restore(state)

    def transport_cost(self, problem: str, g_M: Array, eps: float) -> Partials:
        """([<P, C>]) at potentials g."""
        return self._problems[problem].transport_cost(g_M, eps)

    # Diversity.

    def prepare_diversity(self, problem: str, map_DP: npt.NDArray[np.float32] | None) -> None:
        """Project the rows for the diversity term once; None: they are used as they are."""
        map_tensor = None if map_DP is None else torch.from_numpy(map_DP)
        for rows in self._problems[problem].rows.values():
            rows.projected_NP = project_rows(rows.features_ND, map_tensor)

    def moment(self, problem: str, kind: Moment, full: bool = False) -> Partials:
        """(mean [P] or second moment [P, P]) of the weighted rows in the diversity space, or the full one."""
        return self._problems[problem].fold(
            ("sum",), lambda rows: (moment_of(_diversity_rows(rows, full), rows.w_N, kind),)
        )

    def set_diversity(self, problem: str, gradient: Array | None, factor: float) -> None:
        """Rowwise diversity gradient from dR/dmoment, times a factor; None for no diversity term."""
        for rows in self._problems[problem].rows.values():
            if gradient is None:
                rows.diversity_N = torch.zeros_like(rows.log_w_N)
            else:
                projected_NP = _diversity_rows(rows, False)
                rows.diversity_N = factor * rowwise_gradient(projected_NP, torch.from_numpy(gradient))

    # The mirror step.

    def gradient_sums(self, problem: str) -> Partials:
        """([sum w f, sum w f^2, sum w d, sum w d^2, -sum w log w]), d the diversity gradient."""

        def sums(rows: Rows) -> tuple[Array, ...]:
            w_N, f_N, d_N = rows.w_N, rows.f_N, rows.diversity_N
            entropy = -torch.where(w_N > 0.0, w_N * rows.log_w_N, 0.0).sum()
            terms = [w_N @ f_N, w_N @ f_N**2, w_N @ d_N, w_N @ d_N**2, entropy]
            return (np.array([float(term) for term in terms]),)

        return self._problems[problem].fold(("sum",), sums)

    def mirror_step(self, problem: str, rate: float, lambda_eff: float, mean: float) -> Partials:
        """log w <- log w - rate (f + lambda_eff d - mean), the change clipped; (log of the new total [S])."""
        held = self._problems[problem]

        def step(rows: Rows) -> tuple[Array, ...]:
            change_N = -rate * (rows.f_N + lambda_eff * rows.diversity_N - mean)
            rows.log_w_N = rows.log_w_N + change_N.clamp(-MAX_CHANGE, MAX_CHANGE)
            return (capped.log_mass(rows.log_w_N, rows.source_N, held.sources),)

        return held.fold(("logaddexp",), step)

    def capped_mass(self, problem: str, log_scale_S: Array, log_cap: float) -> Partials:
        """(rows at the cap [S], log of the other rows' total [S]) at one scale a source."""
        return self._problems[problem].fold(
            ("sum", "logaddexp"),
            lambda rows: capped.capped_mass(rows.log_w_N, log_scale_S, log_cap, rows.source_N),
        )

    def accept(self, problem: str, log_scale_S: Array, log_cap: float) -> None:
        """w <- min(cap, exp(log_scale_s) w), s the source of the row."""
        for rows in self._problems[problem].rows.values():
            rows.log_w_N = capped.scaled(rows.log_w_N, log_scale_S, rows.source_N).clamp(max=log_cap)

    # What leaves the shard.

    def smallest_gradients(self, problem: str, lambda_eff: float, k_S: Sequence[int]) -> list[Array]:
        """The smallest f + lambda_eff d over usable rows of each source, so many of each, ascending."""
        return _smallest_by_source(self._problems[problem], lambda rows: rows.f_N + lambda_eff * rows.diversity_N, k_S)

    def largest_weights(self, problem: str, k_S: Sequence[int]) -> list[Array]:
        """The smallest -log w over usable rows of each source, so many of each, ascending."""
        return _smallest_by_source(self._problems[problem], lambda rows: -rows.log_w_N, k_S)

    def top(self, problem: str, k_S: Sequence[int], last_S: Sequence[float]) -> list[list[Entry]]:
        """The first usable rows of each source by (-w, f, id), so many of each; none whose -log w is above its last."""
        found: list[list[Entry]] = [[] for _ in k_S]
        for index, rows in self._problems[problem].rows.items():
            for source, mask_N in _usable_by_source(rows):
                for row in (mask_N & (-rows.log_w_N <= last_S[source])).nonzero().flatten().tolist():
                    position = int(rows.position_N[row])
                    row_id = self._tiles[index].ids[position]
                    found[source].append((-float(rows.log_w_N[row]), float(rows.f_N[row]), row_id, index, position))
        return [heapq.nsmallest(k, entries) for entries, k in zip(found, k_S, strict=True)]

    def describe(self, problem: str) -> list[tuple[int, int, float, int]]:
        """(tile, row in the tile, largest similarity, index of that target row) of every row of a problem."""
        described: list[tuple[int, int, float, int]] = []
        held = self._problems[problem]
        for index, rows in held.rows.items():
            if not len(rows.position_N):
                continue
            best = held.similarity(rows).max(dim=1)
            values: tuple[list[Any], ...] = (rows.position_N.tolist(), best.values.tolist(), best.indices.tolist())
            described.extend((index, *row) for row in zip(*values, strict=True))
        return described


def _usable_by_source(rows: Rows) -> Iterator[tuple[int, torch.Tensor]]:
    """(source, mask of its usable rows) for the sources of one tile."""
    if rows.source_N is None:
        yield 0, rows.usable_N
    else:
        for source in sorted(set(rows.source_N.tolist())):
            yield source, rows.usable_N & (rows.source_N == source)


def _smallest_by_source(held: Problem, value: Callable[[Rows], torch.Tensor], k_S: Sequence[int]) -> list[Array]:
    found: list[list[Array]] = [[] for _ in k_S]
    for rows in held.rows.values():
        value_N = value(rows)
        for source, mask_N in _usable_by_source(rows):
            found[source].append(value_N[mask_N].numpy())
    return [smallest(np.concatenate(parts or [np.empty(0)]), k) for parts, k in zip(found, k_S, strict=True)]


def _sources_of(tile: Tile) -> list[str]:
    return [NO_SOURCE if source is None else source for source in tile.sources or [None] * len(tile.ids)]


def _check_dim(features_ND: torch.Tensor, target_MD: Array) -> None:
    if features_ND.shape[1] != target_MD.shape[1]:
        raise SelectionError(
            f"pool features of {features_ND.shape[1]} dimensions, target features of {target_MD.shape[1]}",
            "features of one proxy and one dim for both",
            "compute both with the same model, adapter, seed and features.dim",
        )


def _diversity_rows(rows: Rows, full: bool) -> torch.Tensor:
    return rows.features_ND if full or rows.projected_NP is None else rows.projected_NP
