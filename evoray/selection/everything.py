"""`all`: every usable row, in pool order. The yardstick that a selection must beat at lower cost."""

from __future__ import annotations

from evoray.selection.picks import Pick
from evoray.selection.protocol import Shards


def everything(shards: Shards) -> tuple[Pick, ...]:
    """All rows that are not excluded, by tile and row; the rank is the position."""
    rows = [row for part in shards.call("usable_rows") for row in part]
    return tuple(Pick(id=row_id, tile=tile, row=row, rank=rank) for rank, (row_id, tile, row) in enumerate(rows))
