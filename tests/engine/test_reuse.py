"""A pool that grew: features of its old rows are taken over, those of the new ones alone are computed."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evoray import featurize
from evoray.config import ClusterConfig, FeatureConfig, LoraConfig, PoolConfig
from evoray.engine.session import Session
from evoray.pipeline import Featurised
from evoray.storage import Storage, UnitStore

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def featurised(pool: Path, model: Path, out: Path, **settings: object) -> Featurised:
    config = FeatureConfig(representation="hidden_mean", max_tokens=96, **settings)
    return featurize(
        str(pool), str(model), str(out), features=config, lora=LoraConfig(rank=2), reading=PoolConfig(unit_rows=16),
        cluster=ClusterConfig(workers=1),
    )  # fmt: skip


def reused(found: Featurised) -> list[bool]:
    folder = Path(found.path)
    store = UnitStore(Storage(folder.parent.parent), f"features/{folder.name}")
    return ["reused" in commit.facts for commit in store.commits().values()]


def table(found: Featurised) -> dict[str, list[float]]:
    rows = pq.read_table(found.path, columns=["id", "feature"])
    return dict(zip(rows["id"].to_pylist(), rows["feature"].to_pylist(), strict=True))


def test_only_the_new_rows_of_a_grown_pool_are_featurised(
    ray_session: Session, task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    pool, out = tmp_path / "pool", tmp_path / "out"
    pool.mkdir()
    lines = (task / "pool.jsonl").read_text().splitlines(keepends=True)[:40]
    (pool / "a.jsonl").write_text("".join(lines[:32]))
    small = featurised(pool, tiny_model_dir, out)
    assert reused(small) == [False, False]
    (pool / "b.jsonl").write_text("".join(lines[32:]))
    grown = featurised(pool, tiny_model_dir, out)
    assert grown.path != small.path
    assert reused(grown) == [True, True, False]
    alone = featurised(pool, tiny_model_dir, tmp_path / "alone")
    assert table(grown) == table(alone)
    # Features of another kind have nothing in common with these; a store that is gone is no source.
    assert not any(reused(featurised(pool, tiny_model_dir, out, batch_tokens=128)))
    for file in Path(small.path).iterdir():
        file.unlink()
    (pool / "c.jsonl").write_text(lines[0].replace("{", '{"id": "again", ', 1))
    assert not any(reused(featurised(pool, tiny_model_dir, out))[:2])
