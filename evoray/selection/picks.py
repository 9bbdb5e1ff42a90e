"""The picks of a selector: which rows, in what order, and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from evoray.records import drawn

#: (id, tile, row in the tile).
Place = tuple[str, int, int]


class Pick(NamedTuple):  # of `all` there are as many as rows: a dataclass takes five times as long to make
    """One chosen row. A selector that does not compute a field leaves it None."""

    id: str
    tile: int
    row: int  # position in the tile, 0-based
    rank: int  # 0 is the best
    weight: float | None = None  # of the relaxed problem, at most 1/K
    potential: float | None = None  # f, cost units; high = badly aligned
    similarity: float | None = None  # largest inner product with a target row
    nearest: int | None = None  # index of that target row


def picks_of(places: Iterable[Place]) -> tuple[Pick, ...]:
    """Places as picks, ranked as they come."""
    return tuple(Pick(row_id, tile, row, rank) for rank, (row_id, tile, row) in enumerate(places))


def random_key(row_id: str, seed: int) -> int:
    """A row's place in the random order of this seed: 64 bits, equal in every process."""
    return drawn(f"{seed}\0", row_id.encode())
