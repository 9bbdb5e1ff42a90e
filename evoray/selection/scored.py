"""What selectors that rank by a score have in common: a target that can be aimed at, and enough rows to rank."""

from __future__ import annotations

from typing import Any

import numpy as np

from evoray.errors import SelectionError
from evoray.selection.picks import Pick
from evoray.selection.protocol import Shards
from evoray.selection.ranking import Score, best
from evoray.selection.selector import Matrix, Request


def first_by(shards: Shards, request: Request, score: Score, *arguments: Any) -> tuple[Pick, ...]:
    """The first `request.rows` usable rows by (-score, id). Raises SelectionError where there are fewer."""
    check_rows(shards, request.rows)
    return best(shards, request.rows, score, *arguments)


def check_rows(shards: Shards, rows: int) -> None:
    """Raise SelectionError where so many usable rows cannot be had."""
    usable = sum(count for _, count in shards.call("counts"))
    if not 1 <= rows <= usable:
        raise SelectionError(
            f"{rows} rows to choose of {usable} usable rows", "1 <= k <= usable rows", "lower k or enlarge the pool"
        )


def target_rows(request: Request) -> Matrix:
    """The features [M, D] of the target. Raises SelectionError where there are none, or some are no numbers."""
    target_MD = request.target.align_MD
    if target_MD.ndim != 2 or not len(target_MD) or not np.isfinite(target_MD).all():
        raise SelectionError(
            f"target features of shape {target_MD.shape}, all finite: {bool(np.isfinite(target_MD).all())}",
            "finite features of at least one target row",
            "compute the features of the target again",
        )
    return target_MD
