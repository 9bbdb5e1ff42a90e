"""Which rows each optimiser step sees: fixed by the seed and the rows, the same for any number of workers.

A row's place in a pass is drawn by what it says, and not by where it stands in its file. So a training is a function
of the set of rows, however a selector ranked them, and sets that share most rows share most batches: their models
differ by the rows, and not by the luck of another order (common random numbers).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from evoray.records import drawn


def steps_of(rows: int, batch_size: int, epochs: int) -> int:
    """Optimiser steps of `epochs` passes, the last one of a pass possibly smaller."""
    return math.ceil(rows / batch_size) * epochs


def batches(rows: Sequence[Sequence[int]], batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Row indices of each of `steps` batches: passes in a new seeded order until the steps are done.

    rows: token ids of each. Equal rows keep their order.
    """
    contents = [np.asarray(row, dtype="<i8").tobytes() for row in rows]
    result: list[list[int]] = []
    epoch = 0
    while len(result) < steps:
        keys = [drawn(f"{seed} {epoch} ", content, size=16) for content in contents]
        order = sorted(range(len(rows)), key=lambda row: keys[row])
        result += [order[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        epoch += 1
    return result[:steps]


def learning_rate_factor(
    step: int, steps: int, warmup_share: float, schedule: Literal["linear", "cosine"] = "linear"
) -> float:
    """Linear rise over the first `warmup_share` of the steps, then decay to zero after the last one."""
    warmup = math.ceil(steps * warmup_share)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = (steps - step) / max(steps - warmup, 1)
    return left if schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
