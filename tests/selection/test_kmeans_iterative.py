from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoray.selection.kmeans_iterative import KMeansIterative, apportioned, mean_scores, probabilities
from evoray.selection.picks import random_key
from tests.oracles import Array, clustered_rows, unit_rows
from tests.selection.exact_rows import choice, chosen, everywhere_equal, names, shards_of, tied_rows
from tests.selection.test_clusters import lloyd


def by_hand(
    features_ND: Array, ids: list[str], k: int, used: tuple[str, ...] = (), feedback: dict[str, float] | None = None
) -> list[str]:
    """The definition: one row at a time from the cluster whose turn comes first."""
    count = max(1, min(512, k // 4))
    numbers, _ = lloyd(features_ND, ids, count)
    scores: dict[int, list[float]] = {}
    for row_id, score in (feedback or {}).items():
        scores.setdefault(numbers[row_id], []).append(score)
    means = {number: sum(values) / len(values) for number, values in scores.items()}
    usual = sum(means.values()) / len(means) if means else 0.0
    weights = [math.exp(means.get(number, usual)) for number in range(count)]
    members: list[list[tuple[float, str]]] = [[] for _ in range(count)]
    for row_id in ids:
        if row_id not in used:
            uniform = ((random_key(row_id, 0) >> 12) + 0.5) / 2**52
            members[numbers[row_id]].append((math.log(-math.log(uniform)), row_id))
    sizes = [len(rows) for rows in members]
    for rows in members:
        rows.sort(reverse=True)
    taken, order = [0] * count, []
    while len(order) < k:
        turns = [((taken[c] + 0.5) / (weights[c] / sum(weights)), -sizes[c], c) for c in range(count) if members[c]]
        number = min(turns)[2]
        taken[number] += 1
        order.append(members[number].pop()[1])
    return order


def pool(seed: int, n: int) -> tuple[Array, list[str]]:
    rng = np.random.default_rng(seed)
    return clustered_rows(rng, n, unit_rows(rng, 5, 6), 0.3), names(n, seed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 20, 47])
def test_the_first_round_draws_from_every_cluster_in_turn(seed: int, k: int) -> None:
    features_ND, ids = pool(seed, 90)
    assert everywhere_equal(KMeansIterative(), features_ND, ids, k) == by_hand(features_ND, ids, k)


@pytest.mark.parametrize("seed", range(4))
def test_later_rounds_draw_by_what_the_model_gets_wrong(seed: int) -> None:
    features_ND, ids = pool(seed, 120)
    used = tuple(chosen(KMeansIterative(), shards_of(features_ND, ids), 24))
    rng = np.random.default_rng(seed)
    feedback = {row_id: float(score) for row_id, score in zip(used, rng.normal(0, 2, len(used)), strict=True)}
    request = {"used": used, "feedback": feedback}
    found = everywhere_equal(KMeansIterative(), features_ND, ids, 24, excluded=used, request=request)
    assert found == by_hand(features_ND, ids, 24, used, feedback)
    assert not set(found) & set(used)


def test_ties_and_copies_and_every_row() -> None:
    features_ND, ids = tied_rows(1, 60), names(60, 1)
    assert everywhere_equal(KMeansIterative(), features_ND, ids, 60) == by_hand(features_ND, ids, 60)


def test_a_cluster_that_the_model_gets_wrong_gives_nearly_all_rows() -> None:
    features_ND, ids = pool(3, 200)
    numbers, _ = lloyd(features_ND, ids, 5)
    used = tuple(ids[:40])
    feedback = {row_id: 6.0 if numbers[row_id] == 2 else 0.0 for row_id in used}
    shards = shards_of(features_ND, ids, excluded=used)
    made = choice(KMeansIterative(clusters=5), shards, 20, used=used, feedback=feedback)
    wrong = sum(numbers[pick.id] == 2 for pick in made.picks)
    assert wrong == min(20, sum(numbers[row_id] == 2 for row_id in ids[40:]))
    assert made.facts["clusters_scored"] == 5


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    scores=st.lists(st.floats(-30, 30), min_size=6, max_size=6),
    share=st.floats(0, 1),
)
def test_rows_are_apportioned_and_none_is_lost(sizes: list[int], scores: list[float], share: float) -> None:
    rows = int(share * sum(sizes))
    take_C, place_K = apportioned(probabilities(np.array(scores[: len(sizes)])), np.array(sizes), rows)
    assert take_C.sum() == rows == len(place_K)
    assert (take_C <= sizes).all() and (take_C == np.bincount(place_K, minlength=len(sizes))).all()


def test_prefixes_are_in_proportion_where_clusters_are_large() -> None:
    p_C = np.array([0.5, 0.3, 0.2])
    _, place_K = apportioned(p_C, np.array([1000, 1000, 1000]), 500)
    for rows in (10, 73, 200, 500):
        assert np.abs(np.bincount(place_K[:rows], minlength=3) - rows * p_C).max() <= 1.0


def test_a_cluster_without_a_score_counts_as_the_mean() -> None:
    score_C = mean_scores([(0, 1.0), (0, 3.0), (2, 0.0)], 3)
    assert score_C[0] == 2.0 and np.isnan(score_C[1]) and score_C[2] == 0.0
    assert probabilities(score_C) == pytest.approx(np.exp([2.0, 1.0, 0.0]) / np.exp([2.0, 1.0, 0.0]).sum())
    assert probabilities(mean_scores([], 4)) == pytest.approx([0.25] * 4)
