"""One tenth of the pool by predicted alignment: does what the transport calls near also train better?

Candidates are ranked by -f, the potentials of entropic transport at uniform weights (one step of EvoSelect without
diversity ranks in the same way), and cut into `of` parts of equal size; the first rows of one part are chosen. The
analysis is that of arXiv 2602.14696: rank the pool, train on each tenth, correlate rank and loss.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from evoray.alignment.sinkhorn import solve
from evoray.errors import SelectionError
from evoray.selection.descent import POOL
from evoray.selection.evoselect import cost_std
from evoray.selection.heaviest import heaviest
from evoray.selection.picks import Pick
from evoray.selection.protocol import Shards, usable_rows
from evoray.selection.selector import Choice, Needs, Request, Selector
from evoray.selection.weights import target_weights

_TOLERANCE = 1e-3  # L1 marginal error
_MAX_ITERATIONS = 2000


class Decile(Selector):
    """The best-aligned rows of one part of the ranked pool."""

    needs: ClassVar[Needs] = Needs()

    index: int = Field(ge=1)  # 1: the best aligned
    of: int = Field(10, ge=1)
    r: float = Field(0.1, gt=0)  # eps over the standard deviation of the cost

    def select(self, shards: Shards, request: Request) -> Choice:
        """The first rows of the part. Raises SelectionError where it is too small."""
        usable = usable_rows(shards)
        first, last = usable * (self.index - 1) // self.of, usable * self.index // self.of
        if self.index > self.of or request.rows > last - first:
            raise SelectionError(
                f"{request.rows} rows of part {self.index} of {self.of}, which has {max(0, last - first)}",
                f"a part from 1 to {self.of}, and no more rows than it has",
                "choose fewer rows, or enlarge the pool",
            )
        b_M = target_weights(request.target.weights_M, len(request.target.align_MD))
        shards.call("open", POOL, np.asarray(request.target.align_MD, np.float64), b_M, -float(np.log(usable)))
        spread = cost_std(shards)
        solve(
            shards, POOL, b_M, eps=self.r * spread, anneal_from=spread, tolerance=_TOLERANCE,
            max_iterations=_MAX_ITERATIONS,
        )  # fmt: skip
        stop = first + request.rows
        (ranked,) = heaviest(shards, POOL, [stop])  # weights are equal: by (f, id)
        shards.call("close", POOL)
        picks = tuple(
            Pick(id=row_id, tile=tile, row=row, rank=rank, potential=f)
            for rank, (_, f, row_id, tile, row) in enumerate(ranked[first:])
        )
        return Choice(picks=picks, facts={"alignment": -float(np.mean([pick.potential for pick in picks]))})
