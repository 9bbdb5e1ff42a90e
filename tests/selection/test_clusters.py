from __future__ import annotations

import numpy as np
import pytest

from evoray.selection import clusters
from evoray.selection.clusters import Clusters, cluster
from evoray.selection.local import LocalShards
from evoray.selection.picks import random_key
from tests.oracles import Array, clustered_rows, unit_rows
from tests.selection.exact_rows import names, shards_of, tied_rows

GRID = 2.0**25


def lloyd(
    features_ND: Array,
    ids: list[str],
    count: int,
    *,
    barred: tuple[str, ...] = (),
    iterations: int = 20,
    most: int = 10**9,
) -> tuple[dict[str, int], int]:
    """The definition: cluster numbers by id, and iterations, with rows and centroids rounded to multiples of 2^-25."""
    x = np.round(np.float64(np.float32(features_ND)) * GRID)
    drawn = sorted(
        (random_key(f"clusters\0{row_id}", 0), row) for row, row_id in enumerate(ids) if row_id not in barred
    )
    trained = [row for _, row in drawn[:most]]
    centroids_CD = x[trained[:count]]

    def nearest(rows: list[int]) -> list[int]:
        return [int(((x[row] - centroids_CD) ** 2).sum(axis=1).argmin()) for row in rows]

    before: list[int] = []
    done = 0
    while done < iterations:
        now = nearest(trained)
        done += 1
        for number in set(now):
            members = [row for row, given in zip(trained, now, strict=True) if given == number]
            centroids_CD[number] = np.round(x[members].sum(axis=0) / len(members))
        if now == before:
            break
        before = now
    return dict(zip(ids, nearest(list(range(len(ids)))), strict=True)), done


def clustered(shards: LocalShards, count: int, iterations: int = 20) -> tuple[Clusters, dict[str, int]]:
    """A clustering, and the number of each usable row by id."""
    shards.call("begin", "c")
    found = cluster(shards, "c", count, 0, iterations)
    numbers = {
        row_id: number
        for stack, cluster_N in shards.call("tell", "c", _numbers)
        for row_id, number in zip(stack, cluster_N, strict=True)
    }
    shards.call("close", "c")
    return found, numbers


def _numbers(_shard: object, state: dict[str, object]) -> tuple[list[str], list[int]]:
    return state["stack"].ids, state["cluster_N"].tolist()  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["tied", "unit"])
def test_clusters_are_those_of_lloyd_for_any_tiling_and_order(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    features_ND = tied_rows(seed, 90) if kind == "tied" else unit_rows(rng, 90, 6)
    ids, barred = names(90, seed), tuple(names(90, seed)[:7])
    wanted, iterations = lloyd(features_ND, ids, 8, barred=barred)
    wanted.update(dict.fromkeys(barred, -1))
    for height, n_shards, order in [(16, 1, None), (7, 3, rng.permutation(90).tolist()), (1, 4, None)]:
        shards = shards_of(features_ND, ids, height=height, n_shards=n_shards, order=order, excluded=barred)
        found, numbers = clustered(shards, 8)
        assert numbers == wanted
        assert (found.iterations, found.trained) == (iterations, 83)
        assert found.sizes_C.tolist() == [list(numbers.values()).count(number) for number in range(8)]


def test_large_pools_are_trained_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "TRAINED_ROWS", 5)
    features_ND, ids = unit_rows(np.random.default_rng(3), 120, 5), names(120, 3)
    wanted, _ = lloyd(features_ND, ids, 6, most=30)
    found, numbers = clustered(shards_of(features_ND, ids, n_shards=3), 6)
    assert numbers == wanted
    assert found.trained == 30
    assert found.sizes_C.sum() == 120


def test_iterations_end_where_they_should() -> None:
    features_ND, ids = unit_rows(np.random.default_rng(4), 200, 6), names(200, 4)
    found, numbers = clustered(shards_of(features_ND, ids), 9, iterations=2)
    assert (found.iterations, found.converged) == (2, False)
    assert numbers == lloyd(features_ND, ids, 9, iterations=2)[0]
    assert clustered(shards_of(features_ND, ids), 9, iterations=200)[0].converged


def test_centroids_are_the_means_of_their_rows_once_nothing_moves() -> None:
    rng = np.random.default_rng(5)
    features_ND, ids = clustered_rows(rng, 300, unit_rows(rng, 5, 8), 0.1), names(300, 5)
    found, numbers = clustered(shards_of(features_ND, ids), 5, iterations=100)
    number_N = np.array([numbers[row_id] for row_id in ids])
    for number in range(5):
        np.testing.assert_allclose(found.centroids_CD[number], features_ND[number_N == number].mean(axis=0), atol=1e-6)


def test_a_cluster_that_nothing_is_nearest_to_stays_empty() -> None:
    features_ND, ids = np.repeat(np.eye(3), 10, axis=0), names(30, 6)
    found, numbers = clustered(shards_of(features_ND, ids, n_shards=2), 12)
    assert int((found.sizes_C > 0).sum()) == len(set(numbers.values())) <= 3
    assert found.sizes_C.sum() == 30


def test_one_cluster_has_every_row_and_as_many_as_rows_have_one_each() -> None:
    features_ND, ids = unit_rows(np.random.default_rng(7), 20, 6), names(20, 7)
    assert clustered(shards_of(features_ND, ids), 1)[0].sizes_C.tolist() == [20]
    assert clustered(shards_of(features_ND, ids), 20)[0].sizes_C.tolist() == [1] * 20
