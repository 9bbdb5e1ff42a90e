"""The cascade and centring on tiny data: what is kept, what it is said to lose, and what centred features are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from evoray import select
from evoray.config import ClusterConfig, FeatureConfig, LoraConfig, PoolConfig, SelectionConfig
from evoray.engine.session import Session
from evoray.single import Selection
from evoray.storage import Storage, UnitStore

pytestmark = [pytest.mark.ray, pytest.mark.slow]

K, ROWS = 5, 60
SELECTION = SelectionConfig(steps=4, lam=0.3, r=0.5)


def choose(task: Path, model: Path, out: Path, k: int = K, **features: Any) -> Selection:
    """A selection in `out`, where earlier ones left what they have in common."""
    selection = features.pop("selection", SELECTION)
    settings = {"dim": 64, "max_tokens": 96, "preconditioning": "none", "warmup": {"rows": 8, "threads": 1}, **features}
    return select(
        str(task / "pool.jsonl"), str(task / "target"), str(model), k, str(out), features=FeatureConfig(**settings),
        lora=LoraConfig(rank=2), selection=selection.model_copy(update={"shards": 1}), reading=PoolConfig(unit_rows=32),
        cluster=ClusterConfig(workers=1),
    )  # fmt: skip


def test_a_cascade_chooses_among_what_the_cheap_features_align_best(
    ray_session: Session, task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    chosen = choose(task, tiny_model_dir, tmp_path, representation="hidden_mean", cascade={"keep": 3, "recall_rows": 0})
    ranking = SelectionConfig(energy="none", lam=0.0, r=0.5)
    cheap = choose(task, tiny_model_dir, tmp_path, 3 * K, representation="rds", selection=ranking)
    assert len(chosen.ids) == K and set(chosen.ids) <= set(cheap.ids)


@pytest.mark.soak
def test_a_cascade_measures_what_it_loses(
    ray_session: Session, task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    chosen = choose(task, tiny_model_dir, out, cascade={"keep": 3, "recall_rows": 30})
    events = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    (facts,) = (event for event in events if event["event"] == "cascade")
    ranking = SelectionConfig(energy="none", lam=0.0, r=0.5)
    cheap = choose(task, tiny_model_dir, out, 3 * K, representation="rds", selection=ranking)
    assert set(chosen.ids) <= set(cheap.ids)
    assert (facts["kept"], facts["representation"]) == (3 * K, "rds")
    assert {len(pq.read_table(path)) for path in (out / "kept").iterdir()} == {3 * K, 30}
    recall, wanted = facts["recall"], round(K * 30 / ROWS)
    assert (recall["rows"], recall["wanted"], recall["kept"]) == (30, wanted, 3 * wanted)
    assert 0 <= recall["found"] <= wanted


@pytest.mark.soak
def test_a_cascade_that_keeps_the_whole_pool_chooses_as_if_there_were_none(
    ray_session: Session, task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    whole = choose(task, tiny_model_dir, tmp_path, cascade={"keep": 1 + ROWS // K, "recall_rows": 0})
    assert whole.ids == choose(task, tiny_model_dir, tmp_path).ids


def test_centred_features_are_those_of_the_pool_without_their_mean(
    ray_session: Session, task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    choose(task, tiny_model_dir, tmp_path, representation="hidden_mean", centred=True)
    stores = [rows_of(folder) for folder in (tmp_path / "features").iterdir()]
    # Raw rows all point one way; the other store of the pool's size is the centred one.
    pool, raw = sorted((rows for rows in stores if len(rows) == ROWS), key=lambda rows: np.linalg.norm(rows.mean(0)))
    expected = raw - raw.mean(0)
    np.testing.assert_allclose(pool, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-4)


def rows_of(folder: Path) -> Any:
    """Features of a store, in the order of units."""
    store = UnitStore(Storage(folder.parent.parent), f"features/{folder.name}")
    tables = [store.read(commit, ["feature"]) for commit in store.commits().values()]
    return np.concatenate([np.array(table["feature"].to_pylist()) for table in tables])
