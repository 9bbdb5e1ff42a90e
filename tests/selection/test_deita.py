from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoray.errors import SelectionError
from evoray.selection import deita
from evoray.selection.deita import Deita
from tests.oracles import Array, clustered_rows, unit_rows
from tests.selection.exact_rows import choice, chosen, everywhere_equal, names, shards_of, tied_rows


def far_apart(
    features_ND: Array, ids: list[str], quality_N: Array, k: int, threshold: float = 0.9, barred: tuple[str, ...] = ()
) -> tuple[list[str], float, int]:
    """The definition, row by row: picks, the threshold that gave them, how often it was halved."""
    x = np.float64(np.float32(features_ND))
    order = sorted(
        (row for row in range(len(ids)) if ids[row] not in barred), key=lambda row: (-quality_N[row], ids[row])
    )
    halved = 0
    while True:
        picks: list[int] = []
        for row in order:
            if len(picks) < k and all(((x[row] - x[pick]) ** 2).sum() >= threshold for pick in picks):
                picks.append(row)
        if len(picks) == k:
            return [ids[row] for row in picks], threshold, halved
        threshold, halved = (threshold / 2 if threshold / 2 >= 1e-6 else 0.0), halved + 1


def pool(seed: int, n: int, kind: str) -> tuple[Array, list[str], Array]:
    rng = np.random.default_rng(seed)
    features_ND = tied_rows(seed, n) if kind == "tied" else clustered_rows(rng, n, unit_rows(rng, 6, 6), 0.3)
    return features_ND, names(n, seed), rng.integers(1, 5, n).astype(np.float64)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["tied", "clustered"])
@pytest.mark.parametrize("k", [1, 12, 45, 80])
def test_rows_are_the_best_that_are_far_from_better_ones(seed: int, kind: str, k: int) -> None:
    features_ND, ids, quality_N = pool(seed, 85, kind)
    barred = tuple(ids[:5])
    found = everywhere_equal(Deita(), features_ND, ids, k, quality_N=quality_N, excluded=barred)
    wanted, threshold, halved = far_apart(features_ND, ids, quality_N, k, barred=barred)
    assert found == wanted
    facts = choice(Deita(), shards_of(features_ND, ids, quality_N, excluded=barred), k).facts
    assert facts == {"threshold": threshold, "halved": halved}


def test_a_distance_at_the_threshold_passes() -> None:
    # Squared distances of these rows are multiples of 1/2.
    features_ND, ids, quality_N = pool(9, 60, "tied")
    found = everywhere_equal(Deita(threshold=1.5), features_ND, ids, 8, quality_N=quality_N)
    assert found == far_apart(features_ND, ids, quality_N, 8, threshold=1.5)[0]


@pytest.mark.parametrize("offer", [1, 3, 512])
def test_the_size_of_an_offer_changes_no_pick(offer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deita, "OFFER", offer)
    monkeypatch.setattr(deita, "BLOCK_ROWS", 4)
    monkeypatch.setattr(deita, "COMPARED", 5)
    for kind in ("tied", "clustered"):
        features_ND, ids, quality_N = pool(4, 40, kind)
        found = everywhere_equal(Deita(), features_ND, ids, 20, quality_N=quality_N)
        assert found == far_apart(features_ND, ids, quality_N, 20)[0]


def test_copies_pass_once_the_threshold_is_nothing() -> None:
    features_ND, ids = np.repeat(np.eye(3), 4, axis=0), names(12, 1)
    quality_N = np.arange(12.0)
    made = choice(Deita(), shards_of(features_ND, ids, quality_N, n_shards=2), 5)
    assert [pick.id for pick in made.picks] == [ids[row] for row in range(11, 6, -1)]
    assert made.facts == {"threshold": 0.0, "halved": 20}


def test_more_rows_than_k_are_what_must_pass() -> None:
    features_ND, ids, quality_N = pool(5, 80, "clustered")
    shards = shards_of(features_ND, ids, quality_N)
    assert chosen(Deita(), shards, 10, rows=60) == far_apart(features_ND, ids, quality_N, 60)[0]


def test_a_row_without_quality_is_named() -> None:
    features_ND, ids, quality_N = pool(6, 20, "tied")
    quality_N[4] = np.nan
    with pytest.raises(SelectionError, match="1 usable rows without a finite quality"):
        chosen(Deita(), shards_of(features_ND, ids, quality_N, n_shards=3), 5)
    assert len(chosen(Deita(), shards_of(features_ND, ids, quality_N, excluded=[ids[4]]), 19)) == 19


@given(seed=st.integers(0, 99), n=st.integers(1, 40), k=st.integers(1, 40), n_shards=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_exactly_k_distinct_usable_rows_are_picked(seed: int, n: int, k: int, n_shards: int) -> None:
    features_ND, ids, quality_N = pool(seed, n, "tied")
    shards = shards_of(features_ND, ids, quality_N, height=3, n_shards=n_shards, excluded=ids[: n // 3])
    if k <= n - n // 3:
        assert len(chosen(Deita(), shards, k)) == k
    else:
        with pytest.raises(SelectionError):
            chosen(Deita(), shards, k)
