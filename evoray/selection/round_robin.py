"""`round_robin`: the targets take turns, and each takes its best candidate that is still there.

One of the rules of targeted instruction selection (arXiv 2602.14696). Every target is served K / M candidates, which
is a greedy answer to the assignment problem that optimal transport solves. Targets come in their own order, over and
over; target weights play no part.

A target needs few of its candidates. Lists of the best are fetched (`target_tops`); when a target's list is used up,
all are fetched anew, longer, without what is taken. A list of L rows lasts for L picks at least.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from evoray.selection.picks import Place, picks_of
from evoray.selection.protocol import Shards
from evoray.selection.ranking import check_count, with_nearest
from evoray.selection.selector import Choice, Needs, Request, Selector
from evoray.selection.target_tops import Tops, close_tops, next_tops, open_tops
from evoray.selection.weights import target_rows

MARGIN = 32  # rows of a list beyond four times its share: near targets want the same ones
GROWTH = 4  # of the lists, each time that they are fetched anew
MAX_ENTRIES = 2**22  # of all lists together


class RoundRobin(Selector):
    """The best unused candidate of each target in turn."""

    needs: ClassVar[Needs] = Needs()

    def select(self, shards: Shards, request: Request) -> Choice:
        """The rows in the order in which they are taken."""
        target_MD = target_rows(request.target)
        check_count(shards, request.rows)
        open_tops(shards, target_MD)
        taken: list[Place] = []
        last: list[Place] = []
        length, longest, fetched = 0, 0, 0
        while len(taken) < request.rows:
            request.progress(len(taken), request.rows)
            length = _length(request.rows - len(taken), len(target_MD), length)
            tile_K, row_K = (np.array([row[part] for row in last], np.int64) for part in (1, 2))
            tops = next_tops(shards, length, tile_K, row_K)
            last = serve(tops, len(taken), request.rows - len(taken))
            taken.extend(last)
            longest, fetched = max(longest, length), fetched + 1
        close_tops(shards)
        request.progress(len(taken), request.rows)
        picks = with_nearest(shards, picks_of(taken), target_MD)
        return Choice(picks=picks, facts={"fetched": fetched, "longest": longest})


def _length(rows: int, targets: int, before: int) -> int:
    """How long the lists should be, with so many rows to take; no list has to be longer than those."""
    wanted = max(4 * rows // targets + MARGIN, GROWTH * before)
    return min(rows, wanted, max(MARGIN, MAX_ENTRIES // targets))


def serve(tops: Tops, turn: int, count: int) -> list[Place]:
    """What the targets take from their lists, from the given turn on: `count` rows, or until a list is used up."""
    lists = tops.index_ML.tolist()
    at = [0] * len(lists)
    free = bytearray(b"\1") * len(tops.ids)
    taken: list[int] = []
    while len(taken) < count:
        target = (turn + len(taken)) % len(lists)
        entries, place = lists[target], at[target]
        while place < len(entries) and not free[entries[place]]:
            place += 1
        if place == len(entries):
            break
        free[entries[place]] = 0
        taken.append(entries[place])
        at[target] = place + 1
    return [(tops.ids[one], int(tops.tile_U[one]), int(tops.row_U[one])) for one in taken]
