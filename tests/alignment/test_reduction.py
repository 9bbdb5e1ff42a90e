from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoray.alignment.reduction import Partials, merge, partial_sums
from evoray.errors import SolverError


def _values(n_tiles: int, seed: int) -> dict[int, tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(seed)
    return {t: (rng.standard_normal(3) * 10.0 ** rng.integers(-8, 8), rng.standard_normal(2)) for t in range(n_tiles)}


@settings(max_examples=60, deadline=None)
@given(n_tiles=st.integers(1, 40), cuts=st.lists(st.integers(0, 40), max_size=6), seed=st.integers(0, 99))
def test_sums_are_bitwise_the_same_for_every_contiguous_split(n_tiles: int, cuts: list[int], seed: int) -> None:
    values = _values(n_tiles, seed)
    ops = ("sum", "logaddexp")
    whole = merge([partial_sums(values.items(), n_tiles, ops)], n_tiles)
    edges = [0, *sorted(min(cut, n_tiles) for cut in cuts), n_tiles]
    parts = [partial_sums({t: values[t] for t in range(a, b)}.items(), n_tiles, ops) for a, b in pairwise(edges)]
    for one, other in zip(whole, merge(parts, n_tiles), strict=True):
        assert one.tobytes() == other.tobytes()
    assert np.allclose(whole[0], np.sum([v[0] for v in values.values()], axis=0), rtol=1e-9)


def test_a_contiguous_shard_holds_logarithmically_many_nodes() -> None:
    n_tiles = 1024
    part = partial_sums({t: (np.ones(1),) for t in range(3, 1000)}.items(), n_tiles)
    assert len(part.nodes) <= 2 * 10


def test_min_and_max_are_order_free_and_merge_likewise() -> None:
    values = {t: (np.array([float(-t)]), np.array([float(t)])) for t in range(7)}
    low, high = merge([partial_sums(values.items(), 7, ("min", "max"))], 7)
    assert (low[0], high[0]) == (-6.0, 6.0)


@pytest.mark.parametrize("held", [[range(3)], [range(5), range(4, 8)], []])
def test_missing_or_doubled_tiles_are_refused(held: list[range]) -> None:
    parts: list[Partials] = [partial_sums({t: (np.ones(1),) for t in tiles}.items(), 8) for tiles in held]
    with pytest.raises(SolverError):
        merge(parts, 8)
