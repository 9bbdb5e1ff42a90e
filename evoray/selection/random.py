"""`random`: a seeded uniform choice that does not depend on order or sharding.

Every row has a place in one random order: the hash of (seed, id). Taking the smallest K is a uniform
sample without replacement, and a larger K only adds rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from evoray.budget import taken
from evoray.selection.picks import Pick, picks_of, random_key
from evoray.selection.protocol import Shards
from evoray.selection.ranking import check_count
from evoray.selection.selector import Choice, Needs, Request, Selector


class Random(Selector):
    """A uniform choice of rows."""

    needs: ClassVar[Needs] = Needs(features=False, target=False)

    def select(self, shards: Shards, request: Request) -> Choice:
        """The first rows in the random order of the seed."""
        return Choice(picks=random_pick(shards, request.rows, request.seed), facts={})


def random_pick(shards: Shards, k: int, seed: int) -> tuple[Pick, ...]:
    """K usable rows, first in the random order of `seed`. Raises SelectionError where rows are fewer."""
    check_count(shards, k)
    found = sorted(entry for part in shards.call("first_at_random", k, seed) for entry in part)
    return picks_of(entry[1:] for entry in found[:k])


def random_order(ids: Sequence[str], seed: int) -> list[int]:
    """Positions of `ids` in the random order of `seed`; the order of the ids among themselves does not matter."""
    return sorted(range(len(ids)), key=lambda position: (random_key(ids[position], seed), ids[position]))


def random_to_tokens(ids: Sequence[str], tokens: Sequence[int], seed: int, token_budget: int) -> list[int]:
    """Positions of random rows whose tokens together come nearest to the budget; at least one row.

    Rows are taken in the random order; the last one is kept if the total is then nearer the budget.
    """
    order = random_order(ids, seed)
    return order[: taken([tokens[position] for position in order], token_budget)]
