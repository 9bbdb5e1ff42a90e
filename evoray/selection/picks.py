"""The picks of a selector: which rows, in what order, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evoray.records import drawn

#: (id, tile, row in the tile).
Place = tuple[str, int, int]


@dataclass(frozen=True, kw_only=True)
class Pick:
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
    return tuple(Pick(id=row_id, tile=tile, row=row, rank=rank) for rank, (row_id, tile, row) in enumerate(places))


def random_key(row_id: str, seed: int) -> int:
    """A row's place in the random order of this seed: 64 bits, equal in every process."""
    return drawn(f"{seed}\0", row_id.encode())
