"""The cascade on tiny data: what it keeps, what it says it lost, and that keeping all of it changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from evoray import select
from evoray.config import FeatureConfig, LoraConfig, SelectionConfig
from evoray.engine.session import Session
from evoray.pipeline import Selection

pytestmark = [pytest.mark.ray, pytest.mark.slow]

K, ROWS = 5, 60
SELECTION = SelectionConfig(steps=4, lam=0.3, r=0.5)


def choose(task: Path, model: Path, out: Path, k: int = K, **features: Any) -> Selection:
    settings = {"dim": 64, "max_tokens": 96, "warmup": {"rows": 8, "threads": 1}, **features}
    selection = features.pop("selection", SELECTION)
    settings.pop("selection", None)
    return select(
        str(task / "pool.jsonl"), str(task / "target"), str(model), k, str(out), features=FeatureConfig(**settings),
        lora=LoraConfig(rank=2), selection=selection,
    )  # fmt: skip


def test_a_cascade_keeps_what_aligns_best_and_measures_what_it_loses(
    ray_session: Session, task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    chosen = choose(task, tiny_model_dir, tmp_path / "run", cascade={"keep": 3, "recall_rows": 30})
    (facts,) = (
        event
        for event in map(json.loads, (tmp_path / "run" / "events.jsonl").read_text().splitlines())
        if event["event"] == "cascade"
    )
    ranking = SelectionConfig(energy="none", lam=0.0, r=0.5)
    cheap = choose(task, tiny_model_dir, tmp_path / "cheap", 3 * K, representation="rds", selection=ranking)
    assert set(chosen.ids) <= set(cheap.ids)
    assert (facts["kept"], facts["representation"]) == (3 * K, "rds")
    kept = {len(pq.read_table(path)) for path in (tmp_path / "run" / "kept").iterdir()}
    assert kept == {3 * K, 30}
    recall = facts["recall"]
    wanted = round(K * 30 / ROWS)
    assert (recall["rows"], recall["wanted"], recall["kept"]) == (30, wanted, 3 * wanted)
    assert 0 <= recall["found"] <= wanted


def test_a_cascade_that_keeps_the_whole_pool_chooses_as_if_there_were_none(
    ray_session: Session, task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    plain = choose(task, tiny_model_dir, tmp_path / "plain", centred=True)
    whole = choose(
        task, tiny_model_dir, tmp_path / "whole", centred=True, cascade={"keep": 1 + ROWS // K, "recall_rows": 0}
    )
    assert whole.ids == plain.ids
    assert choose(task, tiny_model_dir, tmp_path / "plain", centred=False).ids != plain.ids
