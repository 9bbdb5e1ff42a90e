"""`less`: candidates in the order of their similarity to the best-served subtask of the target.

The score of candidate i is the max over subtasks of the mean of S_ij over the subtask's targets j (LESS, arXiv
2402.04333). Target rows without a subtask form one of their own, so that a target without any is one
task. A mean is weighted by the target weights, where there are some. Two other forms: the mean over all targets, and
the max over single targets (weights play no part in it, and it is `doubly_greedy`).

S is linear in the target rows: a mean of similarities is one product with the mean of the rows, and no N x M matrix
is formed. The rows are summed and the product is divided afterwards: sums of equal terms are equal exactly, and
rounded means are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from evoray.alignment.reduction import Array
from evoray.selection.doubly_greedy import largest_similarity
from evoray.selection.protocol import Shards
from evoray.selection.ranking import best, similarity, with_nearest
from evoray.selection.selector import Choice, Goal, Matrix, Needs, Request, Selector
from evoray.selection.shard import Tile
from evoray.selection.weights import target_rows, target_weights


class Less(Selector):
    """The candidates nearest to some subtask of the target, in the mean over its rows."""

    needs: ClassVar[Needs] = Needs()

    over: Literal["subtasks", "mean", "max"] = "subtasks"  # what similarities are pooled over

    def select(self, shards: Shards, request: Request) -> Choice:
        """The first rows by the pooled similarity."""
        target_MD = target_rows(request.target)
        if self.over == "max":
            pooled = len(target_MD)
            picks = best(shards, request.rows, largest_similarity, target_MD)
        else:
            sums_TD, totals_T = task_sums(request.target, by_subtask=self.over == "subtasks")
            pooled = len(totals_T)
            picks = best(shards, request.rows, largest_mean, sums_TD, totals_T)
        return Choice(picks=with_nearest(shards, picks, target_MD), facts={"over": self.over, "tasks": pooled})


def largest_mean(tile: Tile, sums_TD: Any, totals_T: Array) -> torch.Tensor:
    """The largest over tasks of the mean similarity to the task's rows, for each row [n]."""
    return (similarity(tile, sums_TD).double() / torch.from_numpy(totals_T)).amax(dim=1)


def task_sums(goal: Goal, *, by_subtask: bool) -> tuple[Matrix, Array]:
    """For each subtask, or for all as one: the weighted sum of its target rows [T, D], and of their weights [T].

    Raises SelectionError for weights that are not positive.
    """
    rows = len(goal.align_MD)
    target_weights(goal.weights_M, rows)
    # As they were given, not scaled to sum 1: whole numbers have exact sums.
    weight_M = np.ones(rows) if goal.weights_M is None else np.asarray(goal.weights_M, dtype=np.float64)
    names: Sequence[str | None] = goal.subtasks_M if by_subtask and goal.subtasks_M is not None else [None] * rows
    number = {name: task for task, name in enumerate(dict.fromkeys(names))}
    weight_TM = np.zeros((len(number), rows))
    weight_TM[[number[name] for name in names], np.arange(rows)] = weight_M
    # In the type of the target's rows, which is that of the pool's: no tile has to convert them again.
    sums_TD: Matrix = (weight_TM @ goal.align_MD.astype(np.float64)).astype(goal.align_MD.dtype)
    return sums_TD, weight_TM.sum(axis=1)
