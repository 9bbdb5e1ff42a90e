"""Files of junk and damage: never a traceback, never a hang, never a lost good row, and a reason for each bad one."""

from __future__ import annotations

import gzip
import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evoray.errors import PoolError
from evoray.models.chat import encode
from evoray.pool import load_rows, normalise, plan_units, read_span, rows_from_table, write_quarantine_table
from evoray.pool.lines import LINE_LIMIT
from evoray.records import Row
from tests.faults.corpus import Case, cases
from tests.processes import MemoryGrowth
from tests.tiny import tiny_tokenizer

_SECONDS = 60  # for one file of some kilobytes, on a machine that does other things too
FILES = 2000


@contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """Fail where the block does not end."""

    def late(*_: object) -> None:
        raise AssertionError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read(path: Path, unit_rows: int) -> list[Row]:
    """The usable rows; every other one has a place and a reason of its own, and can be written down."""
    rows: list[Row] = []
    for span in plan_units(str(path), unit_rows):
        raw, broken = read_span(span)
        table, unusable = normalise(raw, span)
        refused = [*broken, *unusable]
        assert table.num_rows + len({record.row for record in refused}) == span.rows
        assert all(record.reason for record in refused)
        pq.write_table(write_quarantine_table(refused), io.BytesIO())
        pq.write_table(table, io.BytesIO())
        rows += rows_from_table(table)
    return rows


def check(case: Case, folder: Path) -> None:
    path = folder / case.name
    path.write_bytes(case.data)
    try:
        rows = read(path, 3)
    except PoolError as error:
        assert not case.good, f"good rows in {case.name}, and: {error}"
        return
    finally:
        whole = path.rename(folder / f"last-{case.name}")
    kept = {row.id: (row.messages[0].content, row.messages[-1].content) for row in rows}
    missing = {row_id: parts for row_id, parts in case.good.items() if kept.get(row_id) != parts}
    assert not missing, (case.name, missing)
    assert [row.id for row in load_rows(str(whole))[0]] == [row.id for row in rows]
    encode(rows, tiny_tokenizer(), 64)


@pytest.mark.parametrize("seed", range(10))
def test_any_file_ends_in_rows_quarantine_or_an_error_that_says_what_to_do(seed: int, tmp_path: Path) -> None:
    for number, case in enumerate(cases(seed, FILES // 10)):
        try:
            with bounded(_SECONDS):
                check(case, tmp_path)
        except Exception as error:
            kept = tmp_path / f"failing-{case.name}"
            kept.write_bytes(case.data)
            raise AssertionError(f"seed {seed}, file {number} ({kept}): {type(error).__name__}: {error}") from error


GOOD = b'{"id": "good", "instruction": "question", "output": "response"}'


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.jsonl"])
def test_a_line_without_an_end_is_never_read_whole(name: str, tmp_path: Path) -> None:
    data = b"\n".join([GOOD, b"a" * (4 * LINE_LIMIT), GOOD.replace(b"good", b"last")])
    path = tmp_path / name
    path.write_bytes(gzip.compress(data, 1) if name.endswith(".gz") else data)
    del data
    with MemoryGrowth() as memory:
        rows, refused = load_rows(str(path))
    assert ([row.id for row in rows], [record.reason for record in refused]) == (["good", "last"], ["too long"])
    assert memory.megabytes < 2.5 * LINE_LIMIT / 2**20


def test_a_csv_line_without_an_end_is_an_error_that_says_where(tmp_path: Path) -> None:
    path = tmp_path / "pool.csv.gz"
    path.write_bytes(gzip.compress(b"instruction,output\na,b\n" + b"x" * (LINE_LIMIT + 1), 1))
    with pytest.raises(PoolError, match="more than 64 MiB at byte 23"):
        load_rows(str(path))


def test_a_text_of_ten_megabytes_costs_its_row_only(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_bytes(b"\n".join([GOOD, b'{"text": "' + b"y" * 10**7 + b'"}']))
    rows, refused = load_rows(str(path))
    assert ([row.id for row in rows], [record.reason for record in refused]) == (["good"], ["too long"])
    assert len(refused[0].detail) < 200


def test_links_in_a_folder_are_followed_once_or_refused(tmp_path: Path) -> None:
    """To a file outside (as in a download cache); into a circle; to nowhere."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "blob").write_bytes(GOOD)
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "a.jsonl").symlink_to(tmp_path / "outside" / "blob")
    assert [row.id for row in load_rows(str(pool))[0]] == ["good"]
    (pool / "circle").symlink_to(pool)
    (pool / "real").mkdir()
    (pool / ".hidden").symlink_to(pool / "real")
    (pool / "real" / "b.jsonl").write_bytes(GOOD.replace(b"good", b"deeper"))
    os.mkfifo(pool / "pipe.jsonl")
    with bounded(_SECONDS):
        assert [row.id for row in load_rows(str(pool))[0]] == ["good", "deeper"]
        assert [row.id for row in load_rows(f"{pool}/*.jsonl")[0]] == ["good"]
        assert [row.id for row in load_rows(f"{pool}/**/*.jsonl")[0]] == ["good", "deeper"]
    (pool / "b.jsonl").symlink_to(tmp_path / "nowhere")
    with bounded(_SECONDS), pytest.raises(PoolError, match=r"b\.jsonl"):
        load_rows(str(pool))


def test_files_of_different_columns_make_one_pool(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD + b'\n{"text": "plain", "weight": 2, "source": null}')
    (tmp_path / "b.csv").write_text("prompt,completion,weight,quality\nask,tell,1.5,\n")
    table = {"messages": [[{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]], "source": [7]}
    pq.write_table(pa.table(table), tmp_path / "c.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "d.parquet")
    (tmp_path / "e.jsonl").write_bytes(b"")
    rows, refused = load_rows(str(tmp_path))
    assert [(len(row.messages), row.weight) for row in rows] == [(2, 1.0), (1, 2.0), (2, 1.5), (2, 1.0)]
    assert not refused
