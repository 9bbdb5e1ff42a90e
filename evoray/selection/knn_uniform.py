"""`knn_uniform`: each target row spreads its mass evenly over its k nearest candidates, k found from the data.

Liu, Karbasi and Rekatsinas, "TSDS: Data Selection for Task-Specific Model Finetuning", NeurIPS 2024, uniform variant:
optimal transport with the target plus a distance to the uniform choice has a closed solution by nearest neighbours.
With distances d = 1 - S ascending over a target row's list, and target weights b (sum 1), k is the least number with

    alpha / C * sum_j b_j sum_{l <= k} (d_{j, k+1} - d_{j, l}) >= 1 - alpha

or the length of the lists, if no smaller one has it. Target row j gives b_j / k to each of its k nearest, and rows are
ranked by what they get from all. Lists hold the `neighbours` nearest rows, or a tenth of the usable rows if that is
fewer, as in the authors' code: with alpha as small as this they are used to their end, and a list of the whole pool
would say nothing of the target.

Ours, where the source draws from the masses: rows are ranked. If fewer rows than are wanted have mass, k goes on
growing until enough have, over longer lists if need be; so few target rows with a small k may leave ties, and those go
to the lower id.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from evoray.alignment.reduction import Array
from evoray.selection.neighbours import Neighbours, Numbers, nearest, tenth_of_usable
from evoray.selection.protocol import Shards
from evoray.selection.ranking import with_nearest
from evoray.selection.selector import Choice, Needs, Request, Selector
from evoray.selection.weights import target_weights


class KnnUniform(Selector):
    """Rows by their mass, spread evenly over the nearest of each target row."""

    needs: ClassVar[Needs] = Needs()

    alpha: float = Field(0.01, gt=0.0, lt=1.0)  # weight of the distance to the target; the rest is for spreading
    scale: float = Field(5.0, gt=0.0)  # C, in units of d
    neighbours: int = Field(5000, ge=1)  # of each target row, at most, and at most a tenth of the usable rows

    def select(self, shards: Shards, request: Request) -> Choice:
        """The rows of the largest mass."""
        goal = request.target
        weights_M = target_weights(goal.weights_M, len(goal.align_MD))
        longest = min(self.neighbours, tenth_of_usable(shards))
        found = nearest(shards, goal.align_MD, longest, request.rows)
        limit = min(longest, found.number_ML.shape[1])
        cost_M = weights_M @ (1.0 - found.similarity_ML[:, :limit].astype(np.float64))
        settled = stopping_k(cost_M, self.alpha, self.scale)
        k = max(settled, covering_k(found, request.rows))
        mass_U = uniform_mass(found.number_ML[:, :k], weights_M, len(found.ids))
        order = np.argsort(-mass_U, kind="stable")[: request.rows]
        picks = with_nearest(shards, found.picks(order.tolist()), goal.align_MD)
        stopped = "rows" if k > settled else "neighbours" if settled == limit else "cost"
        facts = {"k": k, "stopped_by": stopped, "rows_with_mass": int((mass_U > 0.0).sum())}
        return Choice(picks=picks, facts={**facts, "picked_mass": float(mass_U[order].sum())})


def stopping_k(distance_L: Array, alpha: float, scale: float) -> int:
    """The least k that the rule accepts, from the target's mean distance at each place of the lists; else L."""
    inner_L = distance_L[:-1]
    gain_L = np.arange(1, len(distance_L)) * distance_L[1:] - np.cumsum(inner_L)
    enough = (alpha / scale * gain_L >= 1.0 - alpha).nonzero()[0]
    return int(enough[0]) + 1 if len(enough) else len(distance_L)


def covering_k(found: Neighbours, rows: int) -> int:
    """The least k at which the first k of all lists hold so many rows."""
    length = found.number_ML.shape[1]
    first_U = np.empty(len(found.ids), dtype=np.int64)
    # Of an entry that is written twice the last value stays: the earliest place.
    first_U[found.number_ML.T[::-1].ravel()] = np.repeat(np.arange(length)[::-1], len(found.number_ML))
    return int(np.partition(first_U, rows - 1)[rows - 1]) + 1


def uniform_mass(number_Mk: Numbers, weights_M: Array, count: int) -> Array:
    """Masses of all rows, each target row's spread evenly."""
    k = number_Mk.shape[1]
    given = np.bincount(number_Mk.ravel(), weights=np.repeat(weights_M, k), minlength=count)
    mass_U: Array = given / k
    return mass_U
