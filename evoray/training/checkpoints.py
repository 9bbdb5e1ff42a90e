"""Checkpoints of a training: what it goes on from when a worker, a machine or the driver is lost.

A checkpoint holds whole tensors, gathered from all ranks, so that another number of workers can go on from it, and
nothing in it has to be unpickled. Its files are written first and its record last: a checkpoint without a record, or
whose files are not those of the record, does not exist.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evoray.models.folder import Folder
from evoray.storage import Storage

_RECORD = re.compile(r"step-(\d{6,})\.json$")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training is."""

    step: int = 0  # optimiser steps that are done
    first_loss: float | None = None  # of the first step
    last_loss: float | None = None
    tokens: int = 0  # unpadded tokens of all rows seen, over all ranks
    best_step: int | None = None  # of the lowest validate loss, where early stopping looks at it
    best_loss: float | None = None
    worse: int = 0  # looks in a row that were not better


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one training below a key prefix. Picklable."""

    storage: Storage
    prefix: str
    identity: str  # of what is trained on what: checkpoints of anything else are not seen

    def save(self, files: Path, progress: Progress) -> None:
        """Write the files of a local folder as the checkpoint of `progress.step`, and its record when all are there."""
        folder = self.folder(progress.step)
        folder.upload(files)
        hashes = {path.name: _sha256(path.read_bytes()) for path in sorted(files.iterdir()) if path.is_file()}
        record = {"identity": self.identity, "progress": asdict(progress), "files": hashes}
        self.storage.write_json(f"{self.prefix}/{_name(progress.step)}.json", record)

    def folder(self, step: int) -> Folder:
        """Where the files of a checkpoint are."""
        return Folder(storage=self.storage, prefix=f"{self.prefix}/{_name(step)}")

    def latest(self, below: int | None = None) -> Progress | None:
        """The progress of the newest whole checkpoint (of a step below a given one), or None."""
        return next(self._whole(below), None)

    def keep(self, steps: set[int]) -> None:
        """Delete all checkpoints but those of some steps; a record goes before its files."""
        for step in set(self._steps()) - steps:
            self.storage.delete(f"{self.prefix}/{_name(step)}.json")
        for key in list(self.storage.keys(self.prefix)):
            if key.removeprefix(f"{self.prefix}/").partition("/")[0].partition(".")[0] not in map(_name, steps):
                self.storage.delete(key)

    def _steps(self) -> list[int]:
        found = (_RECORD.match(key.removeprefix(f"{self.prefix}/")) for key in self.storage.keys(self.prefix))
        return sorted((int(match.group(1)) for match in found if match), reverse=True)

    def _whole(self, below: int | None) -> Iterator[Progress]:
        for step in self._steps():
            found = self.find(step) if below is None or step < below else None
            best = None if found is None else found.best_step
            if found is not None and (best in (None, step) or self.find(best) is not None):
                yield found

    def find(self, step: int) -> Progress | None:
        """The progress of the checkpoint of one step; None where it is not there, not whole, or of another training."""
        key, folder = f"{self.prefix}/{_name(step)}.json", self.folder(step)
        record: dict[str, Any] = self.storage.read_json(key) if self.storage.exists(key) else {}
        if record.get("identity") != self.identity:
            return None
        whole = all(
            folder.has(name) and _sha256(folder.read(name)) == digest for name, digest in record["files"].items()
        )
        return Progress(**record["progress"]) if whole else None


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
