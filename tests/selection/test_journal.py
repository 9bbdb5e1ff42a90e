"""A selection that was cut off goes on from its journal, and what memory it had for kernels leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evoray.selection.descent import POOL, Descent
from evoray.selection.evoselect import evoselect
from evoray.selection.evoselect_records import EvoSelectParams, EvoSelectResult, PathPoint
from evoray.selection.journal import Note
from evoray.selection.local import LocalShards
from evoray.selection.protocol import CHANGING, MAKING, RESETTING, split_tiles
from evoray.selection.shard import Shard
from tests.selection.pools import local, pool_and_target, tiles_of

PARAMS = EvoSelectParams(k=12, steps=11, lambda_path=(0.0, 0.5), r_path=(0.2, 0.5))
X, Y = pool_and_target(3, 150, 10)


class CutError(Exception):
    """The driver ends here."""


class Memory:
    """A journal in this process; ends the driver after a number of notes."""

    def __init__(self, shards: LocalShards, notes_left: int | None = None) -> None:
        self.shards, self.notes_left = shards, notes_left
        self.points: dict[int, tuple[PathPoint, Descent]] = {}
        self.notes: dict[int, Note] = {}
        self.resumed: list[int] = []

    def finished(self, place: int) -> tuple[PathPoint, Descent] | None:
        return self.points.get(place)

    def finish(self, place: int, point: PathPoint, descent: Descent) -> None:
        self.points[place] = (point, descent)

    def last(self, place: int) -> Note | None:
        note = self.notes.get(place)
        if note is not None:
            self.resumed.append(note.step)
            self.shards.restore(POOL, f"{place}/{note.step}")
        return note

    def note(self, place: int, note: Note) -> None:
        self.shards.save(POOL, f"{place}/{note.step}")
        self.notes[place] = note
        if self.notes_left is not None:
            self.notes_left -= 1
            if not self.notes_left:
                raise CutError


def select(shards: LocalShards, journal: Any = None) -> EvoSelectResult:
    return evoselect(shards, Y[:6], None, Y[6:], PARAMS, journal=journal)


def same(one: EvoSelectResult, other: EvoSelectResult) -> bool:
    facts = [(r.picks, r.path, r.trace, r.certificate, r.potentials.g_M.tobytes()) for r in (one, other)]
    return facts[0] == facts[1]


@pytest.mark.parametrize("cut_after", [1, 2, 3, 6])
def test_a_selection_goes_on_from_its_last_note_and_ends_as_if_undisturbed(cut_after: int) -> None:
    undisturbed = select(local(X, 16, 2, torch.float32))
    shards = local(X, 16, 2, torch.float32)
    journal = Memory(shards, cut_after)
    with pytest.raises(CutError):
        select(shards, journal)
    fresh = local(X, 16, 2, torch.float32)  # of another process: nothing but what was saved is left
    fresh._saved = shards._saved
    journal.shards, journal.notes_left = fresh, None
    assert same(select(fresh, journal), undisturbed)
    assert journal.resumed and all(step > 0 for step in journal.resumed)
    assert len(journal.points) == 4


def test_a_finished_path_is_not_walked_again() -> None:
    shards = local(X, 16, 1, torch.float32)
    journal = Memory(shards)
    first = select(shards, journal)
    steps: list[int] = []
    original = shards.reduce

    def counting(method: str, *args: Any) -> Any:
        steps.append(method == "mirror_step")
        return original(method, *args)

    shards.reduce = counting  # type: ignore[method-assign]
    assert same(select(shards, journal), first)
    assert not any(steps)


@pytest.mark.parametrize("entries", [0, 1, 2])
def test_memory_for_kernels_changes_no_bit(entries: int) -> None:
    """No room at all; room for kernels alone; room for both."""
    tiles = tiles_of(X, 16, torch.float32)
    room = entries * 4 * len(X) * 6
    held = [Shard(tiles[span.start : span.stop], len(tiles), (), room) for span in split_tiles(len(tiles), 1)]
    assert same(select(LocalShards(held)), select(local(X, 16, 1, torch.float32)))


def test_several_threads_change_no_bit() -> None:
    one = select(local(X, 16, 1, torch.float32))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        many = select(local(X, 16, 1, torch.float32))
    finally:
        torch.set_num_threads(before)
    assert [pick.id for pick in one.picks] == [pick.id for pick in many.picks]


def test_every_method_of_a_shard_is_known_to_change_it_or_to_leave_it_as_it_is() -> None:
    """A method that changes a shard and is in no list would be forgotten when a lost shard is made again."""
    reading = {
        *("counts", "usable_rows", "similarities", "source_counts", "column_minimum"),
        *("cost_moments", "weighted_potential", "transport_cost", "moment", "gradient_sums", "capped_mass"),
        *("smallest_gradients", "largest_weights", "top", "describe", "n_rows", "tiles", "ask"),
    }
    methods = {name for name in vars(Shard) if not name.startswith("_")}
    assert methods == reading | {*MAKING, *RESETTING, *CHANGING} | {"close", "save", "restore"}
