"""Which of several trained choices is kept, and what is said of them: for rounds and for comparisons alike."""

from __future__ import annotations

from typing import Any

from evoray.engine.trials import kept_of


def outcome(seconds: float) -> dict[str, Any]:
    return {"rows": 8, "steps": 2, "seconds": seconds, "tokens": 99, "last_loss": 1.0}


def test_the_first_of_the_least_losses_is_kept_and_all_are_told_of() -> None:
    choices = [{"lambda": 0.0, "r": 1.0, "energy": 5.0}, {"lambda": 2.0, "r": 1.0}, {"energy": 3.0}]
    kept, facts = kept_of(choices, [0.5, 0.25, 0.25], [outcome(1.0), outcome(2.0), outcome(4.0)])
    tried = [
        {"lambda": 0.0, "r": 1.0, "loss": 0.5, "rows": 8, "steps": 2, "seconds": 1.0},
        {"lambda": 2.0, "r": 1.0, "loss": 0.25, "rows": 8, "steps": 2, "seconds": 2.0},
        {"loss": 0.25, "rows": 8, "steps": 2, "seconds": 4.0},
    ]
    assert kept == 1
    assert facts == {"lambda": 2.0, "r": 1.0, "trials": {"kept": 1, "tried": tried}}
