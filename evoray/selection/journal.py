"""How far a selection is, kept by whoever can keep it: a driver that was killed goes on there.

Between two steps of a descent all there is are the weights (with the shards), the potentials and a few numbers (here).
A descent that goes on from a note ends as the undisturbed one, bit for bit. Points of the path that are finished are
kept whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from evoray.alignment.sinkhorn import Potentials

if TYPE_CHECKING:
    from evoray.selection.descent import Descent, Step
    from evoray.selection.evoselect_records import PathPoint


@dataclass(frozen=True, kw_only=True)
class Note:
    """A descent before step `step`; its weights are with the shards."""

    step: int
    potentials: Potentials
    lambda_eff: float
    scale_transport: float
    scale_diversity: float
    trace: tuple[Step, ...]


class Journal(Protocol):
    """Notes and results by the place of a point in the path."""

    def finished(self, place: int) -> tuple[PathPoint, Descent] | None:
        """What a finished point came to."""

    def finish(self, place: int, point: PathPoint, descent: Descent) -> None:
        """Keep it."""

    def last(self, place: int) -> Note | None:
        """The last note of an unfinished point; the shards have the weights of that moment again."""

    def note(self, place: int, note: Note) -> None:
        """Keep a note, and the shards' weights with it."""


class NoJournal:
    """Keeps nothing."""

    def finished(self, _place: int) -> None:
        """Nothing."""

    def finish(self, place: int, point: PathPoint, descent: Descent) -> None:
        """Nothing."""

    def last(self, _place: int) -> None:
        """Nothing."""

    def note(self, place: int, note: Note) -> None:
        """Nothing."""
