from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoray.errors import SelectionError
from evoray.selection.selector import Request, Selector
from evoray.selection.uncertainty import Entropy, LeastConfidence, Margin
from tests.selection.oracles_greedy import by_score, chosen_everywhere, names
from tests.selection.pools import local

KINDS: list[tuple[Selector, int, float]] = [(Entropy(), 0, 1.0), (Margin(), 1, -1.0), (LeastConfidence(), 2, -1.0)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rows", [9, 37])
@pytest.mark.parametrize(("selector", "column", "sign"), KINDS)
def test_the_least_sure_come_first_and_ties_go_to_the_lower_id(
    seed: int, rows: int, selector: Selector, column: int, sign: float
) -> None:
    rng = np.random.default_rng(seed)
    x, ids = rng.integers(0, 6, (40, 3)) / 4.0, names(rng, 40)
    expected = by_score(sign * x[:, column], ids, rows, ids[5:8])
    assert chosen_everywhere(selector, x, ids, Request(k=rows, rows=rows), ids[5:8]) == expected


@pytest.mark.parametrize(("selector", "column", "sign"), KINDS)
def test_the_three_are_read_as_the_model_made_them(selector: Selector, column: int, sign: float) -> None:
    assert not selector.needs.unit_rows
    assert not selector.needs.target
    assert (selector.needs.representation, selector.needs.only) == ("uncertainty", True)


@given(seed=st.integers(0, 99), n=st.integers(1, 30), kind=st.sampled_from(KINDS), data=st.data())
def test_any_number_of_usable_rows_can_be_had(
    seed: int, n: int, kind: tuple[Selector, int, float], data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    ids = names(rng, n)
    excluded = set(ids[: data.draw(st.integers(0, n - 1))])
    rows = data.draw(st.integers(1, n - len(excluded)))
    chosen_everywhere(kind[0], rng.integers(-2, 3, (n, 3)) / 2.0, ids, Request(k=rows, rows=rows), excluded)


@pytest.mark.parametrize(("selector", "column", "sign"), KINDS)
def test_other_features_and_too_many_rows_are_refused(selector: Selector, column: int, sign: float) -> None:
    with pytest.raises(SelectionError, match="features of 5 dimensions"):
        selector.select(local(np.ones((20, 5))), Request(k=3, rows=3))
    with pytest.raises(SelectionError, match="21 of 20 usable rows"):
        selector.select(local(np.ones((20, 3))), Request(k=21, rows=21))
