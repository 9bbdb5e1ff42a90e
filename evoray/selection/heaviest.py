"""The rows of the largest weights over all shards.

A shard does not know how many of its rows will be among them, and the first k of each would be a multiple of k: tuples
of Python's, on the driver. So shards are asked for their weights first, which are numbers, and then for the rows
that weigh as much as the k-th of all.
"""

from __future__ import annotations

from collections.abc import Sequence

from evoray.selection.protocol import Shards
from evoray.selection.shares import Entry
from evoray.selection.smallest import kth_smallest


def heaviest(shards: Shards, problem: str, k_S: Sequence[int]) -> list[list[Entry]]:
    """The first usable rows of each source by (-w, f, id), so many of each."""
    weights = zip(*shards.call("largest_weights", problem, k_S), strict=True)
    last_S = [kth_smallest(parts, k) for parts, k in zip(weights, k_S, strict=True)]
    found = zip(*shards.call("top", problem, k_S, last_S), strict=True)
    return [sorted(entry for part in parts for entry in part)[:k] for parts, k in zip(found, k_S, strict=True)]
