"""Where stages work and what they work on: a site, a source of rows, and fingerprints of their content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from evoray.engine.events import Events
from evoray.engine.session import Session
from evoray.engine.workers import KeptRows, PoolRows, TargetRows
from evoray.records import Row
from evoray.storage import Storage


def fingerprint(**parts: Any) -> str:
    """16 hex digits over JSON values: equal inputs have equal names, in every process."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a stage works: the storage of its results, the actors it may use, and whom it tells."""

    storage: Storage
    session: Session
    events: Events


@dataclass(frozen=True, kw_only=True)
class Source:
    """Rows in units, read by whoever needs them, with the fingerprint of their content."""

    rows: PoolRows | KeptRows | TargetRows
    units: tuple[int, ...]
    identity: str

    def read(self) -> list[Row]:
        """All rows, in order: of a source that is known to be small."""
        return [row for unit in self.units for row in self.rows.read(unit)]
