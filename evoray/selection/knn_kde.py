"""`knn_kde`: nearest neighbours that share their mass with their near-duplicates.

Liu, Karbasi and Rekatsinas, "TSDS: Data Selection for Task-Specific Model Finetuning", NeurIPS 2024, with kernel
density. Each target row has a list of its nearest candidates at distances d = |x - y| = sqrt(2 - 2 S), ascending, and
each candidate in a list a density rho (see `density`). One level s, the same for all target rows, says how far down
the lists mass goes. With A_{j, k} = sum_{l <= k} 1 / rho_{j, l} and target weights b (sum 1):

- cost_j(s) = d_{j, k+1} A_{j, k} - sum_{l <= k} d_{j, l} / rho_{j, l}, k the number of A_{j, .} up to s, counted to the
  last but one place of the list (0 for k = 0).
- s is the least A_{j, k} with alpha / C * sum_j b_j cost_j(s) >= 1 - alpha; the largest A of all, if none has it.
- Target row j gives b_j from level 0 to its own s_j = min(s, A_{j, L}): place k gets the share of (0, s_j] that lies in
  (A_{j, k-1}, A_{j, k}]. So those with A <= s_j get b_j / (s_j rho), and the next one the remainder.

A candidate's mass is the sum over the target. Rows are ranked by it, or drawn by it without replacement (`sample`,
seeded, a row's luck depending on its id alone). Lists hold the `neighbours` nearest, or a tenth of the usable rows if
that is fewer, and the density looks at `density_neighbours`, or a tenth, likewise.

Ours: a list that ends before s spreads b_j over what it has (the authors' code gives all that is left over to its last
row, which would then rank first). If the lists hold fewer rows than are wanted, they are made longer before anything
else; if fewer have mass, s goes on from one A to the next until enough have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from evoray.alignment.reduction import Array
from evoray.selection.density import densities
from evoray.selection.neighbours import Floats, Neighbours, Numbers, nearest, tenth_of_usable
from evoray.selection.picks import random_key
from evoray.selection.protocol import Shards
from evoray.selection.ranking import with_nearest
from evoray.selection.selector import Choice, Needs, Request, Selector
from evoray.selection.weights import target_weights


class KnnKde(Selector):
    """Rows by their mass, spread over the nearest of each target row so that duplicates share one row's worth."""

    needs: ClassVar[Needs] = Needs()

    sigma: float = Field(0.75, gt=0.0)  # reach of the density's kernel, L2 distance of unit rows
    alpha: float = Field(0.01, gt=0.0, lt=1.0)  # weight of the distance to the target; the rest is for spreading
    scale: float = Field(5.0, gt=0.0)  # C, in units of d
    neighbours: int = Field(5000, ge=1)  # of each target row, at most
    density_neighbours: int = Field(1000, ge=1)  # that a density counts, at most
    exact_rows: int = Field(20_000, ge=1)  # rows in all lists up to which all pairs are looked at
    probes: int = Field(8, ge=1)  # clusters that each row is compared with beyond that
    sample: bool = False  # draw rows by mass instead of ranking them

    def select(self, shards: Shards, request: Request) -> Choice:
        """The rows of the largest mass, or rows drawn by it."""
        goal = request.target
        weights_M = target_weights(goal.weights_M, len(goal.align_MD))
        tenth = tenth_of_usable(shards)
        found = nearest(shards, goal.align_MD, min(self.neighbours, tenth), request.rows)
        cap = min(self.density_neighbours, tenth)
        density_U = densities(
            shards,
            found,
            sigma=self.sigma,
            cap=cap,
            exact_rows=self.exact_rows,
            probes=self.probes,
            seed=request.seed,
        )
        share_ML: Array = 1.0 / density_U[found.number_ML]
        settled = stopping_level(found.similarity_ML, share_ML, weights_M, self.alpha, self.scale)
        level = covering_level(found, share_ML, settled, request.rows)
        mass_U = mass_at(level, found.number_ML, share_ML, weights_M)
        score_U = drawn(mass_U, found.ids, request.seed) if self.sample else mass_U
        order = np.argsort(-score_U, kind="stable")[: request.rows]
        picks = with_nearest(shards, found.picks(order.tolist()), goal.align_MD)
        facts = {
            "level": level,
            "stopped_by": "cost or neighbours" if level == settled else "rows",
            "rows_in_lists": len(found.ids),
            "rows_with_mass": int((mass_U > 0.0).sum()),
            "density_exact": len(found.ids) <= self.exact_rows,
            "density_mean": float(density_U.mean()),
            "picked_mass": float(mass_U[order].sum()),
        }
        return Choice(picks=picks, facts=facts)


def stopping_level(similarity_ML: Floats, share_ML: Array, weights_M: Array, alpha: float, scale: float) -> float:
    """The least level that the rule accepts, else the largest of all; share: 1 / rho at each place of the lists."""
    level_ML = np.cumsum(share_ML, axis=1)
    distance_ML = np.sqrt(np.maximum(2.0 - 2.0 * similarity_ML.astype(np.float64), 0.0))
    cost_ML = distance_ML[:, 1:] * level_ML[:, :-1] - np.cumsum(distance_ML * share_ML, axis=1)[:, :-1]
    step = (weights_M[:, None] * np.diff(cost_ML, axis=1, prepend=0.0)).ravel()
    order = np.argsort(level_ML[:, :-1], axis=None, kind="stable")
    enough = (alpha / scale * np.cumsum(step[order]) >= 1.0 - alpha).nonzero()[0]
    return float(level_ML[:, :-1].ravel()[order[enough[0]]] if len(enough) else level_ML.max())


def covering_level(found: Neighbours, share_ML: Array, level: float, rows: int) -> float:
    """The same level, or the next one at which so many rows have mass."""
    level_ML = np.cumsum(share_ML, axis=1)
    # A row has mass once s is above the A of the place before its own, in any list.
    below_ML = np.concatenate([np.zeros((len(level_ML), 1)), level_ML[:, :-1]], axis=1)
    order: Numbers = np.argsort(-below_ML, axis=None, kind="stable")
    first_U = np.empty(len(found.ids))
    first_U[found.number_ML.ravel()[order]] = below_ML.ravel()[order]  # the last value stays: the least
    wanted = np.partition(first_U, rows - 1)[rows - 1]
    return level if wanted < level else float(level_ML[level_ML > wanted].min())


def mass_at(level: float, number_ML: Numbers, share_ML: Array, weights_M: Array) -> Array:
    """Masses of all rows at a level."""
    level_ML = np.cumsum(share_ML, axis=1)
    own_M1 = np.minimum(level, level_ML[:, -1:])
    left_ML = own_M1 - np.concatenate([np.zeros((len(level_ML), 1)), level_ML[:, :-1]], axis=1)
    part_ML = np.where(level_ML <= own_M1, share_ML, np.clip(left_ML, 0.0, None))
    given_ML = part_ML * (weights_M[:, None] / own_M1)
    return np.bincount(number_ML.ravel(), weights=given_ML.ravel()).astype(np.float64)


def drawn(mass_U: Array, ids: Sequence[str], seed: int) -> Array:
    """Scores whose ranking is a draw without replacement by mass: log mass plus Gumbel noise of the row's id."""
    uniform_U = (np.array([random_key(row_id, seed) for row_id in ids], dtype=np.float64) + 0.5) / 2.0**64
    noise_U = -np.log(-np.log(np.clip(uniform_U, 1e-300, 1.0 - 2.0**-53)))
    with np.errstate(divide="ignore"):
        score_U: Array = np.log(mass_U) + noise_U
    return score_U
