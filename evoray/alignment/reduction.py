"""Sums over tiles that do not depend on how the tiles are spread over shards.

Floating-point addition is not associative, so a sum per shard followed by a sum over shards changes
with the split. Here the additions follow one binary tree over tile numbers: node (level, k) covers the
tiles [k 2^level, (k+1) 2^level), and its value is always left + right. A shard folds its contiguous
range into the O(log T) maximal nodes that it covers alone; the driver folds the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from evoray.errors import SolverError

Array = npt.NDArray[np.float64]
Op = Literal["sum", "min", "max", "logaddexp"]

_COMBINE = {"sum": np.add, "min": np.minimum, "max": np.maximum, "logaddexp": np.logaddexp}


class Reducer(Protocol):
    """What a solver needs of a set of shards: call a method on all, and merge the partial sums."""

    def reduce(self, method: str, *args: Any) -> tuple[Array, ...]:
        """Call `method` on every shard; each returns Partials; the merged arrays come back."""


@dataclass(frozen=True, kw_only=True)
class Partials:
    """Folded nodes of one shard: {(level, index): one array for each entry of `ops`}."""

    ops: tuple[Op, ...]
    nodes: Mapping[tuple[int, int], tuple[Array, ...]]


def partial_sums(values: Mapping[int, tuple[Array, ...]], n_tiles: int, ops: Sequence[Op] = ("sum",)) -> Partials:
    """Fold the values of a shard's tiles as far as its own tiles go.

    `values` maps each tile number of the shard to a tuple of fp64 arrays, one for each entry of
    `ops`. Every tile must be there, empty ones with the identity of the operation.
    """
    fixed = tuple(ops)
    return Partials(ops=fixed, nodes=_fold({(0, tile): arrays for tile, arrays in values.items()}, n_tiles, fixed))


def combine(parts: Iterable[Partials], n_tiles: int) -> Partials:
    """Several shards' sums as those of one: folded as far as their tiles go together.

    Raises SolverError where tiles are held by two shards or operations differ.
    """
    held = list(parts)
    nodes: dict[tuple[int, int], tuple[Array, ...]] = {}
    for part in held:
        if part.ops != held[0].ops or nodes.keys() & part.nodes.keys():
            raise SolverError(
                "partial sums that overlap or were made by different operations",
                "each tile held by exactly one shard",
                "split the tiles into disjoint contiguous ranges",
            )
        nodes.update(part.nodes)
    ops = held[0].ops if held else ()
    return Partials(ops=ops, nodes=_fold(nodes, n_tiles, ops))


def merge(parts: Iterable[Partials], n_tiles: int) -> tuple[Array, ...]:
    """The arrays at the root of the tree.

    Raises SolverError where tiles are missing, are held by two shards, or operations differ.
    """
    nodes = combine(parts, n_tiles).nodes
    root = ((n_tiles - 1).bit_length(), 0)
    if nodes.keys() != {root}:
        raise SolverError(
            f"partial sums over nodes {sorted(nodes)}",
            f"sums that cover the tiles 0..{n_tiles - 1} once",
            "load every tile into exactly one shard",
        )
    return nodes[root]


def _fold(
    leaves: Mapping[tuple[int, int], tuple[Array, ...]], n_tiles: int, ops: tuple[Op, ...]
) -> dict[tuple[int, int], tuple[Array, ...]]:
    nodes = dict(leaves)
    for level in range((n_tiles - 1).bit_length()):
        width = -((-n_tiles) >> level)  # nodes of this level that cover at least one tile
        for index in sorted(k for depth, k in nodes if depth == level and k % 2 == 0):
            left, right, parent = (level, index), (level, index + 1), (level + 1, index // 2)
            if index + 1 >= width:
                nodes[parent] = nodes.pop(left)
            elif right in nodes:
                pairs = zip(ops, nodes.pop(left), nodes.pop(right), strict=True)
                with np.errstate(invalid="ignore"):  # the solver reports non-finite numbers itself
                    nodes[parent] = tuple(np.asarray(_COMBINE[op](a, b), dtype=np.float64) for op, a, b in pairs)
    return nodes
