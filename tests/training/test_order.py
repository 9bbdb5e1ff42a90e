"""Batches are fixed by the seed alone, and the learning rate rises and falls by its schedule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup

from evoray.training.order import batches, learning_rate_factor, steps_of


def numbered(rows: int) -> list[list[int]]:
    return [[7, row] for row in range(rows)]


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 60), batch_size=st.integers(1, 20), epochs=st.integers(1, 3), seed=st.integers(0, 1000))
def test_each_epoch_covers_every_row_once(rows: int, batch_size: int, epochs: int, seed: int) -> None:
    steps = steps_of(rows, batch_size, epochs)
    plan = batches(numbered(rows), batch_size, steps, seed)
    assert len(plan) == steps
    share = steps // epochs
    for epoch in range(epochs):
        seen = [index for batch in plan[epoch * share : (epoch + 1) * share] for index in batch]
        assert sorted(seen) == list(range(rows))
    assert all(1 <= len(batch) <= batch_size for batch in plan)


def test_the_first_steps_of_a_longer_training_are_those_of_a_shorter_one() -> None:
    assert batches(numbered(10), 4, 9, seed=1)[:5] == batches(numbered(10), 4, 5, seed=1)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    plan = batches(numbered(50), 50, 2, seed=1)
    assert plan[0] != plan[1]
    assert plan[0] != batches(numbered(50), 50, 1, seed=2)[0]


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(list(range(12))), seed=st.integers(0, 1000))
def test_what_is_trained_depends_on_the_rows_and_not_on_their_places(order: list[int], seed: int) -> None:
    rows = numbered(12)
    plain = [[rows[index] for index in batch] for batch in batches(rows, 5, 6, seed)]
    moved = [rows[place] for place in order]
    assert [[moved[index] for index in batch] for batch in batches(moved, 5, 6, seed)] == plain


def test_orders_are_those_of_earlier_versions() -> None:
    """A training that goes on after an update sees the rows that it would have seen."""
    epochs = [[7, 8, 6, 5], [3, 9, 0, 4], [1, 2], [1, 5, 3, 4], [0, 9, 7, 6], [8, 2]]
    assert batches(numbered(10), 4, 6, 3) == epochs
    assert batches([[1], [2, 3], [], [-100, 50000]], 3, 3, 11) == [[3, 2, 0], [1], [3, 2, 1]]


def test_sets_that_share_most_rows_share_most_batches() -> None:
    """One row of 96 is another: in each pass the batches between its two places differ by a row at most."""
    rows, other = numbered(96), [*numbered(95), [7, 500]]
    for one, two in zip(batches(rows, 8, 24, 3), batches(other, 8, 24, 3), strict=True):
        shared = {tuple(rows[index]) for index in one} & {tuple(other[index]) for index in two}
        assert len(shared) >= 7


def test_equal_rows_are_all_there() -> None:
    (batch,) = batches([[1], [1], [1]], 3, 1, 0)
    assert batch == [0, 1, 2]


@pytest.mark.parametrize(("share", "rising"), [(0.0, 0), (0.1, 2), (0.5, 10)])
def test_the_learning_rate_rises_to_one_and_then_falls_by_equal_steps(share: float, rising: int) -> None:
    factors = [learning_rate_factor(step, 20, share) for step in range(20)]
    assert factors[rising] == max(factors) == 1.0
    assert factors[:rising] == pytest.approx([(step + 1) / (rising + 1) for step in range(rising)])
    assert factors[rising:] == pytest.approx([1 - step / (20 - rising) for step in range(20 - rising)])
    assert min(factors) > 0.0


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_cosine_schedule_is_that_of_transformers(share: float) -> None:
    steps = 20
    rising = round(steps * share)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    # It begins to rise at 0, ours one step further; the decay is the same.
    reference = get_cosine_schedule_with_warmup(optimizer, rising, steps)
    expected = []
    for _ in range(steps):
        expected.append(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    factors = [learning_rate_factor(step, steps, share, "cosine") for step in range(steps)]
    assert factors[rising:] == pytest.approx(expected[rising:])
    assert factors[:rising] == [learning_rate_factor(step, steps, share) for step in range(rising)]
