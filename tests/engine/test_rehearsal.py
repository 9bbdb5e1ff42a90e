"""What a rehearsal is given, and the rows that a selection is measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evoray.budget import Budget
from evoray.config import RunConfig
from evoray.engine.rehearsal import Drawn, RepeatedTiles, draw_here, rehearsed_config
from evoray.engine.shards import matrix_of
from evoray.pool import read_target_split
from evoray.storage import Storage

DRAWN = Drawn(
    pool_rows=10_000,
    drawn_rows=256,
    read_rows=260.0,
    units=157,
    unit_seconds=0.02,
    characters=400.0,
    splits={"align": (300, 48), "validate": (20, 20)},
)


def rehearsed(tmp_path: Path, workers: int = 2, **settings: Any) -> RunConfig:
    config = RunConfig.model_validate({"pool": "p.jsonl", "target": "t", "out": str(tmp_path / "run"), **settings})
    return rehearsed_config(config, DRAWN, Storage(tmp_path / "rehearsal"), workers)


def test_what_a_few_rows_cannot_meet_is_left_out(tmp_path: Path) -> None:
    selection = {"k": 500, "shares": {"web": [0.2, 0.5]}, "max_share": 0.6}
    training = {"on_harm": "roll_back", "batch_size": 8, "epochs": 2}
    small = rehearsed(tmp_path, selection=selection, training=training, rounds=5, patience=1, labels="l.parquet")
    assert (small.selection.shares, small.selection.max_share) == ({}, None)
    assert (small.training.on_harm, small.patience, small.labels) == ("flag", None, None)
    assert small.rounds == 2
    assert small.selection.k == 12 * 8 // 2, "twelve steps"
    assert small.selection.k * small.rounds <= DRAWN.drawn_rows // 2


def test_a_budget_in_tokens_stays_one(tmp_path: Path) -> None:
    small = rehearsed(tmp_path, selection={"k": "100000tok", "selector": "random"}, rounds=1)
    # 48 rows (twelve steps of eight over two epochs) of 400 characters, four a token.
    assert Budget.of(small.selection.k).tokens == 48 * 100


@pytest.mark.parametrize(("workers", "rows"), [(2, 64), (4, 32), (100, 4)])
def test_units_are_the_run_s_own_where_each_worker_has_two(workers: int, rows: int, tmp_path: Path) -> None:
    assert rehearsed(tmp_path, workers).reading.unit_rows == rows


def test_tiles_of_many_rows_out_of_few() -> None:
    given_ND = np.random.default_rng(0).standard_normal((10, 8)).astype(np.float32)
    given_ND /= np.linalg.norm(given_ND, axis=1, keepdims=True)
    tiles = RepeatedTiles(rows_ND=given_ND, rows=50, tile_rows=16)
    assert tiles.count() == 4
    tables = [tiles.read(tile, ["source", "quality", "tokens", "norm"]) for tile in range(4)]
    assert [table.num_rows for table in tables] == [16, 16, 16, 2]
    rows_ND = np.concatenate([matrix_of(table) for table in tables])
    assert np.allclose(rows_ND[:10], given_ND, atol=1e-6)
    assert np.allclose(np.linalg.norm(rows_ND, axis=1), 1, atol=1e-5)
    assert len(np.unique(rows_ND.round(5), axis=0)) == 50
    alike_N = (rows_ND * given_ND[np.arange(50) % 10]).sum(axis=1)
    assert alike_N.min() > 0.8 and alike_N[10:].max() < 1, "of the given ones, with noise"
    assert tables[1].equals(tiles.read(1, ["source", "quality", "tokens", "norm"]))
    ids = [row_id for table in tables for row_id in table["id"].to_pylist()]
    assert len(set(ids)) == 50


def test_rows_are_drawn_from_all_over_the_pool_and_no_test_row_is_shown(task: Path, tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "pool": str(task / "pool.jsonl"),
            "target": str(task / "target"),
            "reading": {"unit_rows": 8, "max_chars": 1000},
        }
    )
    storage = Storage(tmp_path)
    drawn = draw_here(config, str(task / "pool.jsonl"), 48, storage)
    pool_rows = len((task / "pool.jsonl").read_text().splitlines())
    assert (drawn.pool_rows, drawn.units) == (pool_rows, -(-pool_rows // 8))
    assert drawn.drawn_rows >= 48 and drawn.read_rows >= drawn.drawn_rows
    assert drawn.unit_seconds > 0 and drawn.characters > 0
    written = {
        split: read_target_split(str(tmp_path / "target"), split, 0)[0] for split in ("align", "validate", "test")
    }
    real = {split: read_target_split(str(task / "target"), split, 0)[0] for split in ("align", "validate", "test")}
    assert drawn.splits["test"] == (len(real["test"]), len(written["test"]))
    assert {row.messages for row in written["test"]} <= {row.messages for row in real["validate"]}
    assert not {row.id for row in written["test"]} & {row.id for row in written["validate"]}, (
        "or it is not scored again"
    )
