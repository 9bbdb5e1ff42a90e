"""How much to choose: rows, a share of the pool, or tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from evoray.errors import ConfigError

_ROUNDING = 1e-9  # of a share times a number of rows: 0.29 of 100 are 29


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One of the three."""

    rows: int | None = None
    share: float | None = None  # of the usable rows of the pool
    tokens: int | None = None

    @classmethod
    def of(cls, value: int | float | str) -> Budget:
        """500 rows, 0.2 of the pool (1.0: all of it), or '100000tok'. Raises ConfigError."""
        if isinstance(value, str):
            match = re.fullmatch(r"(\d+)\s*tok(?:ens)?", value.strip())
            if match and int(match[1]):
                return cls(tokens=int(match[1]))
            value = _number(value)
        if isinstance(value, float) and 0 < value <= 1:
            return cls(share=value)
        if not isinstance(value, bool) and 1 <= value < math.inf and value == int(value):
            return cls(rows=int(value))
        raise _refused(value)

    def k(self, pool: int, mean_tokens: float | None = None) -> int:
        """Rows that it comes to in a pool of so many usable rows, of so many tokens each in the mean."""
        if self.rows is not None:
            return self.rows
        if self.share is not None:
            return max(1, math.floor(self.share * pool + _ROUNDING))  # so that equal shares fit together
        if self.tokens is None or mean_tokens is None:
            raise ConfigError(
                f"selection.k = {self.tokens}tok, and rows whose tokens are not known",
                "features, which come with the tokens of each row",
                "give a pool and a model, or set selection.k in rows",
            )
        return min(pool, max(1, round(self.tokens / mean_tokens)))


def in_rows(value: int | float | str, pool: int) -> int | float | str:
    """A share as rows of a pool of so many usable ones; any other budget as it is."""
    budget = Budget.of(value)
    return value if budget.share is None else budget.k(pool)


def per_round(value: int | float | str, rounds: int) -> int | float | str:
    """An equal part of a budget for each of several rounds. Raises ConfigError for rows that do not divide."""
    budget = Budget.of(value)
    if budget.rows is not None and budget.rows % rounds:
        raise ConfigError(
            f"a budget of {budget.rows} rows over {rounds} rounds",
            f"a multiple of {rounds} rows",
            "give another budget, or another number of rounds",
        )
    if budget.rows is not None:
        return budget.rows // rounds
    return f"{max(1, (budget.tokens or 0) // rounds)}tok" if budget.share is None else budget.share / rounds


def _number(text: str) -> float | int:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise _refused(text) from None


def _refused(value: object) -> ConfigError:
    return ConfigError(
        f"selection.k = {value!r}",
        "rows (500), a share of the pool (0.2), or tokens (100000tok)",
        "write it in one of these ways",
    )


def taken(tokens: Sequence[int], budget: int) -> int | None:
    """How many rows, by rank, come nearest to a budget of tokens, at least one; None where all are too few.

    The last row is taken if the total is then nearer to the budget.
    """
    total = 0
    for count, row in enumerate(tokens):
        after = total + row
        if count and abs(after - budget) > abs(total - budget):
            return count
        total = after
        if total >= budget:
            return count + 1
    return None
