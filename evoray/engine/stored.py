"""Features in storage, and what the driver reads of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evoray.engine.shards import matrix_of
from evoray.storage import Storage, UnitStore

#: The source of candidates; all other sources of features are rows of the target.
POOL = "pool"


@dataclass(frozen=True, kw_only=True)
class Features:
    """Committed features of a pool or of a target split."""

    fingerprint: str
    raw: str  # fingerprint of the features as the model gave them: the same unless they were centred
    store: UnitStore
    units: tuple[int, ...]

    @classmethod
    def of(cls, storage: Storage, record: Mapping[str, Any]) -> Features:
        """The features that a round's record names."""
        identity = record["fingerprint"]
        store = UnitStore(storage, f"features/{identity}")
        return cls(fingerprint=identity, raw=record["raw"], store=store, units=tuple(record["units"]))

    def record(self) -> dict[str, Any]:
        """What `of` reads."""
        return {"fingerprint": self.fingerprint, "raw": self.raw, "units": list(self.units)}

    @property
    def rows(self) -> int:
        """Rows of all units."""
        commits = self.store.commits()
        return sum(commits[unit].rows for unit in self.units)


def read_features(features: Features) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Ids and unit rows [M, D] of a target's features: small enough for the driver."""
    tables = features.store.tables(features.units, ["id", "feature"])
    table = pa.concat_tables(table for table in tables if table.num_rows)
    return table["id"].to_pylist(), matrix_of(table)
