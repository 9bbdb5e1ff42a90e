"""Finding and opening pool files: one naming for local paths and buckets, one error for all that goes wrong.

A file is named by its absolute path or by `scheme://bucket/key`. Names are never percent-decoded: what
a listing returns can be opened again as it stands.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import pyarrow as pa
from pyarrow import fs as pafs

from evoray.errors import PoolError

FORMATS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
}
#: Book-keeping of a saved Hugging Face dataset, which lies beside its Arrow shards.
_STATE_FILES = frozenset({"state.json", "dataset_info.json", "dataset_dict.json"})
_BUFFER = 1 << 20
_ACCEPTED = ".parquet, .arrow, .jsonl, .ndjson, .json (one object a line) or .csv; .gz behind the last four"


@contextmanager
def readable(file: str) -> Iterator[None]:
    """Turn whatever a damaged or missing file raises while it is read into a PoolError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise PoolError(f"{file}: no such file", "a file that exists", "correct the path") from error
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise PoolError(
            f"{file}: {type(error).__name__}: {error}",
            f"a complete, readable {format_of(file) or 'pool'} file",
            "check permissions and whether the file was cut off while it was copied, then write it again",
        ) from error


def format_of(file: str) -> str | None:
    """The format that a file's name stands for, None where it is not a supported one."""
    name = PurePosixPath(file.lower())
    if name.suffix != ".gz":
        return FORMATS.get(name.suffix)
    inner = FORMATS.get(PurePosixPath(name.stem).suffix)
    return inner if inner in ("jsonl", "csv") else None


def expand(path: str | Sequence[str]) -> list[str]:
    """The files behind files, folders and globs: sorted within each path given, every file once.

    Folders are searched to their depth; hidden files, unsupported suffixes and the state and cache
    files of saved Hugging Face datasets are left out there. Raises PoolError where a path leads to nothing.
    """
    paths = [path] if isinstance(path, str) else list(path)
    if not paths:
        raise PoolError("an empty list of paths", "at least one file, folder or glob", "name the pool's files")
    found: dict[str, None] = {}
    for one in paths:
        found.update(dict.fromkeys(_expand_one(os.fspath(one))))
    return list(found)


def full_name(path: str) -> str:
    """The name under which `expand` knows a path. Links are kept: their targets may lack the suffix."""
    scheme, mark, rest = path.partition("://")
    if mark and scheme != "file":
        return path.rstrip("/")
    return os.path.normpath(Path(rest if mark else path).expanduser().absolute())


def open_native(file: str, *, mmap: bool = False) -> Any:
    """A seekable `pyarrow.NativeFile` over the raw bytes; with `mmap`, a memory map where the file is local."""
    system, _, inner = _locate(file, mmap)
    return system.open_input_file(inner)


@contextmanager
def open_bytes(file: str) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file, seekable (forward only at a fair price where it is gzip)."""
    with open_native(file) as native, io.BufferedReader(native, _BUFFER) as raw:
        if not file.lower().endswith(".gz"):
            yield cast(BinaryIO, raw)
            return
        with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked, io.BufferedReader(unpacked, _BUFFER) as stream:
            yield cast(BinaryIO, stream)


@cache
def _filesystem(scheme: str, bucket: str, mmap: bool) -> Any:
    if not scheme:
        return pafs.LocalFileSystem(use_mmap=mmap)
    return pafs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]


def _locate(name: str, mmap: bool = False) -> tuple[Any, str, str]:
    """The file system, the prefix that turns its paths into names of ours, and the path within it."""
    scheme, mark, rest = full_name(name).partition("://")
    if not mark:
        return _filesystem("", "", mmap), "", scheme
    try:
        return _filesystem(scheme, rest.partition("/")[0], False), f"{scheme}://", rest
    except (pa.ArrowException, ValueError, OSError) as error:
        raise PoolError(
            f"{name}: {error}",
            "a local path, or a bucket as s3:// or gs:// that this machine may read",
            "correct the address, and give credentials through the environment",
        ) from error


def _expand_one(name: str) -> list[str]:
    system, prefix, inner = _locate(name)
    with readable(name):
        kind = system.get_file_info([inner])[0].type
        if kind == pafs.FileType.File:
            return [prefix + _supported(inner)]
        if kind == pafs.FileType.Directory:
            return [prefix + file for file in _files_below(system, inner, name)]
        if not any(mark in inner for mark in "*?["):
            raise PoolError(f"{name}: no such file or folder", "a path that exists", "correct the path")
        return [prefix + file for file in _matches(system, inner, name)]


def _supported(inner: str) -> str:
    if format_of(inner) is None:
        raise PoolError(f"{inner}: an unsupported suffix", _ACCEPTED, "convert the file or give it its proper suffix")
    return inner


def _files_below(system: Any, folder: str, name: str) -> list[str]:
    if isinstance(system, pafs.LocalFileSystem):
        files = sorted(_local_files(folder))
    else:
        entries = system.get_file_info(pafs.FileSelector(folder, recursive=True))
        files = sorted(entry.path for entry in entries if entry.type == pafs.FileType.File)
    usable = [file for file in files if _belongs(file[len(folder) :].strip("/"))]
    if not usable:
        shown = ", ".join(PurePosixPath(file).name for file in files[:5]) or "nothing"
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        raise PoolError(f"{name}: a folder that holds {shown}{more}", _ACCEPTED, "name the folder of the pool's files")
    return usable


def _local_files(folder: str) -> Iterator[str]:
    """Files to any depth, but for hidden folders. Links are followed, but no folder is entered twice."""
    entered = set()
    for root, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        real = os.path.realpath(root)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        for name in names:
            path = Path(root, name)
            if path.is_file():  # what else may be there, a pipe say, would never end
                yield str(path)
            elif path.is_symlink() and not path.exists() and _belongs(name):
                raise PoolError(
                    f"{path}: a link to {path.readlink()}, which is not there",
                    "links that lead to files",
                    "restore the file or remove the link",
                )


def _raise(error: OSError) -> None:
    raise error


def _belongs(relative: str) -> bool:
    parts = relative.split("/")
    if any(part.startswith(".") for part in parts) or parts[-1] in _STATE_FILES:
        return False
    is_cache = parts[-1].startswith("cache-") and parts[-1].endswith(".arrow")
    return format_of(relative) is not None and not is_cache


def _matches(system: Any, pattern: str, name: str) -> list[str]:
    parts = pattern.split("/")
    plain = next(index for index, part in enumerate(parts) if any(mark in part for mark in "*?["))
    base = "/".join(parts[:plain]) or "/"
    found: list[str] = []
    for entry in sorted(_glob(system, base, parts[plain:]), key=lambda entry: str(entry.path)):
        if entry.type == pafs.FileType.Directory:
            found.extend(_files_below(system, entry.path, entry.path))
        elif entry.type != pafs.FileType.Unknown and _belongs(entry.path[len(base) :].strip("/")):
            found.append(entry.path)
    if not found:
        raise PoolError(f"{name}: matches no supported file", _ACCEPTED, "correct the pattern")
    return found


def _glob(system: Any, folder: str, pattern: list[str]) -> list[Any]:
    """Entries below a folder that match glob parts; `**` stands for any number of folders."""
    deep = pattern[0] == "**"
    if deep and isinstance(system, pafs.LocalFileSystem):
        entries = system.get_file_info(list(_local_files(folder)))
    else:
        entries = system.get_file_info(pafs.FileSelector(folder, recursive=deep, allow_not_found=True))
    if deep:
        files = [entry for entry in entries if entry.type == pafs.FileType.File]
        start = len(folder.rstrip("/").split("/"))
        return [entry for entry in files if _match_parts(entry.path.split("/")[start:], pattern)]
    matching = [entry for entry in entries if fnmatchcase(entry.base_name, pattern[0])]
    if len(pattern) == 1:
        return matching
    folders = [entry for entry in matching if entry.type == pafs.FileType.Directory]
    return [found for entry in folders for found in _glob(system, entry.path, pattern[1:])]


def _match_parts(parts: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_match_parts(parts[skip:], pattern[1:] or ["*"]) for skip in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _match_parts(parts[1:], pattern[1:])
