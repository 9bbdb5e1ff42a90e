"""`random`: a seeded uniform choice that does not depend on order or sharding.

Every row has a place in one random order: the hash of (seed, id). Taking the smallest K is a uniform
sample without replacement, and a larger K only adds rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from evoray.budget import taken
from evoray.selection.picks import Pick, Place, picks_of, random_key
from evoray.selection.protocol import Shards
from evoray.selection.ranking import Keyed, check_count, first_rows
from evoray.selection.selector import Choice, Needs, Request, Selector
from evoray.selection.shard import Shard


class Random(Selector):
    """A uniform choice of rows."""

    needs: ClassVar[Needs] = Needs(features=False, target=False)

    def select(self, shards: Shards, request: Request) -> Choice:
        """The first rows in the random order of the seed."""
        return Choice(picks=random_pick(shards, request.rows, request.seed), facts={})


def random_pick(shards: Shards, k: int, seed: int) -> tuple[Pick, ...]:
    """K usable rows, first in the random order of `seed`. Raises SelectionError where rows are fewer."""
    check_count(shards, k)
    return picks_of(first_at_random(shards, k, seed))


def first_at_random(shards: Shards, k: int, seed: int) -> list[Place]:
    """Places of the k usable rows, or of all, that come first in the random order of `seed`."""
    return [entry[1:] for entry in first_rows(shards, k, _in_random_order, seed)]


def _in_random_order(shard: Shard, seed: int) -> Iterator[Keyed]:
    for tile, usable_N in shard.tiles():
        keys = (random_key(row_id, seed) for row_id in tile.ids)
        yield tile, usable_N, np.fromiter(keys, np.uint64, len(tile.ids))


def random_order(ids: Sequence[str], seed: int) -> list[int]:
    """Positions of `ids` in the random order of `seed`; the order of the ids among themselves does not matter."""
    return sorted(range(len(ids)), key=lambda position: (random_key(ids[position], seed), ids[position]))


def random_to_tokens(ids: Sequence[str], tokens: Sequence[int], seed: int, token_budget: int) -> list[int]:
    """Positions of random rows whose tokens together come nearest to the budget; at least one row.

    Rows are taken in the random order; the last one is kept if the total is then nearer the budget.
    """
    order = random_order(ids, seed)
    return order[: taken([tokens[position] for position in order], token_budget)]
