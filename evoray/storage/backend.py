"""The storage seam: atomic whole-object reads and writes under one root, local or in a bucket.

Everything evoray keeps goes through this class. It is a thin layer over `obstore` (the Rust
object_store library), whose "create" mode is a true put-if-absent on a local disk (hard link) and
on object stores (conditional PUT). A rename would overwrite silently, so it is never used to commit.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError
from obstore.store import LocalStore, from_url

from evoray.errors import ConfigError, StorageError, first_line
from evoray.storage.overlap import overlapped

_LARGEST_PUT = 1 << 30  # bytes
_UNREADABLE = ("az://", "abfs", "adl://", "azure://")  # obstore knows them, pyarrow's URIs do not
UNDER_WAY = 32  # requests to a bucket at a time, of one process
_BODY_ATTEMPTS = 4  # at one object whose answer breaks off; requests themselves are repeated by obstore


class Storage:
    """Objects named by `/`-separated keys under a root URI. Picklable: it travels as its URI.

    `uri` is a local path (relative ones are made absolute in the process that builds the object,
    so that workers with other working directories agree), or `file://`, `s3://`, `gs://`.
    Credentials of buckets come from the environment, never from the URI.
    """

    def __init__(self, uri: str | Path) -> None:
        text = str(uri)
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        try:
            if text.startswith(_UNREADABLE):
                raise ValueError("what is written there cannot be read as a pool or training data")
            if "://" in text:
                self.uri = text.rstrip("/")
                self._store: Any = from_url(self.uri)
            else:
                path = Path(text).expanduser().absolute()
                self.uri = str(path)
                self._store = LocalStore(path, mkdir=True)
        except (OSError, ValueError, BaseError) as error:
            raise ConfigError(
                f"storage at {text}: {first_line(error)}",
                "a folder that can be created and written, or an s3:// or gs:// URI",
                "choose another place or mend its permissions",
            ) from error

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.uri,)

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine (or a shared file system)."""
        return "://" not in self.uri

    @property
    def width(self) -> int:
        """How many requests may be under way at a time: several to a bucket, whose answers take their time."""
        return 1 if self.is_local else UNDER_WAY

    def location(self, key: str) -> str:
        """The full path or URI of a key, for messages and for other programs."""
        return f"{self.uri}/{key}"

    def child(self, prefix: str) -> Storage:
        """The storage rooted at a key prefix below this one."""
        return Storage(self.location(prefix))

    def exists(self, key: str) -> bool:
        """Whether an object of this name is there."""
        try:
            with self._answering(key, "looked up", FileNotFoundError):
                obstore.head(self._store, key)
        except FileNotFoundError:
            return False
        return True

    def read(self, key: str) -> bytes:
        """The whole object. Raises StorageError where there is none."""
        try:
            with self._answering(key, "read", FileNotFoundError):
                return self._whole(key)
        except FileNotFoundError as error:
            raise StorageError(
                f"no object {self.location(key)}",
                "an object written by an earlier stage",
                "run the stage that writes it again, or restore the file",
            ) from error

    def _whole(self, key: str) -> bytes:
        for _ in range(_BODY_ATTEMPTS - 1):
            answer = obstore.get(self._store, key)
            with suppress(GenericError):  # the connection broke in the middle
                return bytes(answer.bytes())
        return bytes(obstore.get(self._store, key).bytes())

    def write(self, key: str, data: bytes) -> None:
        """Write or replace the whole object at once: readers see the old bytes or the new ones."""
        self._put(key, data, "overwrite")

    def create(self, key: str, data: bytes) -> bool:
        """Put-if-absent: False if another object was there already, True if the object now holds these bytes.

        A put whose answer was lost on the way is repeated, and then meets its own object: only the bytes tell that from
        another writer's. Writers that must know which of them was first write bytes of their own.
        """
        try:
            self._put(key, data, "create")
        except AlreadyExistsError:
            return not self.is_local and self.read(key) == data
        return True

    def _put(self, key: str, data: bytes, mode: Literal["create", "overwrite"]) -> None:
        with self._answering(key, "written", AlreadyExistsError):
            # Object stores bound a single put; a conditional one cannot come in parts, and is small.
            parts = mode == "overwrite" and len(data) > _LARGEST_PUT and not self.is_local
            obstore.put(self._store, key, data, mode=mode, use_multipart=parts)

    @contextmanager
    def _answering(self, key: str, done: str, *answers: type[Exception]) -> Iterator[None]:
        """Turn whatever the storage raises into a StorageError, but for answers that the caller asks for."""
        try:
            yield
        except answers:
            raise
        except (OSError, ValueError, BaseError) as error:  # ValueError: a key that is no path below the root
            raise StorageError(
                f"{self.location(key)} cannot be {done}: {first_line(error)}",
                "storage with room that answers, and the permission to use it",
                "mend that; then the same command goes on",
            ) from error

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with suppress(FileNotFoundError), self._answering(key, "deleted", FileNotFoundError):
            obstore.delete(self._store, key)

    def delete_each(self, keys: Iterable[str]) -> None:
        """Remove objects, as `delete`."""
        for _ in overlapped(self.delete, keys, self.width):
            pass

    def clear(self, prefix: str) -> None:
        """Remove every object below a prefix; on a disk its folders too."""
        self.delete_each(self.keys(prefix))
        if self.is_local and Path(self.location(prefix)).is_dir():
            shutil.rmtree(self.location(prefix))

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Every key below a prefix (a folder name, without the closing slash), sorted."""
        found = self._sizes(prefix)
        # Other programs (Ray Train is one) leave empty objects in a bucket that stand for folders.
        empty = {key for key, size in found.items() if not size}
        if empty:
            empty &= {"", *(str(parent) for key in found for parent in PurePosixPath(key).parents)}
        yield from sorted(found.keys() - empty)

    def size(self, prefix: str = "", suffix: str = "") -> int:
        """Bytes of all objects below a prefix whose names end so."""
        return sum(size for key, size in self._sizes(prefix).items() if key.endswith(suffix))

    def _sizes(self, prefix: str) -> dict[str, int]:
        found: dict[str, int] = {}
        with self._answering(prefix, "listed"):
            for batch in obstore.list(self._store, prefix or None):
                found |= {str(entry["path"]): int(entry["size"]) for entry in batch}
        return found

    def read_json(self, key: str) -> Any:
        """A JSON object. Raises StorageError where there is none, or something else."""
        try:
            return json.loads(self.read(key))
        except (ValueError, RecursionError) as error:
            raise self._damaged(key, error) from error

    def write_json(self, key: str, value: Any, *, sort_keys: bool = True) -> None:
        """Write or replace a JSON object (with sorted keys, equal values give equal bytes)."""
        self.write(key, json_bytes(value, sort_keys=sort_keys))

    def create_json(self, key: str, value: Any) -> bool:
        """Put-if-absent of a JSON object."""
        return self.create(key, json_bytes(value))

    def read_table(self, key: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet object as a table, all columns or the named ones. Raises StorageError where it is none."""
        try:
            return table_from_bytes(self.read(key), columns)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(key, error) from error

    def _damaged(self, key: str, error: BaseException) -> StorageError:
        return StorageError(
            f"{self.location(key)}: {type(error).__name__}: {first_line(error)}",
            "an object as evoray wrote it",
            "restore it, or delete it and what depends on it; the same command then makes it again",
        )

    def write_table(self, key: str, table: pa.Table) -> None:
        """Write or replace a Parquet object."""
        self.write(key, table_to_bytes(table))


def json_bytes(value: Any, *, sort_keys: bool = True) -> bytes:
    """Canonical JSON: sorted keys, UTF-8, a closing newline. NaN and infinity are refused."""
    return (json.dumps(value, sort_keys=sort_keys, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()


def table_to_bytes(table: pa.Table) -> bytes:
    """A table as one Parquet file (zstd)."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def table_from_bytes(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """The inverse of `table_to_bytes`."""
    return pq.read_table(pa.BufferReader(data), columns=columns)
