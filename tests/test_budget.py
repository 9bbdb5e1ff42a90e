"""Budgets in rows, shares and tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoray.budget import Budget, in_rows, taken
from evoray.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "budget"),
    [
        (500, Budget(rows=500)),
        ("500", Budget(rows=500)),
        (500.0, Budget(rows=500)),
        (0.2, Budget(share=0.2)),
        ("0.2", Budget(share=0.2)),
        (1.0, Budget(share=1.0)),
        (1, Budget(rows=1)),
        ("100000tok", Budget(tokens=100_000)),
        ("100000 tokens", Budget(tokens=100_000)),
    ],
)
def test_a_budget_is_rows_a_share_or_tokens(written: int | float | str, budget: Budget) -> None:
    assert Budget.of(written) == budget


@pytest.mark.parametrize("written", [0, -3, 1.5, "many", "0tok", "", "tok", True, -0.2, float("nan"), float("inf")])
def test_anything_else_is_refused_with_the_three_ways_to_write_it(written: int | float | str) -> None:
    with pytest.raises(ConfigError, match="100000tok"):
        Budget.of(written)


def test_a_share_is_of_the_pool_and_at_least_one_row() -> None:
    assert (Budget(share=0.2).k(1000), Budget(share=0.001).k(100), Budget(share=1.0).k(7)) == (200, 1, 7)
    assert (in_rows(0.2, 1000), in_rows(5, 1000), in_rows("9tok", 1000)) == (200, 5, "9tok")


@given(pool=st.integers(10, 5000), rounds=st.integers(1, 10))
def test_equal_shares_fit_into_the_pool(pool: int, rounds: int) -> None:
    assert Budget(share=1 / rounds).k(pool) * rounds <= pool
    assert Budget(share=0.29).k(100) == 29


def test_tokens_become_rows_by_the_mean_length_of_the_pool() -> None:
    assert Budget(tokens=1000).k(500, mean_tokens=50.0) == 20
    assert Budget(tokens=1000).k(10, mean_tokens=50.0) == 10
    with pytest.raises(ConfigError, match="not known"):
        Budget(tokens=1000).k(500)


def test_rows_are_taken_by_rank_until_the_total_is_nearest_to_the_budget() -> None:
    assert taken([10, 10, 10, 10], 24) == 2
    assert taken([10, 10, 10, 10], 26) == 3
    assert taken([10, 10, 10, 10], 20) == 2
    assert taken([100, 1], 10) == 1  # at least one row
    assert taken([10, 10], 30) is None  # too few rows were ranked to tell


@pytest.mark.parametrize("seed", range(20))
def test_what_is_taken_is_no_further_from_the_budget_than_one_row_more_or_less(seed: int) -> None:
    import numpy as np

    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 50, 40).tolist()
    budget = int(rng.integers(50, 400))
    count = taken(tokens, budget)
    assert count is not None
    off = [abs(sum(tokens[:size]) - budget) for size in range(1, len(tokens) + 1)]
    assert off[count - 1] <= min(off[count], off[max(0, count - 2)])
