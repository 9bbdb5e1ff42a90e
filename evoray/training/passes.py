"""How one optimiser step is spread: its rows over the ranks, a rank's rows over passes through the model.

An optimiser step's rows are dealt to the ranks in turn, each rank splits its share by a budget of tokens, and ranks
with fewer passes add passes of zero weight, because ZeRO's reductions pair up pass by pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evoray.models.chat import Encoded
from evoray.models.loss import Batch, collate, token_budget_batches
from evoray.models.packing import pack, packed_batches


@dataclass(frozen=True, kw_only=True)
class Rank:
    """This process among the workers of the round."""

    index: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How rows become batches."""

    pad_id: int
    budget: int  # tokens of one pass
    packed: bool

    def batch(self, samples: Sequence[Encoded]) -> Batch:
        """The samples of one pass."""
        return pack(samples) if self.packed else collate(samples, self.pad_id)

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Samples of each pass, by index: within the budget, except for one that is longer alone."""
        return (packed_batches if self.packed else token_budget_batches)(lengths, self.budget)


def passes(
    samples: Sequence[Encoded], indices: Sequence[int], layout: Layout, rank: Rank
) -> list[tuple[list[int], float]]:
    """This rank's passes over `indices` as (rows, weight); weight 0 fills up to the longest rank's number."""
    plans = []
    for worker in range(rank.size):
        share = list(indices[worker :: rank.size])
        groups = layout.groups([len(samples[index].ids) for index in share])
        plans.append([[share[place] for place in group] for group in groups])
    longest = max(len(plan) for plan in plans)
    mine: list[tuple[list[int], float]] = [(rows, 1.0) for rows in plans[rank.index]]
    return mine + [([indices[0]], 0.0)] * (longest - len(mine))
