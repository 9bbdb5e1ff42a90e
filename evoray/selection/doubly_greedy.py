"""`doubly_greedy`: candidates in the order of their largest similarity to any target.

Both maxima are greedy: over targets for a candidate's score, and over candidates for the choice. It is one of the
rules that targeted instruction selection is compared by (arXiv 2602.14696). Target weights play no part.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from evoray.selection.protocol import Shards
from evoray.selection.ranking import best, similarity, with_nearest
from evoray.selection.selector import Choice, Needs, Request, Selector
from evoray.selection.shard import Tile
from evoray.selection.weights import target_rows


class DoublyGreedy(Selector):
    """The candidates nearest to some target."""

    needs: ClassVar[Needs] = Needs()

    def select(self, shards: Shards, request: Request) -> Choice:
        """The first rows by max_j S_ij."""
        target_MD = target_rows(request.target)
        picks = best(shards, request.rows, largest_similarity, target_MD)
        return Choice(picks=with_nearest(shards, picks, target_MD), facts={})


def largest_similarity(tile: Tile, target_MD: Any) -> torch.Tensor:
    """max_j S_ij of each row [n]."""
    return similarity(tile, target_MD).amax(dim=1)
