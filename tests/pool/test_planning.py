from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from evoray.errors import PoolError
from evoray.pool import files, find_target, plan_units, pool_fingerprint, read_span
from tests.pool.builders import samples, write, write_lines

NAMES = ["a.parquet", "a.arrow", "a.file.arrow", "a.jsonl", "a.ndjson", "a.json", "a.csv", "a.jsonl.gz", "a.csv.gz"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("unit_rows", [1, 3, 5, 11, 100])
def test_spans_together_are_the_whole_file_whatever_the_unit_size(name: str, unit_rows: int, tmp_path: Path) -> None:
    rows = samples(11)
    spans = plan_units(write(tmp_path / name, rows), unit_rows)
    assert [span.unit for span in spans] == list(range(-(-11 // unit_rows)))
    assert max(span.rows for span in spans) <= unit_rows
    read = []
    for span in spans:
        table, refused = read_span(span)
        assert table.column("__row").to_pylist() == list(range(span.start, span.start + span.rows))
        assert not refused
        read += table.drop_columns(["__row"]).to_pylist()
    assert read == rows


def test_units_are_numbered_across_files_in_sorted_order(tmp_path: Path) -> None:
    write(tmp_path / "b.csv", samples(3))
    write(tmp_path / "a.parquet", samples(2))
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "c.jsonl", samples(1))
    spans = plan_units(str(tmp_path), 2)
    assert [(span.unit, Path(span.file).name, span.start, span.rows) for span in spans] == [
        (0, "a.parquet", 0, 2),
        (1, "b.csv", 0, 2),
        (2, "b.csv", 2, 1),
        (3, "c.jsonl", 0, 1),
    ]
    assert spans == plan_units(f"file://{tmp_path}", 2)


def test_folders_leave_out_hidden_files_notes_and_the_book_keeping_of_saved_datasets(tmp_path: Path) -> None:
    write(tmp_path / "data-00000-of-00001.arrow", samples(2))
    write(tmp_path / "cache-0123.arrow", samples(2))
    write(tmp_path / ".hidden.jsonl", samples(2))
    (tmp_path / ".git").mkdir()
    write(tmp_path / ".git" / "x.jsonl", samples(2))
    for name in ("state.json", "dataset_info.json", "README.md"):
        (tmp_path / name).write_text("{}")
    assert [Path(span.file).name for span in plan_units(str(tmp_path), 9)] == ["data-00000-of-00001.arrow"]


def test_globs_match_files_folders_and_any_depth(tmp_path: Path) -> None:
    for folder in ("x", "y", "y/z"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "part.jsonl", samples(1))
        write(tmp_path / folder / "part.csv", samples(1))

    def found(pattern: str) -> list[str]:
        return [str(Path(span.file).relative_to(tmp_path)) for span in plan_units(str(tmp_path / pattern), 9)]

    assert found("*/part.jsonl") == ["x/part.jsonl", "y/part.jsonl"]
    assert found("**/*.csv") == ["x/part.csv", "y/part.csv", "y/z/part.csv"]
    assert found("[x]") == ["x/part.csv", "x/part.jsonl"]
    assert found("y/**") == ["y/part.csv", "y/part.jsonl", "y/z/part.csv", "y/z/part.jsonl"]


def test_several_paths_keep_their_order_and_name_a_file_once(tmp_path: Path) -> None:
    first, second = write(tmp_path / "z.jsonl", samples(1)), write(tmp_path / "a.jsonl", samples(1))
    spans = plan_units([first, str(tmp_path), second], 9)
    assert [span.file for span in spans] == [first, second]


def test_a_name_with_glob_marks_that_exists_is_taken_as_it_stands(tmp_path: Path) -> None:
    assert plan_units(write(tmp_path / "a[1] %20#.jsonl", samples(1)), 9)[0].rows == 1


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [b"\xef\xbb\xbf" + b'{"text": "a"}', "", "  ", '{"text": "b"}', ""])
    spans = plan_units(path, 1)
    assert [span.rows for span in spans] == [1, 1]
    assert [read_span(span)[0].column("text").to_pylist() for span in spans] == [["a"], ["b"]]
    csv_path = write_lines(tmp_path / "a.csv", [b"\xef\xbb\xbftext,source", "a,x", "", "b,y"])
    tables = [read_span(span)[0] for span in plan_units(csv_path, 1)]
    assert [table.column("text").to_pylist() for table in tables] == [["a"], ["b"]]


def test_empty_files_are_passed_over_while_others_hold_rows(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.csv"):
        (tmp_path / name).write_bytes(b"")
    write(tmp_path / "c.jsonl", samples(1))
    assert [span.rows for span in plan_units(str(tmp_path), 9)] == [1]


def damaged(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-20])
    return str(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.file.arrow", "a.jsonl.gz", "a.csv.gz"])
def test_a_file_cut_off_is_a_pool_error_that_names_it(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, samples(50))
    with pytest.raises(PoolError, match=name):
        plan_units(damaged(tmp_path / name), 10)


def test_an_arrow_stream_cut_inside_a_batch_is_a_pool_error(tmp_path: Path) -> None:
    write(tmp_path / "a.arrow", samples(50))
    data = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(data[: len(data) // 2])
    with pytest.raises(PoolError, match=r"a\.arrow"):
        plan_units(str(tmp_path / "a.arrow"), 10)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.jsonl.gz"])
def test_a_file_of_another_format_than_its_name_is_a_pool_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=name):
        plan_units(write_lines(tmp_path / name, ["not such a file at all"]), 10)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "x", "unsupported suffix"),
        ("a.parquet.gz", "x", "unsupported suffix"),
        ("a.jsonl", "", "no rows"),
        ("a.csv", "text,source\n", "no rows"),
        ("a.json", '[\n{"text": "a"}\n]', "JSON array"),
        ("a.csv", 'text\n"open\nand on\n', "never ends"),
        ("a.csv", "text,text\na,b\n", "header"),
    ],
)
def test_what_holds_no_readable_rows_is_a_pool_error(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PoolError, match=said):
        plan_units(str(tmp_path / name), 10)


def test_a_path_that_leads_nowhere_is_a_pool_error(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="no such file or folder"):
        plan_units(str(tmp_path / "absent"), 10)
    with pytest.raises(PoolError, match="matches no supported file"):
        plan_units(str(tmp_path / "*.jsonl"), 10)
    with pytest.raises(PoolError, match="empty list"):
        plan_units([], 10)
    with pytest.raises(PoolError, match="nosuch://"):
        plan_units("nosuch://bucket/x.jsonl", 10)
    with pytest.raises(PoolError, match="0 rows a unit"):
        plan_units(str(tmp_path), 0)


def test_a_folder_without_pool_files_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(PoolError, match=r"holds notes\.txt"):
        plan_units(str(tmp_path), 10)


def test_the_fingerprint_follows_content_and_not_place_or_time(tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    here = pool_fingerprint(plan_units(write(tmp_path / "a.jsonl", samples(3)), 2))
    there = pool_fingerprint(plan_units(write(tmp_path / "moved" / "a.jsonl", samples(3)), 3))
    assert here == there
    assert len(here) == 64
    changed = samples(3)
    changed[2]["output"] = "Number 2 x x"
    assert pool_fingerprint(plan_units(write(tmp_path / "a.jsonl", changed), 2)) != here
    assert pool_fingerprint(plan_units(write(tmp_path / "b.jsonl", samples(3)), 2)) != here


def test_gzip_offsets_count_decompressed_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", samples(4))
    lines = gzip.decompress(Path(path).read_bytes()).splitlines(keepends=True)
    assert [span.offset for span in plan_units(path, 1)] == [sum(map(len, lines[:count])) for count in range(4)]


def test_a_bucket_is_planned_read_and_named_by_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bucket" / "pool"
    folder.mkdir(parents=True)
    for name in NAMES:
        write(folder / name, samples(3))
    write(folder / "dev.jsonl", samples(2))
    bucket = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    monkeypatch.setattr(files, "_filesystem", lambda scheme, name, mmap: bucket)
    spans = plan_units("s3://bucket/pool/", 2)
    assert [span.file for span in spans[::2]] == [f"s3://bucket/pool/{name}" for name in sorted([*NAMES, "dev.jsonl"])]
    assert all(read_span(span)[0].num_rows == span.rows for span in spans)
    assert {span.file for span in plan_units("s3://bucket/*/a.csv*", 9)} == {
        "s3://bucket/pool/a.csv",
        "s3://bucket/pool/a.csv.gz",
    }
    assert len(pool_fingerprint(spans)) == 64
    assert find_target("s3://bucket/pool").dev == "s3://bucket/pool/dev.jsonl"
