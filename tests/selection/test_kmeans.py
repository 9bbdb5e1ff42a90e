from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoray.errors import SelectionError
from evoray.selection.kmeans import KMeansQuality, KMeansRandom, gumbel, shared_out
from evoray.selection.picks import random_key
from tests.oracles import Array, clustered_rows, unit_rows
from tests.selection.exact_rows import choice, chosen, everywhere_equal, names, shards_of, tied_rows
from tests.selection.test_clusters import lloyd


def in_turn(
    features_ND: Array,
    ids: list[str],
    k: int,
    quality_N: Array,
    *,
    barred: tuple[str, ...] = (),
    rows: int | None = None,
) -> list[str]:
    """The definition: quotas of each cluster, then what is left to the largest in turn; picks by draw, then size."""
    numbers, _ = lloyd(features_ND, ids, max(1, min(512, k // 4)), barred=barred)
    members: dict[int, list[tuple[float, str]]] = {}
    for row_id, quality in zip(ids, quality_N, strict=True):
        if row_id not in barred:
            uniform = ((random_key(row_id, 0) >> 12) + 0.5) / 2**52
            members.setdefault(numbers[row_id], []).append((-(quality - math.log(-math.log(uniform))), row_id))
    by_size = sorted(members, key=lambda number: (-len(members[number]), number))
    quota = k // max(1, min(512, k // 4))
    take = {number: min(quota, len(members[number])) for number in by_size}
    while sum(take.values()) < (rows or k):
        for number in by_size:
            if sum(take.values()) < (rows or k) and take[number] < len(members[number]):
                take[number] += 1
    ranked = [
        (draw, place, row_id)
        for place, number in enumerate(by_size)
        for draw, (_, row_id) in enumerate(sorted(members[number])[: take[number]])
    ]
    return [row_id for *_, row_id in sorted(ranked)]


def pool(seed: int, n: int) -> tuple[Array, list[str], Array]:
    rng = np.random.default_rng(seed)
    features_ND = clustered_rows(rng, n, unit_rows(rng, 5, 6), 0.3)
    return features_ND, names(n, seed), rng.integers(1, 6, n).astype(np.float64)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 23, 60, 100])
def test_kmeans_quality_draws_from_every_cluster_in_turn(seed: int, k: int) -> None:
    features_ND, ids, quality_N = pool(seed, 110)
    barred = tuple(ids[:10])
    found = everywhere_equal(KMeansQuality(), features_ND, ids, k, quality_N=quality_N, excluded=barred)
    assert found == in_turn(features_ND, ids, k, quality_N, barred=barred)


@pytest.mark.parametrize("seed", range(3))
def test_kmeans_random_is_the_same_with_equal_qualities_and_needs_no_column(seed: int) -> None:
    features_ND, ids = tied_rows(seed, 90), names(90, seed)
    found = everywhere_equal(KMeansRandom(), features_ND, ids, 40)
    assert found == in_turn(features_ND, ids, 40, np.zeros(90))
    assert KMeansRandom.needs.columns == ()


def test_rows_beyond_k_go_on_in_turn() -> None:
    features_ND, ids, quality_N = pool(7, 120)
    shards = shards_of(features_ND, ids, quality_N)
    found = chosen(KMeansQuality(), shards, 30, rows=90)
    assert found == in_turn(features_ND, ids, 30, quality_N, rows=90)
    assert found[:30] == chosen(KMeansQuality(), shards, 30)


def test_a_cluster_gives_rows_in_proportion_to_the_exponential_of_quality() -> None:
    weight_N = np.tile([1.0, 2.0, 5.0], 10_000)
    ids = [f"{row:05d}" for row in range(30_000)]
    shards = shards_of(np.tile([[1.0, 0.0]], (30_000, 1)), ids, np.log(weight_N), height=4096)
    drawn = Counter(weight_N[int(row_id)] for row_id in chosen(KMeansQuality(clusters=1), shards, 1_000))
    share = np.array([drawn[weight] for weight in (1.0, 2.0, 5.0)]) / 1_000
    # Four standard errors of a share of 1,000.
    np.testing.assert_allclose(share, [1 / 8, 2 / 8, 5 / 8], atol=4 * math.sqrt(0.25 / 1_000))


def test_no_random_key_gives_an_infinite_variate() -> None:
    assert np.isfinite(gumbel(np.array([0, 2**64 - 1], dtype=np.uint64))).all()


def test_shares_are_even_until_clusters_run_out() -> None:
    sizes = np.array([3, 10, 0, 10, 1])
    assert shared_out(sizes, 9).tolist() == [2, 3, 0, 3, 1]
    assert shared_out(sizes, 4).tolist() == [1, 1, 0, 1, 1]
    assert shared_out(sizes, 24).tolist() == sizes.tolist()
    assert shared_out(sizes, 2).tolist() == [0, 1, 0, 1, 0]


def test_a_row_without_quality_is_named() -> None:
    features_ND, ids, quality_N = pool(1, 20)
    quality_N[[3, 5]] = np.nan
    with pytest.raises(SelectionError, match="2 usable rows without a finite quality"):
        chosen(KMeansQuality(), shards_of(features_ND, ids, quality_N), 5)
    with pytest.raises(SelectionError, match="20 usable rows without a finite quality"):
        chosen(KMeansQuality(), shards_of(features_ND, ids), 5)
    assert len(chosen(KMeansQuality(), shards_of(features_ND, ids, quality_N, excluded=[ids[3], ids[5]]), 18)) == 18


def test_the_facts_say_what_the_clusters_are() -> None:
    features_ND, ids, _ = pool(2, 100)
    facts = choice(KMeansRandom(clusters=6), shards_of(features_ND, ids), 40).facts
    assert facts["clusters"] == 6
    assert facts["trained_rows"] == 100
    assert choice(KMeansRandom(), shards_of(features_ND, ids), 40).facts["clusters"] == 10


@given(seed=st.integers(0, 99), n=st.integers(1, 40), k=st.integers(1, 40), n_shards=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_exactly_k_distinct_usable_rows_are_picked(seed: int, n: int, k: int, n_shards: int) -> None:
    ids = names(n, seed)
    quality_N = np.random.default_rng(seed).integers(0, 3, n)
    shards = shards_of(tied_rows(seed, n), ids, quality_N, height=3, n_shards=n_shards, excluded=ids[: n // 3])
    if k <= n - n // 3:
        assert len(chosen(KMeansQuality(), shards, k)) == k
    else:
        with pytest.raises(SelectionError):
            chosen(KMeansQuality(), shards, k)
