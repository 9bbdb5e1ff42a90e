"""Shares per source: how much of a selection each source of the pool has to have, and may have.

Weights then live on {sum w = 1, 0 <= w_i <= 1/K, low_s <= sum of source s <= high_s}. The projection onto that set is
in `capped.py`; here is what the driver does with a few rows of each source: the least value of a linear function over
the set, for the Frank-Wolfe gap, and the picks, whose numbers are whole. Where shares times K are not, picks may be
outside the set by less than a row. Rows without a source are a source of their own.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evoray.alignment.reduction import Array
from evoray.errors import SelectionError
from evoray.selection.protocol import Shards

#: The source of rows without one, as reports name it.
NO_SOURCE = "(none)"
#: Shares times K that are this near to a whole number are meant as one.
_ROUNDING = 1e-9
#: Shares that sum to 1 up to this are meant to.
_SUM_ROUNDING = 1e-13

#: (-log w, f, id, tile, row in the tile): sorted, the best rows come first.
Entry = tuple[float, float, str, int, int]


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What is asked for, as fractions of the K picks."""

    bounds: Mapping[str, tuple[float, float]]  # (minimum, maximum) of a source
    max_share: float = 1.0  # of every source without bounds of its own

    def __post_init__(self) -> None:
        wrong = [f"{name}: {list(pair)}" for name, pair in self.bounds.items() if not 0 <= pair[0] <= pair[1] <= 1]
        wrong += [] if 0 <= self.max_share <= 1 else [f"max_share: {self.max_share}"]
        least = math.fsum(low for low, _ in self.bounds.values())
        if wrong or least > 1 + _SUM_ROUNDING:
            raise SelectionError(
                f"shares {', '.join(wrong)}" if wrong else f"minimum shares that sum to {least:g}",
                "0 <= minimum <= maximum <= 1 for each source, and minima that sum to at most 1",
                "correct selection.shares and selection.max_share",
            )


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Bounds of every source of a pool: fp64 fractions [S] of the picks that its usable rows can meet."""

    sources: tuple[str, ...]  # sorted: the order of all vectors over sources
    low_S: Array
    high_S: Array
    k: int

    @classmethod
    def of(cls, shares: Shares, shards: Shards, k: int) -> Bounds:
        """Hold what is asked for against the sources of the shards. Raises SelectionError where no choice obeys."""
        rows: Counter[str] = Counter()
        usable: Counter[str] = Counter()
        for part in shards.call("source_counts"):
            for source, (held, free) in part.items():
                rows[source] += held
                usable[source] += free
        sources = tuple(sorted(rows))
        _check_names(shares, sources)
        wanted = [shares.bounds.get(source, (0.0, shares.max_share)) for source in sources]
        short = [
            f"{source}: at least {low:g} of {k} picks from {usable[source]} usable rows"
            for source, (low, _) in zip(sources, wanted, strict=True)
            if low * k > usable[source] + _ROUNDING
        ]
        high_S = np.array([min(high, usable[source] / k) for source, (_, high) in zip(sources, wanted, strict=True)])
        if short or math.fsum(high_S) < 1 - _SUM_ROUNDING:
            most = ", ".join(f"{source} {high:g}" for source, high in list(zip(sources, high_S, strict=True))[:10])
            raise SelectionError(
                "; ".join(short) or f"sources that may have at most {high_S.sum():g} of the picks together ({most})",
                "enough usable rows of each source for its minimum, and maxima that sum to at least 1",
                "change selection.shares, selection.max_share or k, or enlarge the pool",
            )
        low_S = np.minimum([low for low, _ in wanted], high_S)
        return cls(sources=sources, low_S=low_S, high_S=high_S, k=k)

    def by_source(self) -> dict[str, tuple[float, float]]:
        """(minimum, maximum) of each source."""
        return dict(zip(self.sources, zip(self.low_S.tolist(), self.high_S.tolist(), strict=True), strict=True))

    @property
    def most_S(self) -> list[int]:
        """Rows of each source that a selection holds at most."""
        return [math.ceil(high * self.k - _ROUNDING) for high in self.high_S]

    @property
    def least_S(self) -> list[int]:
        """Rows of each source that a selection holds at least."""
        return [math.floor(low * self.k + _ROUNDING) for low in self.low_S]

    def least_mean(self, smallest: Sequence[Array]) -> float:
        """min sum_i w_i q_i over the set, from the `most_S` smallest q of each source, ascending.

        Each source's minimum goes to its smallest q; what is left goes to the smallest of all that the maxima
        allow. A source's cost is convex in its share, so that this is the least.
        """
        values, offered, total = [], [], 0.0
        for value_N, low, high in zip(smallest, self.low_S * self.k, self.high_S * self.k, strict=True):
            place_N = np.arange(len(value_N))
            forced_N = (low - place_N).clip(0.0, 1.0)
            total += float(forced_N @ value_N)
            values.append(value_N)
            offered.append((high - place_N).clip(0.0, 1.0) - forced_N)
        value_N, offered_N = np.concatenate(values), np.concatenate(offered)
        order = np.argsort(value_N, kind="stable")
        before_N = np.cumsum(offered_N[order]) - offered_N[order]
        taken_N = (self.k - self.low_S.sum() * self.k - before_N).clip(0.0, offered_N[order])
        return (total + float(taken_N @ value_N[order])) / self.k

    def pick(self, ranked: Sequence[Sequence[Entry]]) -> tuple[Entry, ...]:
        """K rows, best first, from the `most_S` best of each source: minima first, then down the whole ranking."""
        chosen = [entry for entries, least in zip(ranked, self.least_S, strict=True) for entry in entries[:least]]
        spare = sorted(
            (entry, source)
            for source, (entries, least, most) in enumerate(zip(ranked, self.least_S, self.most_S, strict=True))
            for entry in entries[least:most]
        )
        return tuple(sorted(chosen + [entry for entry, _ in spare[: self.k - len(chosen)]]))


def _check_names(shares: Shares, sources: Sequence[str]) -> None:
    unknown = [name for name in shares.bounds if name not in sources]
    if unknown:
        near = difflib.get_close_matches(unknown[0], sources, n=1)
        shown = ", ".join(sources[:10]) + (", ..." if len(sources) > 10 else "")
        raise SelectionError(
            f"selection.shares of {unknown[0]!r}",
            f"a source of the pool: {shown}",
            f"did you mean {near[0]!r}?" if near else "name a source as the column `source` has it",
        )
