from __future__ import annotations

import numpy as np
import pytest

from evoray.errors import SelectionError
from evoray.selection.everything import everything
from evoray.selection.picks import random_key
from evoray.selection.random import random_order, random_pick, random_to_tokens
from tests.selection.pools import local, pool_and_target

X, _ = pool_and_target(0, 50, 3)


def test_random_pick_does_not_depend_on_tiles_or_shards() -> None:
    picks = [
        [pick.id for pick in random_pick(local(X, height, shards), 9, seed=3)] for height, shards in [(50, 1), (7, 4)]
    ]
    assert picks[0] == picks[1]


def test_a_larger_random_pick_only_adds_rows_and_another_seed_gives_another() -> None:
    shards = local(X)
    small, large = random_pick(shards, 5, 0), random_pick(shards, 12, 0)
    assert [p.id for p in large[:5]] == [p.id for p in small]
    assert {p.id for p in random_pick(shards, 12, 1)} != {p.id for p in large}


def test_random_picks_are_uniform_over_seeds() -> None:
    counts = np.zeros(50)
    shards = local(X)
    for seed in range(200):
        for pick in random_pick(shards, 10, seed):
            counts[pick.tile * 16 + pick.row] += 1
    assert counts.sum() == 2000
    assert abs(counts - 40).max() < 5 * np.sqrt(200 * 0.2 * 0.8)


def test_excluded_rows_are_never_picked() -> None:
    shards = local(X, excluded={"row-0003", "row-0017"})
    picks = everything(shards)
    assert len(picks) == 48
    assert not {"row-0003", "row-0017"} & {pick.id for pick in picks}
    assert [pick.rank for pick in picks] == list(range(48))
    with pytest.raises(SelectionError):
        random_pick(shards, 49, 0)


def test_random_order_is_that_of_random_pick() -> None:
    ids = [f"row-{row:04d}" for row in range(50)]
    assert [ids[i] for i in random_order(ids, 4)] == [pick.id for pick in random_pick(local(X), 50, 4)]


@pytest.mark.parametrize("budget", [1, 40, 333, 10_000])
def test_random_to_tokens_comes_nearest_to_the_budget(budget: int) -> None:
    ids = [f"r{i}" for i in range(50)]
    tokens = [7 + (i * 13) % 40 for i in range(50)]
    order = random_order(ids, 2)
    totals = np.cumsum([tokens[i] for i in order])
    chosen = random_to_tokens(ids, tokens, 2, budget)
    assert chosen == order[: len(chosen)]
    assert abs(totals[len(chosen) - 1] - budget) == np.abs(totals - budget).min()


@pytest.mark.parametrize(
    ("row_id", "seed", "key"),
    [("row-1", 0, 5668667891379177889), ("é\0x", 7, 7065318733662314639), ("", -1, 4125900687865948195)],
)
def test_draws_are_those_of_earlier_versions(row_id: str, seed: int, key: int) -> None:
    assert random_key(row_id, seed) == key
