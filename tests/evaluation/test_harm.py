"""A round is judged row by row against the best model before it."""

from __future__ import annotations

import numpy as np

from evoray.evaluation.harm import compare_round

RNG = np.random.default_rng(0)
BEST = RNG.uniform(1, 5, 200)
UNTRAINED = BEST + 1


def judged(change: float, roll_back: bool = True) -> dict[str, object]:
    losses = BEST + change + RNG.normal(0, 0.1, len(BEST))
    return compare_round(losses.tolist(), UNTRAINED.tolist(), BEST.tolist(), 3, roll_back)


def test_differences_are_means_of_pairs_with_an_interval_around_them() -> None:
    found = compare_round((BEST + 0.5).tolist(), UNTRAINED.tolist(), BEST.tolist(), 3, roll_back=False)
    assert found["against_best"]["round"] == 3
    for name, value in (("against_best", 0.5), ("against_untrained", -0.5)):
        assert all(abs(found[name][key] - value) < 1e-9 for key in ("value", "low", "high")), "the same for every row"


def test_only_a_clearly_worse_round_is_harmful() -> None:
    assert [judged(change)["harmful"] for change in (-0.5, 0.0, 0.5)] == [False, False, True]


def test_a_harmful_round_is_rolled_back_where_that_was_asked_for() -> None:
    assert judged(0.5)["rolled_back"] is True
    assert judged(0.5, roll_back=False)["rolled_back"] is False
    assert judged(-0.5)["rolled_back"] is False


def test_rows_without_a_loss_are_left_out() -> None:
    losses = [*BEST.tolist()[:-1], float("nan")]
    assert compare_round(losses, UNTRAINED.tolist(), BEST.tolist(), 0, roll_back=False)["against_best"]["value"] == 0
