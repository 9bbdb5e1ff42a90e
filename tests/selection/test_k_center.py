from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoray.errors import SelectionError
from evoray.selection import k_center
from evoray.selection.k_center import KCenter
from evoray.selection.picks import random_key
from tests.oracles import Array
from tests.selection.exact_rows import choice, chosen, everywhere_equal, names, shards_of, tied_rows


def farthest_first(
    features_ND: Array,
    ids: list[str],
    k: int,
    *,
    used: tuple[str, ...] = (),
    barred: tuple[str, ...] = (),
    start: int = 1,
) -> list[str]:
    """The definition, row by row."""
    x = np.float64(np.float32(features_ND))
    selected = [ids.index(row_id) for row_id in used]
    left = {row for row, row_id in enumerate(ids) if row_id not in (*used, *barred)}
    picks: list[int] = []
    if not selected:
        picks = sorted(left, key=lambda row: (random_key(ids[row], 0), ids[row]))[: min(start, k)]
        left -= set(picks)
    while len(picks) < k:
        far = {row: min(float(((x[row] - x[s]) ** 2).sum()) for s in [*selected, *picks]) for row in left}
        best = min(left, key=lambda row: (-far[row], ids[row]))
        picks.append(best)
        left.remove(best)
    return [ids[row] for row in picks]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("start", [None, 3])
def test_picks_are_farthest_first_with_ties_to_the_lower_id(seed: int, start: int | None) -> None:
    features_ND, ids = tied_rows(seed, 70), names(70, seed)
    found = everywhere_equal(KCenter(start=start), features_ND, ids, 40)
    assert found == farthest_first(features_ND, ids, 40, start=start or 1)


@pytest.mark.parametrize("seed", range(4))
def test_raw_rows_of_any_length_are_told_apart(seed: int) -> None:
    features_ND = np.random.default_rng(seed).standard_normal((60, 5)) * 30.0 + 7.0
    ids = names(60, seed)
    assert everywhere_equal(KCenter(), features_ND, ids, 60) == farthest_first(features_ND, ids, 60)


def test_what_earlier_rounds_used_is_where_it_starts() -> None:
    features_ND, ids = np.random.default_rng(1).standard_normal((50, 4)), names(50, 1)
    used = (ids[3], ids[20], ids[41])
    given = {"excluded": used, "request": {"used": used, "looped": True}}
    found = everywhere_equal(KCenter(), features_ND, ids, 47, **given)
    assert found == farthest_first(features_ND, ids, 47, used=used)


def test_the_first_round_of_a_loop_starts_from_random_rows() -> None:
    features_ND, ids = np.random.default_rng(2).standard_normal((150, 4)), names(150, 2)
    made = choice(KCenter(), shards_of(features_ND, ids), 120, looped=True)
    assert [pick.id for pick in made.picks] == farthest_first(features_ND, ids, 120, start=100)
    assert made.facts["start"] == 100
    few = choice(KCenter(), shards_of(features_ND, ids), 20, looped=True)
    assert sorted(pick.id for pick in few.picks) == sorted(farthest_first(features_ND, ids, 20, start=20))


def test_excluded_rows_are_neither_picked_nor_started_from() -> None:
    features_ND, ids = tied_rows(3, 50), names(50, 3)
    barred = tuple(ids[:9])
    found = everywhere_equal(KCenter(start=2), features_ND, ids, 41, excluded=barred)
    assert found == farthest_first(features_ND, ids, 41, barred=barred, start=2)


@pytest.mark.parametrize("offer", [1, 3, 512])
def test_the_size_of_an_offer_changes_no_pick(offer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(2):
        features_ND = np.vstack([tied_rows(seed, 25), np.random.default_rng(seed).standard_normal((25, 6))])
        ids = names(50, seed)
        monkeypatch.setattr(k_center, "OFFER", offer)
        monkeypatch.setattr(k_center, "LARGEST_OFFER", offer)
        assert chosen(KCenter(), shards_of(features_ND, ids, n_shards=2), 50) == farthest_first(features_ND, ids, 50)


def test_fp32_alone_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # A common offset of 1,000 leaves fp32 products no correct digit of these distances.
    features_ND = np.round(64 * np.random.default_rng(4).standard_normal((60, 5))) / 64 + 1000.0
    ids = names(60, 4)
    assert everywhere_equal(KCenter(), features_ND, ids, 60) == farthest_first(features_ND, ids, 60)
    monkeypatch.setattr(k_center, "FEW", 0)
    assert everywhere_equal(KCenter(), features_ND, ids, 60) == farthest_first(features_ND, ids, 60)


def test_copies_of_picks_come_last_and_by_id() -> None:
    features_ND = np.repeat(np.random.default_rng(5).standard_normal((6, 5)), 5, axis=0)
    ids = names(30, 5)
    found = everywhere_equal(KCenter(), features_ND, ids, 30)
    assert len({tuple(features_ND[ids.index(row_id)]) for row_id in found[:6]}) == 6
    assert found[6:] == sorted(found[6:])


def test_the_radius_is_the_distance_of_the_last_pick() -> None:
    features_ND = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]])
    ids = ["a", "b", "c"]
    made = choice(KCenter(), shards_of(features_ND, ids, excluded=["a"]), 2, used=("a",))
    assert [pick.id for pick in made.picks] == ["b", "c"]
    assert made.facts == {"start": 0, "selected_before": 1, "radius": 3.0}


def test_more_rows_than_k_only_add_rows() -> None:
    features_ND, ids = np.random.default_rng(6).standard_normal((90, 5)), names(90, 6)
    shards = shards_of(features_ND, ids)
    assert chosen(KCenter(), shards, 20, rows=60)[:20] == chosen(KCenter(), shards, 20)


def test_one_row_and_rows_of_nothing_can_be_picked() -> None:
    assert chosen(KCenter(), shards_of(np.zeros((1, 3)), ["a"]), 1) == ["a"]
    ids = names(9, 0)
    found = chosen(KCenter(), shards_of(np.zeros((9, 3)), ids), 9)
    assert found[1:] == sorted(found[1:])


@given(
    seed=st.integers(0, 99),
    n=st.integers(1, 40),
    k=st.integers(1, 40),
    n_shards=st.integers(1, 4),
    start=st.integers(1, 9),
)
@settings(max_examples=40, deadline=None)
def test_exactly_k_distinct_usable_rows_are_picked(seed: int, n: int, k: int, n_shards: int, start: int) -> None:
    ids = names(n, seed)
    shards = shards_of(tied_rows(seed, n), ids, height=3, n_shards=n_shards, excluded=ids[: n // 3])
    usable = n - n // 3
    if k <= usable:
        assert len(chosen(KCenter(start=start), shards, k)) == k
    else:
        with pytest.raises(SelectionError):
            KCenter(start=start).select(shards, k_center.Request(k=k, rows=k))


def test_fp64_rows_are_taken_as_well() -> None:
    features_ND, ids = tied_rows(8, 30), names(30, 8)
    shards = shards_of(features_ND, ids, dtype=torch.float64)
    assert chosen(KCenter(), shards, 30) == farthest_first(features_ND, ids, 30)
