"""`entropy`, `margin` and `least_confidence`: candidates that the model is least sure of.

The alternatives that DiverseEvol is compared with (arXiv 2311.08182): the highest mean entropy of the next token, the
lowest mean gap between the two largest logits, the lowest mean largest logit. Means are over all tokens of a row,
prompt and response alike. The three are columns of the representation `uncertainty` (`features/uncertainty.py`), in
this order; a target plays no part.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from evoray.errors import SelectionError
from evoray.selection.protocol import Shards
from evoray.selection.ranking import best
from evoray.selection.selector import Choice, Needs, Request, Selector
from evoray.selection.shard import Tile

COLUMNS = ("entropy", "margin", "confidence")
_NEEDS = Needs(target=False, representation="uncertainty", only=True, unit_rows=False)


class Entropy(Selector):
    """The highest mean token entropy."""

    needs: ClassVar[Needs] = _NEEDS

    def select(self, shards: Shards, request: Request) -> Choice:
        """The first rows by entropy, falling."""
        return Choice(picks=best(shards, request.rows, column, 0, 1.0), facts={})


class Margin(Selector):
    """The lowest mean gap between the two largest logits."""

    needs: ClassVar[Needs] = _NEEDS

    def select(self, shards: Shards, request: Request) -> Choice:
        """The first rows by gap, rising."""
        return Choice(picks=best(shards, request.rows, column, 1, -1.0), facts={})


class LeastConfidence(Selector):
    """The lowest mean largest logit."""

    needs: ClassVar[Needs] = _NEEDS

    def select(self, shards: Shards, request: Request) -> Choice:
        """The first rows by largest logit, rising."""
        return Choice(picks=best(shards, request.rows, column, 2, -1.0), facts={})


def column(tile: Tile, number: int, sign: float) -> torch.Tensor:
    """One of the three numbers of each row [n], times a sign. Raises SelectionError for features of another kind."""
    if tile.features_ND.shape[1] != len(COLUMNS):
        raise SelectionError(
            f"features of {tile.features_ND.shape[1]} dimensions",
            f"the three of features.representation: uncertainty ({', '.join(COLUMNS)})",
            "compute the features again, with features.representation left out",
        )
    return sign * tile.features_ND[:, number]
