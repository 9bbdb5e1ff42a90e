"""Pools in memory, of every library that is known: the same rows reach the workers, and come back as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data

from evoray import select
from evoray.config import ClusterConfig
from evoray.engine.frames import POSITION, as_path, chosen_rows
from evoray.engine.session import Session
from evoray.errors import PoolError
from tests.pool.test_plain import UNION

ROWS = [
    {"instruction": f"How much is {n} and {n}?", "output": str(2 * n), "tag": n % 3, "extra": [n, n + 1]}
    for n in range(30)
]
#: Places that no order of rows would give by itself.
PLACES = [7, 2, 29]

MAKERS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "pandas": lambda rows: pd.DataFrame(rows, index=[f"row {n}" for n in range(len(rows))]),
    "polars": pl.DataFrame,
    "pyarrow": pa.Table.from_pylist,
    "datasets": datasets.Dataset.from_list,
}


def as_rows(frame: Any) -> list[dict[str, Any]]:
    if isinstance(frame, pd.DataFrame):
        return [{**row, "extra": list(row["extra"])} for row in frame.to_dict("records")]
    if isinstance(frame, pl.DataFrame):
        return frame.to_dicts()
    if isinstance(frame, pa.Table):
        return frame.to_pylist()
    return list(frame)


@pytest.mark.parametrize("library", MAKERS)
def test_a_table_becomes_a_file_and_its_chosen_rows_a_table_again(library: str, tmp_path: Path) -> None:
    frame = MAKERS[library](ROWS)
    path = as_path(frame, tmp_path)
    written = pq.read_table(path)
    kept = written.select([name for name in written.column_names if not name.startswith("__")])
    assert kept.to_pylist() == ROWS
    assert written[POSITION].to_pylist() == list(range(30))
    assert as_path(MAKERS[library](ROWS), tmp_path) == path, "named by its content"
    assert as_path(MAKERS[library](ROWS[1:]), tmp_path) != path
    chosen = chosen_rows(frame, written.take(PLACES))
    assert type(chosen) is type(frame)
    assert as_rows(chosen) == [ROWS[place] for place in PLACES]


def test_an_index_of_pandas_stays() -> None:
    frame = MAKERS["pandas"](ROWS)
    chosen = chosen_rows(frame, pa.table({POSITION: PLACES}))
    assert list(chosen.index) == ["row 7", "row 2", "row 29"]


def test_a_dataset_with_chosen_rows_and_a_format_is_taken_as_it_is_seen(tmp_path: Path) -> None:
    frame = datasets.Dataset.from_list(ROWS).select(range(10, 20)).with_format("numpy")
    path = as_path(frame, tmp_path)
    assert pq.read_table(path)["output"].to_pylist() == [row["output"] for row in ROWS[10:20]]


def test_paths_stay_what_they_are(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert as_path(Path("a") / "b.jsonl", out) == "a/b.jsonl"
    assert as_path(["a.jsonl", Path("b.jsonl")], out) == ("a.jsonl", "b.jsonl")
    assert not out.exists()


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        (3, "builtins.int"),
        ({"train": []}, "builtins.dict"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}), "choose one split"),
        (pa.table({"text": pa.array([], pa.string())}), "without rows"),
        (pa.table({POSITION: [1]}), "rename"),
        (pd.DataFrame({"text": ["a", 3]}), "columns of one type each"),
        (datasets.Dataset.from_list(ROWS).to_iterable_dataset(), "collect what is lazy"),
        (pl.LazyFrame(ROWS), "collect what is lazy"),
        (pd.Series(["a"]), "pandas.*Series"),
        (ROWS, "builtins.list"),
        (b"pool.jsonl", "builtins.bytes"),
        (None, "builtins.NoneType"),
    ],
)
def test_what_cannot_be_read_is_refused(pool: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=said):
        as_path(pool, tmp_path)
    assert not list(tmp_path.iterdir())


def test_columns_that_parquet_cannot_hold_are_kept_as_json(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS[:3]).append_column("more", UNION)
    assert pq.read_table(as_path(table, tmp_path))["more"].to_pylist() == ["1", '"x"', '"y"']


def test_a_class_that_derives_from_a_table_is_one(tmp_path: Path) -> None:
    class Mine(pd.DataFrame):
        pass

    assert as_path(Mine(ROWS), tmp_path) == as_path(pd.DataFrame(ROWS), tmp_path)


@pytest.mark.ray
def test_blocks_of_a_ray_dataset_are_written_in_their_order(ray_session: Session, tmp_path: Path) -> None:
    rows = [{"instruction": str(n), "output": "a", "note": None if n < 20 else "late"} for n in range(40)]
    paths = {as_path(ray.data.from_items(rows, override_num_blocks=8), tmp_path) for _ in range(3)}
    assert len(paths) == 1
    assert pq.read_table(paths.pop())["note"].to_pylist() == [None] * 20 + ["late"] * 20


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("library", ["pandas", "ray"])
def test_select_gives_back_what_it_was_given(library: str, ray_session: Session, tmp_path: Path) -> None:
    frame = ray.data.from_items(ROWS) if library == "ray" else MAKERS[library](ROWS)
    cluster = ClusterConfig(workers=1)
    found = select(frame, None, None, 5, str(tmp_path / "choice"), selector="random", cluster=cluster)
    again = select(frame, None, None, 5, str(tmp_path / "choice"), selector="random", cluster=cluster)
    assert (again.ids, len(found.ids)) == (found.ids, 5)
    selected = pq.read_table(found.path)
    if library == "ray":
        assert isinstance(found.rows, ray.data.Dataset)
        rows = [{**row, "extra": list(row["extra"])} for row in found.rows.take_all()]
        assert set(rows[0]) == set(ROWS[0])
    else:
        rows = as_rows(found.rows)
    assert [row["output"] for row in rows] == selected["output"].to_pylist()
    assert all(row in ROWS for row in rows)


def test_select_from_a_file_gives_no_rows(ray_session: Session, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "pool.parquet")
    found = select(
        tmp_path / "pool.parquet", None, None, 2, str(tmp_path / "choice"), selector="random",
        cluster=ClusterConfig(workers=1),
    )  # fmt: skip
    assert found.rows is None
