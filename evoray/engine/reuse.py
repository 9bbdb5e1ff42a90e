"""Features of rows that were featurised before, found by what the rows are and not by the pool that they came in.

A pool that grows has another fingerprint, and so has its feature store; most of its units are the old ones all the
same. Beside the stores lies one small record for each unit's content: where its features are. A record may be written
before its unit is committed, and then leads nowhere: a unit without a commit is computed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from evoray.engine.units import UnitResult
from evoray.errors import StorageError
from evoray.records import Row
from evoray.storage import UnitStore

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Known:
    """Units of features by content, for one proxy and one way of taking features of it."""

    store: UnitStore  # where this pass commits its own units
    settings: str  # fingerprint of all that features depend on beside the rows

    def find(self, rows: Sequence[Row], unit: int) -> UnitResult | None:
        """Features of the same rows from another store; None where there are none, and `unit` is what is known now.

        A unit that set rows aside is not reused: its reasons lie in the quarantine of the other pass.
        """
        storage, key = self.store.storage, f"known/{self.settings}/{_content(rows)}.json"
        here = {"prefix": self.store.prefix, "unit": unit}
        if storage.create_json(key, here):
            return None
        place = storage.read_json(key)
        other = UnitStore(storage, place["prefix"])
        try:
            commit = other.find(place["unit"])
            if not commit.facts["quarantined"]:
                return UnitResult(table=other.read(commit), facts={**commit.facts, "reused": place["prefix"]})
        except StorageError as error:  # not committed, or deleted or damaged since
            _LOG.info("features are computed anew: %s", error)
        storage.write_json(key, here)
        return None


def _content(rows: Sequence[Row]) -> str:
    return hashlib.sha256(json.dumps([asdict(row) for row in rows], sort_keys=True).encode()).hexdigest()[:32]
