"""`kmeans_iterative`: clusters that the model still gets wrong are drawn from more often (kMQ, arXiv 2409.11378).

In the first of several rounds every cluster gives the same number of rows, as under `kmeans_random`. After each round
the model answers the rows that it was trained on, and each is scored: by how much the gold answer is better than the
model's own. A cluster is then drawn from with probability proportional to exp(mean score of its rows); one without a
score has the mean of the others. Rows are those that no round used; a round draws K of them, however large the
clusters are: what a cluster lacks goes to the others. (The published code draws fewer in later rounds.)

Draws are apportioned rather than sampled: the i-th row of cluster c comes at (i + 1/2) / p_c, so that every prefix of
the order has the clusters as near in proportion as whole rows allow. The clusters are those of all rows, used ones too,
with a seed of their own: the same in all rounds, unless features follow the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from evoray.alignment.reduction import Array
from evoray.selection.clusters import cluster
from evoray.selection.kmeans import LEAST_OF_CLUSTER, Drawn, first_of_each
from evoray.selection.picks import picks_of
from evoray.selection.protocol import Shards
from evoray.selection.ranking import check_count
from evoray.selection.selector import Choice, Needs, Request, Selector
from evoray.selection.shard import Shard

NAME = "kmeans_iterative"


class KMeansIterative(Selector):
    """Rows of every cluster, more of those that the model gets wrong."""

    needs: ClassVar[Needs] = Needs(target=False, representation="embed", feedback=True)

    clusters: int = Field(512, ge=1)  # at most; no more than K / 4
    iterations: int = Field(20, ge=1)  # of k-means, at most
    cluster_seed: int = 0  # of k-means, the same in all rounds

    def select(self, shards: Shards, request: Request) -> Choice:
        """Draws of all clusters, by their probabilities."""
        check_count(shards, request.rows)
        count = max(1, min(self.clusters, request.k // LEAST_OF_CLUSTER))
        shards.call("begin", NAME)
        found = cluster(shards, NAME, count, self.cluster_seed, self.iterations, everyone=True)
        parts = shards.call("ask", _numbers_of, NAME, request.feedback)
        score_C = mean_scores([entry for part in parts for entry in part], count)
        take_C, place_K = apportioned(probabilities(score_C), found.sizes_C, request.rows)
        drawn: dict[int, list[Drawn]] = {}
        for part in shards.call("tell", NAME, first_of_each, take_C, request.seed, None):
            for number, entries in part.items():
                drawn.setdefault(number, []).extend(entries)
        shards.call("close", NAME)
        rows = {number: iter(sorted(entries)) for number, entries in drawn.items()}
        picks = picks_of(next(rows[number])[1:] for number in place_K.tolist())
        scored = np.isfinite(score_C)
        facts = {
            "clusters": count,
            "clusters_drawn_from": int((take_C > 0).sum()),
            "clusters_scored": int(scored.sum()),
            "mean_score": float(score_C[scored].mean()) if scored.any() else None,
            "converged": found.converged,
        }
        return Choice(picks=picks, facts=facts)


def mean_scores(scored: list[tuple[int, float]], count: int) -> Array:
    """The mean score of each cluster, of (cluster, score) pairs; NaN where there is none."""
    number_n = np.array([number for number, _ in scored], np.int64)
    score_n = np.array([score for _, score in scored], np.float64)
    rows_C = np.bincount(number_n, minlength=count)
    with np.errstate(invalid="ignore"):
        mean_C: Array = np.bincount(number_n, weights=score_n, minlength=count) / rows_C
    return mean_C


def probabilities(score_C: Array) -> Array:
    """exp of scores, summing to 1; a cluster without a score counts as the mean of those that have one."""
    known_C = np.isfinite(score_C)
    filled_C = np.where(known_C, score_C, score_C[known_C].mean() if known_C.any() else 0.0)
    weight_C: Array = np.exp(filled_C - filled_C.max())
    total: Array = weight_C / weight_C.sum()
    return total


def apportioned(
    p_C: Array, sizes_C: npt.NDArray[np.int64], rows: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(rows of each cluster, the cluster of each place in the order): as near to p_C as sizes allow.

    The i-th row of cluster c comes at (i + 1/2) / p_c (Webster's rule); equal places go to the larger cluster, then to
    the lower number.
    """
    held_C = np.minimum(sizes_C, rows)
    number_n = np.repeat(np.arange(len(sizes_C)), held_C)
    turn_n = np.arange(len(number_n)) - np.repeat(np.cumsum(held_C) - held_C, held_C)
    with np.errstate(divide="ignore", over="ignore"):
        place_n = (turn_n + 0.5) / p_C[number_n]
    place_K = number_n[np.lexsort((number_n, -sizes_C[number_n], place_n))[:rows]]
    return np.bincount(place_K, minlength=len(sizes_C)).astype(np.int64), place_K


def _numbers_of(shard: Shard, name: str, scores: Mapping[str, float]) -> list[tuple[int, float]]:
    """(cluster, score) of each scored row of this shard."""
    state: dict[str, Any] = shard.tell(name, lambda _shard, held: held)
    ids, cluster_N = state["stack"].ids, state["everyone_N"]
    return [(int(cluster_N[place]), scores[row_id]) for place, row_id in enumerate(ids) if row_id in scores]
