"""Rows in an order over all shards, and how few of them leave the shards."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from evoray.errors import SelectionError
from evoray.selection.descent import POOL
from evoray.selection.heaviest import heaviest
from evoray.selection.local import LocalShards
from evoray.selection.random import first_at_random
from evoray.selection.ranking import best
from evoray.selection.shard import Tile
from evoray.selection.smallest import kth_smallest
from tests.selection.pools import local, pool_and_target

X, TARGET = pool_and_target(3, 90, 7)


def coarse(tile: Tile) -> torch.Tensor:
    """Scores of which many are equal."""
    return (tile.features_ND[:, 0] * 4).round()


class Counting:
    """Shards that count the rows which leave them as tuples."""

    def __init__(self, shards: LocalShards) -> None:
        self.shards, self.n_rows, self.n_tiles, self.left = shards, shards.n_rows, shards.n_tiles, 0
        self.save, self.restore, self.reduce = shards.save, shards.restore, shards.reduce

    def call(self, method: str, *args: Any) -> list[Any]:
        parts = self.shards.call(method, *args)
        for part in parts:
            if isinstance(part, list):
                self.left += sum(isinstance(one, tuple) for one in part)
        return parts


@pytest.mark.parametrize("count", [1, 2, 17, 89, 90])
@pytest.mark.parametrize("shards", [1, 4])
def test_the_best_are_those_of_a_sorted_list(count: int, shards: int) -> None:
    score_N = (torch.from_numpy(X)[:, 0] * 4).round().tolist()
    expected = sorted(range(90), key=lambda row: (-score_N[row], f"row-{row:04d}"))[:count]
    picks = best(local(X, 16, shards), count, coarse)
    assert [pick.id for pick in picks] == [f"row-{row:04d}" for row in expected]
    assert [pick.tile * 16 + pick.row for pick in picks] == expected


def test_a_score_that_is_no_number_is_refused_unless_its_row_is_not_usable() -> None:
    def broken(tile: Tile) -> torch.Tensor:
        return torch.where(torch.arange(len(tile.ids)) == 3, torch.nan, tile.features_ND[:, 0])

    with pytest.raises(SelectionError, match="no number"):
        best(local(X, 90), 5, broken)
    assert len(best(local(X, 90, excluded={"row-0003"}), 5, broken)) == 5


@pytest.mark.parametrize("parts", [[[3.0, 1.0], [], [2.0]], [[1.0], [2.0], [3.0]]])
def test_the_kth_smallest_of_several_arrays(parts: list[list[float]]) -> None:
    arrays = [np.array(part) for part in parts]
    assert [kth_smallest(arrays, k) for k in range(5)] == [-np.inf, 1.0, 2.0, 3.0, 3.0]


def test_keys_of_64_bits_are_told_apart() -> None:
    first: npt.NDArray[np.uint64] = np.array([2**64 - 1, 2**63 + 1], np.uint64)
    assert kth_smallest([first, np.empty(0), np.array([2**63], np.uint64)], 2) == 2**63 + 1


def test_few_rows_leave_the_shards() -> None:
    """About as many as are wanted, where the first of each shard would be five times as many."""
    shards = Counting(local(X, 16, 5))
    assert len(first_at_random(shards, 12, 0)) == shards.left == 12
    shards.left = 0
    assert len(best(shards, 12, lambda tile: tile.features_ND[:, 0])) == shards.left == 12


def test_the_heaviest_are_those_of_a_sorted_list_in_each_source() -> None:
    """After a step, with weights that all differ, and before it, with equal ones."""
    shards = local(X, 16, 3)
    shards.call("open", POOL, TARGET, np.full(7, 1 / 7), -np.log(90))
    uniform = heaviest(shards, POOL, [90])[0]
    assert [entry[1:3] for entry in uniform] == sorted(entry[1:3] for entry in uniform)
    shards.reduce("sinkhorn_kernel", POOL, np.zeros(7), 0.05)
    shards.reduce("mirror_step", POOL, 3.0, 0.0, 0.0)
    every = heaviest(shards, POOL, [90])[0]
    assert every == sorted(every) and len({entry[2] for entry in every}) == 90
    for k in (0, 1, 13):
        assert heaviest(shards, POOL, [k]) == [every[:k]]
