"""A selection that starts from the potentials of an earlier one comes to the same picks sooner."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evoray.alignment.reduction import Array
from evoray.errors import SelectionError
from evoray.selection.evoselect import evoselect
from evoray.selection.evoselect_records import EvoSelectParams, EvoSelectResult
from evoray.selection.local import LocalShards
from tests.oracles import unit_rows
from tests.selection.pools import local, pool_and_target

PARAMS = EvoSelectParams(k=15, lam=0.3, r=0.1, tolerance=1e-6)


class Counted(LocalShards):
    """Counts the passes of all solves, and those before the first step."""

    passes = first = 0

    def reduce(self, method: str, *args: Any) -> tuple[Array, ...]:
        self.passes += method.startswith("sinkhorn")
        return super().reduce(method, *args)

    def note(self, done: int, total: int) -> None:
        if done == 1:
            self.first = self.passes


def counted(features_ND: Array, excluded: set[str], shards: int = 1) -> Counted:
    return Counted(local(features_ND, 32, shards, excluded=excluded)._shards)


@pytest.fixture
def rounds() -> tuple[Array, Array, set[str], EvoSelectResult]:
    """Pool and target of a second round, whose proxy moved all features a little; picks and potentials of the first."""
    x, y = pool_and_target(20, 300, 20, dim=12)
    first = evoselect(local(x, 32), y, None, None, PARAMS)
    rng = np.random.default_rng(1)
    moved = [rows + 0.05 * unit_rows(rng, *rows.shape) for rows in (x, y)]
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in moved)
    return x, y, {pick.id for pick in first.picks}, first


def test_a_warm_start_needs_fewer_passes_and_gives_the_same_picks(
    rounds: tuple[Array, Array, set[str], EvoSelectResult],
) -> None:
    x, y, used, first = rounds
    cold, warm = counted(x, used), counted(x, used)
    expected, found = (
        evoselect(shards, y, None, None, PARAMS, start_g_M=start, progress=shards.note)
        for shards, start in ((cold, None), (warm, first.start_g_M))
    )
    assert [pick.id for pick in found.picks] == [pick.id for pick in expected.picks]
    np.testing.assert_allclose(found.potentials.g_M, expected.potentials.g_M, atol=1e-3)
    np.testing.assert_allclose(found.start_g_M, expected.start_g_M, atol=1e-4)
    assert warm.first < cold.first


@pytest.mark.parametrize("shards", [2, 3])
def test_a_warm_start_is_bitwise_the_same_for_every_number_of_shards(
    rounds: tuple[Array, Array, set[str], EvoSelectResult], shards: int
) -> None:
    x, y, used, first = rounds
    one, many = (evoselect(counted(x, used, n), y, None, None, PARAMS, start_g_M=first.start_g_M) for n in (1, shards))
    assert one.picks == many.picks
    assert one.potentials.g_M.tobytes() == many.potentials.g_M.tobytes()


@pytest.mark.parametrize("start", [np.zeros(19), np.full(20, np.nan)])
def test_a_start_that_does_not_fit_the_target_is_refused(
    rounds: tuple[Array, Array, set[str], EvoSelectResult], start: Array
) -> None:
    x, y, used, _ = rounds
    with pytest.raises(SelectionError, match="starting potentials"):
        evoselect(counted(x, used), y, None, None, PARAMS, start_g_M=start)
