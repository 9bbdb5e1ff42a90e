"""The smallest of many numbers, over shards: each gives its own smallest, and the driver finds the k-th of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def smallest(value_N: npt.NDArray[Any], k: int) -> npt.NDArray[Any]:
    """The k smallest values, or all where there are fewer, ascending."""
    if len(value_N) > k:
        value_N = np.partition(value_N, k - 1)[:k] if k else value_N[:0]
    return np.sort(value_N)


def kth_smallest(parts: Sequence[npt.NDArray[Any]], k: int) -> float:
    """The k-th smallest number of several arrays, or the largest where they have fewer; -inf where none is wanted."""
    value_N = np.concatenate([part for part in parts if len(part)] or [np.empty(0)])
    place = min(k, len(value_N)) - 1
    return -np.inf if place < 0 else np.partition(value_N, place)[place].item()
