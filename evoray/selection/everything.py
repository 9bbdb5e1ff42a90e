"""`all`: every usable row, in pool order. The yardstick that a selection must beat at lower cost."""

from __future__ import annotations

from typing import ClassVar

from evoray.selection.picks import Pick, picks_of
from evoray.selection.protocol import Shards
from evoray.selection.selector import Choice, Needs, Request, Selector


class Everything(Selector):
    """Every usable row, whatever the budget."""

    needs: ClassVar[Needs] = Needs(features=False, target=False)

    def select(self, shards: Shards, _request: Request) -> Choice:
        """All of them."""
        return Choice(picks=everything(shards), facts={})


def everything(shards: Shards) -> tuple[Pick, ...]:
    """All rows that are not excluded, by tile and row; the rank is the position."""
    return picks_of(row for part in shards.call("usable_rows") for row in part)
