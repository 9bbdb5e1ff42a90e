"""The page on notebooks, run as a notebook runs it: every cell, and what its last line shows."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import ray.data

from evoray.engine.session import Session
from evoray.engine.unseen import Scored
from evoray.single import Selection
from tests import pages
from tests.source_tree import ROOT

PAGE = ROOT / "docs" / "guides" / "notebook.md"


def run_cells(page: Path, names: dict[str, Any]) -> list[Any]:
    """Run all blocks of Python in one namespace; the value of each that ends with an expression."""
    shown = []
    for block in pages.blocks(page.read_text(encoding="utf-8"), "python"):
        cell = ast.parse(block)
        last = cell.body.pop() if isinstance(cell.body[-1], ast.Expr) else None
        exec(compile(cell, page.name, "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), page.name, "eval"), names))
    return shown


@pytest.mark.ray
@pytest.mark.slow
def test_every_cell_of_the_page_runs_and_rows_come_back_in_the_kind_of_table_that_was_given(
    ray_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    choice, rows, facts, polars, later, exported = run_cells(PAGE, names)
    assert isinstance(choice, Selection)
    assert all(one.startswith("sum-") for one in choice.ids), "the target is arithmetic"
    assert f'<td dir="auto">{choice.path}</td>' in choice._repr_html_().replace(' class="long"', "")
    assert isinstance(rows, pd.DataFrame)
    assert [f"sum-{place}" for place in rows.index] == list(choice.ids)
    assert facts["id"].to_list() == list(choice.ids)
    assert facts["evoray_nearest"].str.startswith("target-").all()
    kinds = {"polars": pl.DataFrame, "arrow": pa.Table, "datasets": datasets.Dataset, "ray": ray.data.Dataset}
    chosen = names["chosen"]
    assert {name: type(table) for name, table in chosen.items()} | {"ray": ray.data.Dataset} == kinds
    assert isinstance(chosen["ray"], ray.data.Dataset)
    expected = polars["id"].to_list()
    assert len(expected) == 10
    assert chosen["arrow"]["id"].to_pylist() == expected
    assert list(chosen["datasets"]["id"]) == expected
    assert [row["id"] for row in chosen["ray"].take_all()] == expected
    assert isinstance(names["scored"], Scored)
    assert later["id"].to_list() == ["later-sum", "later-tale"], "the lowest potential first"
    lines = [json.loads(line) for line in Path(exported.path).read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == list(choice.ids)
