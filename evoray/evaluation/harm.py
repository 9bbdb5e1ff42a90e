"""Whether a round did harm: its losses on the validate rows against the untrained model and the best round so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evoray.evaluation.intervals import named, paired_difference

_BOOTSTRAP_SEED = 0
_LEAST_ROWS = 8


def compare_round(
    losses: Sequence[float], untrained: Sequence[float], best: Sequence[float], best_round: int, roll_back: bool
) -> dict[str, Any]:
    """Paired differences of the rows' losses with 95% intervals, for the record of a round; negative is better.

    A round is harmful where the whole interval against the best model so far lies above zero; with fewer than 8 rows
    that have a loss none is, for their interval says nothing.
    """
    against_best = named(paired_difference(losses, best, _BOOTSTRAP_SEED))
    compared = np.isfinite(np.asarray(losses, float) - np.asarray(best, float)).sum()
    harmful = bool(against_best["low"] > 0 and compared >= _LEAST_ROWS)
    return {
        "against_untrained": named(paired_difference(losses, untrained, _BOOTSTRAP_SEED)),
        "against_best": {"round": best_round, **against_best},
        "harmful": harmful,
        "rolled_back": harmful and roll_back,
    }
