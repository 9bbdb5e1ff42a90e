"""The simulated reduction: its numbers are the solver's, and its clock adds what a hand would add."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reduction import answers_of, reduced, same_bits, solved
from reduction_measures import Costs

from evoray.alignment.reduction import Partials, partial_sums
from evoray.selection.protocol import split_tiles

FREE = Costs(
    send=0.0, answer=0.0, take=0.0, core=0.0, task_send=0.0, task=0.0, sizes=(8, 80), back=(0.0, 0.0), out=(0.0, 0.0)
)
#: A byte beyond the eighth costs a second on its way back, and half of one on its way out.
SLOW = Costs(
    send=1.0,
    answer=10.0,
    take=0.25,
    core=0.0,
    task_send=2.0,
    task=100.0,
    sizes=(8, 80),
    back=(0.0, 72.0),
    out=(0.0, 36.0),
)


def parts_of(n_shards: int, n_tiles: int) -> list[Partials]:
    rng = np.random.default_rng(n_tiles)
    values = [(rng.standard_normal(5) * 10.0 ** rng.integers(-8, 8, 5),) for _ in range(n_tiles)]
    return [
        partial_sums(((tile, values[tile]) for tile in span), n_tiles, ("logaddexp",))
        for span in split_tiles(n_tiles, n_shards)
    ]


@pytest.mark.parametrize("n_tiles", [512, 700, 2442])
def test_sums_of_512_shards_have_the_bits_of_one(n_tiles: int) -> None:
    (one,), _ = reduced(parts_of(1, n_tiles), n_tiles, FREE)
    (many,), _ = reduced(parts_of(512, n_tiles), n_tiles, FREE)
    assert many.tobytes() == one.tobytes()


def test_a_solve_over_a_shard_a_tile_ends_in_the_bits_of_one_shard() -> None:
    (one, _), (many, clock) = solved(1, 40, FREE), solved(40, 40, FREE)
    assert many.g_M.tobytes() == one.g_M.tobytes()
    assert (many.objective, many.iterations) == (one.objective, one.iterations)
    assert clock.reductions >= many.iterations + 2, "each pass, the start and the objective"
    assert same_bits([1, 3, 40], 40, FREE)["iterations"] == one.iterations


def test_few_shards_take_what_was_sent_one_after_another_and_the_last_answer() -> None:
    # Tiles 0..3 of one shard each: one node of 8 bytes. The last call leaves after 4 s, answers come in at 4 x 0.25 s.
    _, hands = reduced(answers_of(4, 4, [np.ones(1)]), 4, SLOW)
    assert hands[:2].tolist() == [4 + 10 + 1, 4 + 10 + 1]
    # 16 bytes: 8 more out of the driver, four times at 0.5 s; and 8 more in the last answer, at 1 s.
    _, hands = reduced(answers_of(4, 4, [np.ones(2)]), 4, SLOW)
    assert hands[1] - hands[0] == 4 * 8 * 0.5 + 8 * 1.0


def test_many_shards_take_a_task_a_group_beside_their_calls() -> None:
    # Two tasks; the second is sent at 21 s and waits for the answer to the seventeenth call. The driver takes in two.
    _, hands = reduced(answers_of(17, 17, [np.ones(1)]), 17, SLOW)
    assert hands[0] == 17 + 10 + 100 + 2 * 0.25
    quick = replace(SLOW, send=0.0, task_send=0.0)
    _, hands = reduced(answers_of(257, 257, [np.ones(1)]), 257, quick)
    assert hands[0] == 10 + 2 * 100 + 2 * 0.25, "two levels of tasks above 256 shards"


def test_additions_are_measured_and_the_other_hands_leave_them_out() -> None:
    _, hands = reduced(parts_of(32, 64), 64, FREE)
    assert hands[:2].tolist() == [0.0, 0.0]
    assert hands[2] > 0.0


def test_answers_hold_the_nodes_that_the_shards_of_a_pool_fold_into() -> None:
    for part, span in zip(answers_of(5, 21, [np.ones(3)]), split_tiles(21, 5), strict=True):
        covered = [tile for level, index in part.nodes for tile in range(index << level, min(21, (index + 1) << level))]
        assert sorted(covered) == list(span)
