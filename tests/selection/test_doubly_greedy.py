from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoray.errors import SelectionError
from evoray.selection.doubly_greedy import DoublyGreedy
from evoray.selection.selector import Request
from tests.selection.oracles_greedy import aimed, by_score, chosen_everywhere, exact_rows, names
from tests.selection.pools import local, pool_and_target


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rows", "targets"), [(9, 4), (9, 1), (37, 4)])
def test_the_nearest_to_any_target_come_first_and_ties_go_to_the_lower_id(seed: int, rows: int, targets: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, ids = exact_rows(rng, 40), exact_rows(rng, targets), names(rng, 40)
    excluded = set(ids[5:8])
    expected = by_score((x @ y.T).max(axis=1), ids, rows, excluded)
    assert chosen_everywhere(DoublyGreedy(), x, ids, aimed(y, rows), excluded) == expected


@pytest.mark.parametrize("seed", range(3))
def test_picks_say_how_near_they_are_and_to_which_target(seed: int) -> None:
    x, y = pool_and_target(seed, 50, 7)
    picks = DoublyGreedy().select(local(x, n_shards=2), aimed(y, 20)).picks
    similarity_KM = x[[pick.tile * 16 + pick.row for pick in picks]] @ y.T
    assert [pick.nearest for pick in picks] == similarity_KM.argmax(axis=1).tolist()
    np.testing.assert_allclose([pick.similarity for pick in picks], similarity_KM.max(axis=1))
    assert (np.diff(similarity_KM.max(axis=1)) <= 0).all()


@given(seed=st.integers(0, 99), n=st.integers(1, 30), targets=st.integers(1, 5), data=st.data())
def test_any_number_of_usable_rows_can_be_had(seed: int, n: int, targets: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    ids = names(rng, n)
    excluded = set(ids[: data.draw(st.integers(0, n - 1))])
    request = aimed(exact_rows(rng, targets), data.draw(st.integers(1, n - len(excluded))))
    chosen_everywhere(DoublyGreedy(), exact_rows(rng, n), ids, request, excluded)


def test_what_cannot_be_had_is_refused() -> None:
    x, y = pool_and_target(0, 20, 3)
    with pytest.raises(SelectionError, match="usable rows"):
        DoublyGreedy().select(local(x), aimed(y, 21))
    with pytest.raises(SelectionError, match="no target features"):
        DoublyGreedy().select(local(x), Request(k=3, rows=3))
    with pytest.raises(SelectionError, match="target features of shape"):
        DoublyGreedy().select(local(x), aimed(y[:0], 3))
    with pytest.raises(SelectionError, match="6 dimensions, target features of 5"):
        DoublyGreedy().select(local(x), aimed(y[:, :5], 3))
