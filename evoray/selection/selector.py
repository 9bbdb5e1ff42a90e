"""What a selector is: a frozen record of its options, what it needs, and one function from shards to ranked picks.

A selector of your own is a subclass of `Selector`, named in the config by `package.module:Class`; its fields are its
options. The rows stay with the shards. A function that has to see them is sent there by name:
`shards.call("ask", function, *arguments)` runs `function(shard, *arguments)` on every shard and gives the answers in
shard order; see `ranking.best` for the commonest case, a score for each row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from evoray.alignment.reduction import Array
from evoray.config import Representation
from evoray.errors import SelectionError
from evoray.selection.picks import Pick
from evoray.selection.protocol import Shards

if TYPE_CHECKING:
    from evoray.diversity.energies import Memory
    from evoray.selection.journal import Journal

Matrix = npt.NDArray[np.float32]


def _nothing(_done: int, _total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a selector works on."""

    features: bool = True  # of the candidates
    target: bool = True  # features of the target's rows, too
    representation: Representation = "gradient"  # what `features.representation: auto` stands for
    only: bool = False  # no other representation serves
    unit_rows: bool = True  # features of norm 1; otherwise as long as the model made them
    columns: tuple[str, ...] = ()  # of the candidates, beside features: source, quality, tokens
    feedback: bool = False  # how well the model answers what earlier rounds chose


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a selection aims at: unit rows of the target, the held-out ones, weights and subtasks of the former."""

    align_MD: Matrix
    validate_MD: Matrix | None = None
    weights_M: npt.NDArray[np.float64] | None = None  # None: uniform
    subtasks_M: tuple[str | None, ...] | None = None  # None: the target is one task


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a selector, beside its options.

    k: what quotas and caps are made of. rows: how many ranked picks to return, at least k: a budget in tokens is cut
    out of them by rank. seed: of all that is drawn. used: ids that earlier rounds took: the shards hold their rows,
    and offer none of them. looped: more rounds follow or came before. feedback: of rows that earlier rounds took, by
    how much the gold answer scores higher than the model's own.
    """

    k: int
    rows: int
    seed: int = 0
    goal: Goal | None = None
    used: Sequence[str] = ()
    looped: bool = False
    feedback: Mapping[str, float] = field(default_factory=dict, repr=False)
    progress: Callable[[int, int], None] = _nothing
    memory: Memory | None = field(default=None, repr=False)  # what earlier rounds used, in the diversity space
    start_g_M: Array | None = field(default=None, repr=False)  # potentials of the same target rows to start from
    journal: Journal | None = field(default=None, repr=False)  # where an interrupted call goes on

    @property
    def target(self) -> Goal:
        """The goal. Raises SelectionError where there is none."""
        if self.goal is None:
            raise SelectionError("no target features", "features of the target rows", "give a target")
        return self.goal


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Picks, best first, and the selector's facts as JSON values.

    others: further choices of the selector's own, where it leaves it to a training which of them is best.
    """

    picks: tuple[Pick, ...]
    facts: Mapping[str, Any]
    others: tuple[Choice, ...] = ()


class Selector(BaseModel, ABC):
    """A way to choose. Fields are options; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    needs: ClassVar[Needs] = Needs()

    @abstractmethod
    def select(self, shards: Shards, request: Request) -> Choice:
        """The first `request.rows` usable rows, best first: distinct, and the same for any order or sharding.

        Ties go to the lower id. Raises SelectionError where they cannot be had.
        """
