"""Which rows each optimiser step sees: fixed by the seed, the same for any number of workers."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np


def steps_of(rows: int, batch_size: int, epochs: int) -> int:
    """Optimiser steps of `epochs` passes, the last one of a pass possibly smaller."""
    return math.ceil(rows / batch_size) * epochs


def batches(rows: int, batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Row indices of each of `steps` batches: passes in a new seeded order until the steps are done."""
    result: list[list[int]] = []
    epoch = 0
    while len(result) < steps:
        order = np.random.default_rng([seed, epoch]).permutation(rows).tolist()
        result += [order[start : start + batch_size] for start in range(0, rows, batch_size)]
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
