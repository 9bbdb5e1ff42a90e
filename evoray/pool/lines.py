"""Walking line formats with byte positions, the same way when a pool is planned and when it is read.

A row is a non-blank line (JSONL) or a record (CSV). Lines end at a newline byte only, so that exotic
line separators inside a text never cut a row in two.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

from evoray.errors import PoolError

#: Python's default limit of 128 KiB a cell is below the longest text that a pool row may hold.
_CELL_LIMIT = 1 << 27
#: Bytes of one line. A compressed file of a few kilobytes can hold one of any length; none is read whole.
LINE_LIMIT = 1 << 26
_CHUNK = 1 << 20
_BOM = b"\xef\xbb\xbf"


def json_lines(stream: BinaryIO, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Each row as (byte offset, line), from a byte offset at which a line starts.

    Of a line that is longer than LINE_LIMIT only the beginning is given, one byte longer than the limit.
    """
    stream.seek(offset)
    while line := stream.readline(LINE_LIMIT + 1):
        if line.strip():
            yield offset, line.removeprefix(_BOM) if offset == 0 else line
        offset += len(line) + _skip_rest(line, stream)


def _skip_rest(line: bytes, stream: BinaryIO) -> int:
    """Bytes up to the end of a line of which the beginning was read."""
    skipped = 0
    while len(line) > _CHUNK and not line.endswith(b"\n") and (line := stream.readline(_CHUNK + 1)):
        skipped += len(line)
    return skipped


class _CountedLines:
    """Decoded lines for the csv module, which reads ahead no further than the record it returns."""

    def __init__(self, stream: BinaryIO, file: str, offset: int) -> None:
        self._stream, self._file = stream, file
        self.consumed = offset

    def __iter__(self) -> _CountedLines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(LINE_LIMIT + 1)
        if not line:
            raise StopIteration
        if len(line) > LINE_LIMIT:
            raise PoolError(
                f"{self._file}: a line of more than {LINE_LIMIT >> 20} MiB at byte {self.consumed}",
                "a CSV file with lines of at most that length",
                "write the file with a newline behind each record",
            )
        if self.consumed == 0:
            self.consumed = len(line)
            line = line.removeprefix(_BOM)
        else:
            self.consumed += len(line)
        # Bytes that are not UTF-8 survive as lone surrogates: one row is then refused, not the file.
        return line.decode("utf-8", errors="surrogateescape")


def csv_records(stream: BinaryIO, file: str, offset: int = 0) -> Iterator[tuple[int, list[str] | str]]:
    """Each record as (byte offset, cells), the header included; a broken one as (byte offset, what is wrong).

    Raises PoolError where a quoted cell is still open at the end of the file: all lines after its quote
    would else pass for one row.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _CELL_LIMIT))
    stream.seek(offset)
    lines = _CountedLines(stream, file, offset)
    reader = csv.reader(lines, strict=True)
    while True:
        start = lines.consumed
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise PoolError(
                    f"{file}: the quoted cell that begins in the record at byte {start} never ends",
                    "a complete CSV file whose quotes are closed",
                    "close the quote there (a quote inside a cell is written twice), or copy the file again",
                ) from error
            yield start, str(error)
            continue
        if cells:
            yield start, cells


def csv_header(records: Iterator[tuple[int, list[str] | str]], file: str) -> list[str] | None:
    """Take the header off; None where the file is empty. Raises PoolError where it is broken or repeats a name."""
    first = next(records, None)
    if first is None:
        return None
    names = first[1]
    if isinstance(names, str) or len(set(names)) < len(names) or any(not _is_utf8(name) for name in names):
        raise PoolError(
            f"{file}: header {names!r}", "one line of distinct UTF-8 column names", "correct the file's first line"
        )
    return names


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
