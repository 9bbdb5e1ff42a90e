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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from evoray.errors import StorageError
from evoray.storage.backend import Storage, table_from_bytes, table_to_bytes
from evoray.storage.overlap import overlapped

_FILE = re.compile(r"unit-\d{6,}\.[0-9a-f]+\.parquet")  # a record names a file beside it, and none elsewhere
TABLES = 16  # that are read at a time: unlike records, they may be large
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

    def committed(self) -> list[int]:
        """The numbers of all committed units, in order: a listing, and no record is read."""
        found = (_COMMIT.match(key.removeprefix(self.prefix + "/")) for key in self.storage.keys(self.prefix))
        return sorted(int(match.group(1)) for match in found if match)

    def commits(self) -> dict[int, UnitCommit]:
        """Every committed unit by number, in order."""
        numbers = self.committed()
        return dict(zip(numbers, overlapped(self.find, numbers, self.storage.width), strict=True))

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

    def tables(self, units: Iterable[int], columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The tables of committed units in this order; several are read at a time. Raises as `find` and `read`."""
        width = min(self.storage.width, TABLES)
        return overlapped(lambda unit: self.read(self.find(unit), columns), units, width)
