"""The journal of a selection in storage: a killed driver goes on from (g, w, step) of the point it was at.

Weights are written by the shards, each its own tiles; then one record that names them replaces the one before. A kill
between the two leaves the earlier record and its weights, which are deleted only after that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evoray.engine import metrics
from evoray.storage import Storage

if TYPE_CHECKING:
    from evoray.alignment.sinkhorn import Potentials
    from evoray.selection.descent import Descent
    from evoray.selection.evoselect_records import PathPoint
    from evoray.selection.journal import Note
    from evoray.selection.protocol import Shards


@dataclass(frozen=True, kw_only=True)
class Notebook:
    """Where journals of selections are kept until their results are."""

    storage: Storage
    prefix: str

    def clear(self) -> None:
        """Delete all notes: the selection is written."""
        _delete(self.storage, self.prefix)


class StorageJournal:
    """Notes of one selection below a prefix that names all that it depends on."""

    def __init__(self, storage: Storage, prefix: str, shards: Shards, problem: str) -> None:
        self._storage, self._prefix, self._shards, self._problem = storage, prefix, shards, problem

    def finished(self, place: int) -> tuple[PathPoint, Descent] | None:
        """What a finished point came to."""
        from evoray.selection.descent import Descent, Step
        from evoray.selection.evoselect_records import PathPoint

        key = f"{self._at(place)}/finished.json"
        if not self._storage.exists(key):
            return None
        held = self._storage.read_json(key)
        descent = held["descent"]
        descent["potentials"] = _potentials_of(descent["potentials"])
        descent["trace"] = tuple(Step(**step) for step in descent["trace"])
        for name in ("top", "more"):
            descent[name] = tuple(tuple(entry) for entry in descent[name])
        return PathPoint(**held["point"]), Descent(**descent)

    def finish(self, place: int, point: PathPoint, descent: Descent) -> None:
        """Keep a point's result; its notes are done with."""
        held = {**vars(descent), "potentials": _jsonable(descent.potentials)}
        held["trace"] = [asdict(step) for step in descent.trace]
        self._storage.write_json(f"{self._at(place)}/finished.json", {"point": asdict(point), "descent": held})
        _delete(self._storage, self._at(place), but=f"{self._at(place)}/finished.json")

    def last(self, place: int) -> Note | None:
        """The last note of an unfinished point; the shards have the weights of that moment again."""
        from evoray.selection.descent import Step
        from evoray.selection.journal import Note

        key = f"{self._at(place)}/last.json"
        if not self._storage.exists(key):
            return None
        held = self._storage.read_json(key)
        self._shards.restore(self._problem, self._weights(place, held["step"]))
        held["potentials"] = _potentials_of(held["potentials"])
        held["trace"] = tuple(Step(**step) for step in held["trace"])
        return Note(**held)

    def note(self, place: int, note: Note) -> None:
        """Keep a note, and the shards' weights with it."""
        metrics.sinkhorn_error(note.potentials.marginal_error)
        weights = self._weights(place, note.step)
        self._shards.save(self._problem, weights)
        held = {**vars(note), "potentials": _jsonable(note.potentials), "trace": [asdict(step) for step in note.trace]}
        self._storage.write_json(f"{self._at(place)}/last.json", held)
        for key in list(self._storage.keys(self._at(place))):
            if "/step-" in key and not key.startswith(weights):
                self._storage.delete(key)

    def _at(self, place: int) -> str:
        return f"{self._prefix}/point-{place:03d}"

    def _weights(self, place: int, step: int) -> str:
        return f"{self._at(place)}/step-{step:05d}"


def _jsonable(potentials: Potentials) -> dict[str, Any]:
    return {**vars(potentials), "g_M": potentials.g_M.tolist()}


def _potentials_of(held: Mapping[str, Any]) -> Potentials:
    from evoray.alignment.sinkhorn import Potentials

    return Potentials(**{**held, "g_M": np.asarray(held["g_M"], dtype=np.float64)})


def _delete(storage: Storage, prefix: str, but: str = "") -> None:
    for key in list(storage.keys(prefix)):
        if key != but:
            storage.delete(key)
