"""Unit store: tables that many workers write once each, with commit records.

A unit is a fixed span of rows with a number. A worker writes `unit-000123.<attempt>.parquet`, then
the commit record `unit-000123.json` by put-if-absent: the first commit wins, whoever lost deletes its
own attempt, and a file without a commit record is never read. Killing a worker at any point loses at
most the unit in its hands.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from evoray.errors import StorageError
from evoray.storage.backend import Storage, table_from_bytes, table_to_bytes

_FILE = re.compile(r"unit-\d{6,}\.[0-9a-f]+\.parquet")  # a record names a file beside it, and none elsewhere
_COMMIT = re.compile(r"^unit-(\d{6,})\.json$")


@dataclass(frozen=True, kw_only=True)
class UnitCommit:
    """What is known of a finished unit: enough to verify it and to count rows without reading it."""

    unit: int
    file: str
    sha256: str
    rows: int
    facts: Mapping[str, Any] = field(default_factory=dict)  # stage-specific, JSON values


class UnitStore:
    """Committed units below one key prefix of a storage. Picklable."""

    def __init__(self, storage: Storage, prefix: str) -> None:
        self.storage = storage
        self.prefix = prefix

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    def commit(self, unit: int, table: pa.Table, facts: Mapping[str, Any] | None = None) -> UnitCommit:
        """Write one unit and commit it; where it was committed already, return that commit."""
        data = table_to_bytes(table)
        name = f"unit-{unit:06d}.{uuid.uuid4().hex[:12]}.parquet"
        record = UnitCommit(
            unit=unit,
            file=name,
            sha256=hashlib.sha256(data).hexdigest(),
            rows=table.num_rows,
            facts=dict(facts or {}),
        )
        self.storage.write(self._key(name), data)
        if self.storage.create_json(self._key(f"unit-{unit:06d}.json"), asdict(record)):
            return record
        self.storage.delete(self._key(name))
        return self.find(unit)

    def find(self, unit: int) -> UnitCommit:
        """The commit record of one unit. Raises StorageError if it is not committed."""
        key = self._key(f"unit-{unit:06d}.json")
        found = self.storage.read_json(key)
        try:
            commit = UnitCommit(**found)
            if commit.unit != unit or not _FILE.fullmatch(commit.file):
                raise ValueError(f"unit {commit.unit!r}, file {commit.file!r}")
        except (TypeError, ValueError) as error:
            raise StorageError(
                f"{self.storage.location(key)}: {error}",
                "the commit record of this unit",
                "delete it to have the unit computed again",
            ) from error
        return commit

    def commits(self) -> dict[int, UnitCommit]:
        """Every committed unit by number, in order."""
        numbers = []
        for key in self.storage.keys(self.prefix):
            match = _COMMIT.match(key.removeprefix(self.prefix + "/"))
            if match:
                numbers.append(int(match.group(1)))
        return {number: self.find(number) for number in sorted(numbers)}

    def read(self, commit: UnitCommit, columns: list[str] | None = None) -> pa.Table:
        """The table of a committed unit, checked against its hash. Raises StorageError if it differs."""
        data = self.storage.read(self._key(commit.file))
        found = hashlib.sha256(data).hexdigest()
        if found != commit.sha256:
            raise StorageError(
                f"{self.storage.location(self._key(commit.file))} with SHA-256 {found}",
                f"the committed content, SHA-256 {commit.sha256}",
                "the file was changed after it was written: delete its commit record "
                f"(unit-{commit.unit:06d}.json) to have the unit computed again",
            )
        return table_from_bytes(data, columns)
