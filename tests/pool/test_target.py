from __future__ import annotations

import json
from pathlib import Path

import pytest

from evoray.errors import TargetError
from evoray.pool import find_target, read_target_split, split_dev
from tests.pool.builders import samples, write, write_lines


def ids(path: Path, split: str, seed: int = 0) -> list[str]:
    return [row.id for row in read_target_split(str(path), split, seed)[0]]  # type: ignore[arg-type]


@pytest.mark.parametrize("n_rows", [2, 3, 10, 201])
def test_the_halves_of_dev_share_nothing_and_miss_nothing(n_rows: int) -> None:
    align, validate = split_dev(n_rows, 7)
    assert sorted(align + validate) == list(range(n_rows))
    assert len(align) - len(validate) == n_rows % 2
    assert (align, validate) == (sorted(align), sorted(validate))
    assert split_dev(n_rows, 7) == (align, validate)


def test_another_seed_splits_dev_otherwise() -> None:
    assert split_dev(50, 0) != split_dev(50, 1)


def test_one_file_is_dev_and_is_split(tmp_path: Path) -> None:
    path = tmp_path / "anything.csv"
    write(path, samples(5))
    assert find_target(str(path)).dev == str(path)
    align, validate = ids(path, "align"), ids(path, "validate")
    assert len(align) == 3
    assert sorted(align + validate) == [f"r{index}" for index in range(5)]
    with pytest.raises(TargetError, match="no test split"):
        ids(path, "test")


def test_a_relative_path_finds_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "dev.jsonl", samples(2))
    monkeypatch.chdir(tmp_path)
    assert find_target(".") == find_target(f"file://{tmp_path}/") == find_target(str(tmp_path))
    assert find_target("dev.jsonl").dev == str(tmp_path / "dev.jsonl")


def test_each_split_is_read_without_touching_the_other_files(tmp_path: Path) -> None:
    write(tmp_path / "dev.parquet", samples(4))
    (tmp_path / "test.parquet").write_bytes(b"damaged")
    assert len(ids(tmp_path, "align")) == 2
    with pytest.raises(TargetError, match=r"test\.parquet"):
        ids(tmp_path, "test")
    write(tmp_path / "test.parquet", samples(3))
    (tmp_path / "dev.parquet").write_bytes(b"damaged")
    assert len(ids(tmp_path, "test")) == 3


def test_files_of_their_own_keep_dev_whole(tmp_path: Path) -> None:
    write(tmp_path / "dev.jsonl", samples(4))
    write(tmp_path / "validate.jsonl", samples(1))
    assert (len(ids(tmp_path, "align")), len(ids(tmp_path, "validate"))) == (4, 1)
    write(tmp_path / "align.jsonl", samples(2))
    (tmp_path / "dev.jsonl").unlink()
    assert (len(ids(tmp_path, "align")), len(ids(tmp_path, "validate"))) == (2, 1)


def test_files_in_folders_below_are_not_splits(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    write(tmp_path / "old" / "test.jsonl", samples(2))
    write(tmp_path / "dev.jsonl", samples(2))
    assert find_target(str(tmp_path)).test is None


def test_unusable_rows_are_returned_and_do_not_count_for_the_split(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "dev.jsonl", ['{"text": "a"}', "oops", '{"text": ""}', '{"text": "b"}'])
    rows, refused = read_target_split(path, "align", 0)
    assert len(rows) == 1
    assert [(record.row, record.reason) for record in refused] == [(1, "not valid JSON"), (2, "empty response")]


def test_what_is_no_target_is_a_target_error(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no such file"):
        find_target(str(tmp_path / "absent"))
    with pytest.raises(TargetError, match="holds nothing"):
        find_target(str(tmp_path))
    write(tmp_path / "test.jsonl", samples(2))
    with pytest.raises(TargetError, match="add a dev file"):
        find_target(str(tmp_path))
    write(tmp_path / "dev.jsonl", samples(1))
    with pytest.raises(TargetError, match="1 usable dev rows"):
        ids(tmp_path, "align")
    write(tmp_path / "dev.csv", samples(1))
    with pytest.raises(TargetError, match="both"):
        find_target(str(tmp_path))
    with pytest.raises(TargetError, match="'train'"):
        ids(tmp_path, "train")


def test_a_split_without_a_usable_row_says_why(tmp_path: Path) -> None:
    write(tmp_path / "dev.jsonl", samples(2))
    write_lines(tmp_path / "test.jsonl", ["oops"])
    with pytest.raises(TargetError, match="no usable row"):
        ids(tmp_path, "test")


def test_rows_of_one_id_are_told_apart(tmp_path: Path) -> None:
    """As in files that were put together and each count from 0: weights and subtasks are looked up by id."""
    ids = ["0", "1", "0", "0@2", "0", "1"]
    lines = [{"id": one, "instruction": f"q{place}", "output": "a"} for place, one in enumerate(ids)]
    path = tmp_path / "task.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    splits = [read_target_split(str(path), "align", 0)[0], read_target_split(str(path), "validate", 0)[0]]
    found = {row.messages[0].content: row.id for rows in splits for row in rows}
    assert [found[f"q{place}"] for place in range(6)] == ["0", "1", "0@3", "0@2", "0@4", "1@2"]
