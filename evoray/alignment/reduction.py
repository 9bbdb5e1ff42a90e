"""Sums over tiles that do not depend on how the tiles are spread over shards.

Floating-point addition is not associative, so a sum per shard followed by a sum over shards changes
with the split. Here the additions follow one binary tree over tile numbers: node (level, k) covers the
tiles [k 2^level, (k+1) 2^level), and its value is always left + right. A shard folds its contiguous
range into the O(log T) maximal nodes that it covers alone; the driver folds the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from evoray.errors import SolverError

Array = npt.NDArray[np.float64]
Op = Literal["sum", "min", "max", "logaddexp"]

#: A tile, and one array for each operation.
Value = tuple[int, tuple[Array, ...]]
Nodes = dict[tuple[int, int], tuple[Array, ...]]

#: Partial sums, or whatever stands for them where they lie elsewhere.
Part = TypeVar("Part")

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


def partial_sums(values: Iterable[Value], n_tiles: int, ops: Sequence[Op] = ("sum",)) -> Partials:
    """Fold the values of a shard's tiles as far as its own tiles go.

    `values`: tile numbers, each with a tuple of fp64 arrays, one for each entry of `ops`. Every tile must be there,
    empty ones with the identity of the operation. They are folded as they come: of tiles in order, O(log T) are held.
    """
    nodes: Nodes = {}
    for tile, arrays in values:
        _put(nodes, (0, tile), arrays, n_tiles, ops)
    return Partials(ops=tuple(ops), nodes=nodes)


def combine(parts: Iterable[Partials], n_tiles: int) -> Partials:
    """Several shards' sums as those of one: folded as far as their tiles go together.

    Raises SolverError where tiles are held by two shards or operations differ.
    """
    held = list(parts)
    ops = held[0].ops if held else ()
    nodes: Nodes = {}
    for part in held:
        if part.ops != ops:
            raise SolverError(
                f"partial sums by {part.ops} among those by {ops}", "one operation for all", "merge them separately"
            )
        for node, arrays in part.nodes.items():
            _put(nodes, node, arrays, n_tiles, ops)
    return Partials(ops=ops, nodes=nodes)


def in_groups(parts: Sequence[Part], width: int, combined: Callable[[Sequence[Part]], Part]) -> list[Part]:
    """At most `width` parts (2 or more) with the same sum: neighbours as one, in groups of as many, level by level."""
    left = list(parts)
    while len(left) > width:
        left = [combined(left[start : start + width]) for start in range(0, len(left), width)]
    return left


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


def _put(nodes: Nodes, node: tuple[int, int], arrays: tuple[Array, ...], n_tiles: int, ops: Sequence[Op]) -> None:
    """Add a node, and fold it with its siblings as far up as they are there."""
    level, index = node
    depth = (n_tiles - 1).bit_length()
    while level < depth:
        lone = index % 2 == 0 and index + 1 >= -((-n_tiles) >> level)  # no tile is to the right of it
        sibling = (level, index ^ 1)
        if not lone and sibling not in nodes:
            break
        if not lone:
            other = nodes.pop(sibling)
            pairs = zip(ops, *((other, arrays) if index % 2 else (arrays, other)), strict=True)
            with np.errstate(invalid="ignore"):  # the solver reports non-finite numbers itself
                arrays = tuple(np.asarray(_COMBINE[op](left, right), dtype=np.float64) for op, left, right in pairs)
        level, index = level + 1, index // 2
    if (level, index) in nodes:
        raise SolverError(
            f"two partial sums of the tiles below node {(level, index)}",
            "each tile held by exactly one shard",
            "split the tiles into disjoint contiguous ranges",
        )
    nodes[level, index] = arrays
