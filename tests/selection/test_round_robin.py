from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evoray.errors import SelectionError
from evoray.selection import round_robin, target_tops
from evoray.selection.local import LocalShards
from evoray.selection.protocol import CHANGING
from evoray.selection.round_robin import RoundRobin
from tests.selection.oracles_greedy import aimed, by_score, chosen_everywhere, exact_rows, names, taken_in_turn
from tests.selection.pools import local, pool_and_target, tiles_of


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short lists, few targets at once, and nothing kept: all that a large selection does, in a small one."""
    monkeypatch.setattr(round_robin, "MARGIN", 1)
    monkeypatch.setattr(round_robin, "GROWTH", 1)
    monkeypatch.setattr(round_robin, "MAX_ENTRIES", 16)
    monkeypatch.setattr(target_tops, "TARGETS_AT_ONCE", 2)
    monkeypatch.setattr(target_tops, "CACHE_BYTES", 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rows", "targets"), [(11, 4), (11, 1), (37, 5), (3, 7)])
def test_targets_take_their_best_in_turn_and_ties_go_to_the_lower_id(seed: int, rows: int, targets: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, ids = exact_rows(rng, 40), exact_rows(rng, targets), names(rng, 40)
    expected = taken_in_turn(x @ y.T, ids, rows, ids[5:8])
    assert chosen_everywhere(RoundRobin(), x, ids, aimed(y, rows), ids[5:8]) == expected


@pytest.mark.usefixtures("scarce")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rows", "targets"), [(11, 4), (11, 1), (37, 5)])
def test_lists_that_run_out_are_fetched_anew_without_any_effect(seed: int, rows: int, targets: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, ids = exact_rows(rng, 40), np.repeat(exact_rows(rng, 1), targets, axis=0), names(rng, 40)
    y[0] = exact_rows(rng, 1)
    expected = taken_in_turn(x @ y.T, ids, rows, ids[5:8])
    assert chosen_everywhere(RoundRobin(), x, ids, aimed(y, rows), ids[5:8]) == expected
    assert targets == 1 or RoundRobin().select(local(x), aimed(y, rows)).facts["fetched"] > 1


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_are_all_equal_are_taken_by_id(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, ids = np.repeat(exact_rows(rng, 1), 60, axis=0), exact_rows(rng, 3), names(rng, 60)
    assert chosen_everywhere(RoundRobin(), x, ids, aimed(y, 20)) == sorted(ids)[:20]


@pytest.mark.parametrize("seed", range(3))
def test_one_target_takes_the_rows_nearest_to_it(seed: int) -> None:
    x, y = pool_and_target(seed, 60, 1)
    ids = [f"row-{row:04d}" for row in range(60)]
    assert chosen_everywhere(RoundRobin(), x, ids, aimed(y, 60)) == by_score((x @ y.T)[:, 0], ids, 60)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pool_of_clusters_is_served_as_one_matrix_would_serve_it(dtype: torch.dtype) -> None:
    x, y = pool_and_target(5, 800, 12)
    x, y = x.astype(np.float32).astype(np.float64), y.astype(np.float32)
    ids = [f"row-{row:04d}" for row in range(800)]
    choice = RoundRobin().select(local(x, 64, 3, dtype), aimed(y, 500))
    assert [pick.id for pick in choice.picks] == taken_in_turn(x @ y.T.astype(np.float64), ids, 500)
    similarity_KM = x[[pick.tile * 64 + pick.row for pick in choice.picks]] @ y.T
    assert [pick.nearest for pick in choice.picks] == similarity_KM.argmax(axis=1).tolist()


class Forgetful(LocalShards):
    """Shards that are lost before every call, and loaded anew."""

    def __init__(self, features_ND: Any, height: int, n_shards: int) -> None:
        self.load = lambda: LocalShards.of_tiles(tiles_of(features_ND, height), n_shards)._shards
        self.told: list[tuple[Any, ...]] = []
        super().__init__(self.load())

    def call(self, method: str, *args: Any) -> list[Any]:
        self._shards = self.load()
        for told in self.told:
            super().call(*told)
        if method == "begin" or method in CHANGING:
            self.told.append((method, *args))
        return super().call(method, *args)


@pytest.mark.usefixtures("scarce")
def test_shards_that_are_lost_take_up_where_they_were() -> None:
    x, y = pool_and_target(2, 60, 4)
    expected = RoundRobin().select(local(x, 7, 3), aimed(y, 30))
    assert RoundRobin().select(Forgetful(x, 7, 3), aimed(y, 30)) == expected


@given(seed=st.integers(0, 99), n=st.integers(1, 30), targets=st.integers(1, 5), data=st.data())
def test_any_number_of_usable_rows_can_be_had(seed: int, n: int, targets: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    ids = names(rng, n)
    excluded = set(ids[: data.draw(st.integers(0, n - 1))])
    request = aimed(exact_rows(rng, targets), data.draw(st.integers(1, n - len(excluded))))
    chosen_everywhere(RoundRobin(), exact_rows(rng, n), ids, request, excluded)


def test_a_choice_leaves_the_shards_as_they_were() -> None:
    x, y = pool_and_target(1, 30, 3)
    shards = local(x, 30)
    first = RoundRobin().select(shards, aimed(y, 12))
    assert RoundRobin().select(shards, aimed(y, 12)) == first
    assert shards.call("counts") == [(30, 30)]


def test_what_cannot_be_had_is_refused() -> None:
    x, y = pool_and_target(0, 20, 3)
    with pytest.raises(SelectionError, match="21 of 20 usable rows"):
        RoundRobin().select(local(x), aimed(y, 21))
    with pytest.raises(SelectionError, match="6 dimensions, target features of 5"):
        RoundRobin().select(local(x), aimed(y[:, :5], 3))
