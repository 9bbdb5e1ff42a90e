from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evoray.errors import SelectionError
from evoray.selection.doubly_greedy import DoublyGreedy
from evoray.selection.less import Less
from tests.oracles import Array
from tests.selection.oracles_greedy import aimed, by_score, chosen_everywhere, exact_rows, names
from tests.selection.pools import local, pool_and_target

SUBTASKS = ("b", None, "a", "b", "b", None, "c")


def pooled(similarity_NM: Array, subtasks: Sequence[str | None], weights: Sequence[float]) -> Array:
    """The largest over subtasks of the weighted mean over the subtask's targets, row by row."""
    scores = []
    for row in similarity_NM:
        means = []
        for task in set(subtasks):
            own = [target for target, name in enumerate(subtasks) if name == task]
            means.append(sum(weights[j] * row[j] for j in own) / sum(weights[j] for j in own))
        scores.append(max(means))
    return np.array(scores)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rows", [9, 37])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_best_served_subtask_decides_and_ties_go_to_the_lower_id(seed: int, rows: int, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y, ids = exact_rows(rng, 40), exact_rows(rng, 7), names(rng, 40)
    weights = rng.choice([0.25, 1.0, 2.0], 7) if weighted else np.ones(7)
    goal = {"subtasks_M": SUBTASKS, "weights_M": weights if weighted else None}
    expected = by_score(pooled(x @ y.T, SUBTASKS, weights), ids, rows, ids[5:8])
    assert chosen_everywhere(Less(), x, ids, aimed(y, rows, **goal), ids[5:8]) == expected


@pytest.mark.parametrize("seed", range(4))
def test_the_mean_is_over_all_targets_whatever_their_subtasks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, ids = exact_rows(rng, 40), exact_rows(rng, 7), names(rng, 40)
    expected = by_score((x @ y.T).sum(axis=1) / 7, ids, 12)
    request = aimed(y, 12, subtasks_M=SUBTASKS)
    assert chosen_everywhere(Less(over="mean"), x, ids, request) == expected
    assert chosen_everywhere(Less(), x, ids, aimed(y, 12)) == expected, "a target without subtasks is one task"
    assert Less(over="mean").select(local(x), request).facts == {"over": "mean", "tasks": 1}
    assert Less().select(local(x), request).facts == {"over": "subtasks", "tasks": 4}


@pytest.mark.parametrize("seed", range(3))
def test_weights_that_round_make_the_means_that_they_stand_for(seed: int) -> None:
    x, y = pool_and_target(seed, 60, 7)
    weights = np.random.default_rng(seed).uniform(0.1, 3.0, 7)
    ids = [f"row-{row:04d}" for row in range(60)]
    request = aimed(y, 25, subtasks_M=SUBTASKS, weights_M=weights)
    assert chosen_everywhere(Less(), x, ids, request) == by_score(pooled(x @ y.T, SUBTASKS, weights), ids, 25)
    # A weight is worth as many copies of its row.
    twice = aimed(np.concatenate([y, y[:2]]), 25)
    doubled = aimed(y, 25, weights_M=np.array([2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]))
    assert chosen_everywhere(Less(), x, ids, twice) == chosen_everywhere(Less(), x, ids, doubled)


def test_the_max_over_single_targets_is_doubly_greedy() -> None:
    x, y = pool_and_target(3, 50, 7)
    request = aimed(y, 50, subtasks_M=SUBTASKS)
    assert Less(over="max").select(local(x), request).picks == DoublyGreedy().select(local(x), request).picks


@given(seed=st.integers(0, 99), n=st.integers(1, 30), over=st.sampled_from(["subtasks", "mean", "max"]), data=st.data())
def test_any_number_of_usable_rows_can_be_had(seed: int, n: int, over: str, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    ids, subtasks = names(rng, n), data.draw(st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=5))
    excluded = set(ids[: data.draw(st.integers(0, n - 1))])
    rows = data.draw(st.integers(1, n - len(excluded)))
    request = aimed(exact_rows(rng, len(subtasks)), rows, subtasks_M=tuple(subtasks))
    chosen_everywhere(Less(over=over), exact_rows(rng, n), ids, request, excluded)


def test_what_makes_no_sense_is_refused() -> None:
    x, y = pool_and_target(0, 20, 3)
    with pytest.raises(ValidationError):
        Less(over="median")
    with pytest.raises(SelectionError, match="all positive: False"):
        Less().select(local(x), aimed(y, 3, weights_M=np.array([1.0, 0.0, 1.0])))
    with pytest.raises(SelectionError, match="21 of 20 usable rows"):
        Less().select(local(x), aimed(y, 21))
