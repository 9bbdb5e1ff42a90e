"""A pool that grew: features of its old rows are taken over, those of the new ones alone are computed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from evoray import featurize
from evoray.config import ClusterConfig, FeatureConfig, LoraConfig, PoolConfig
from evoray.engine.session import Session
from evoray.single import Featurised
from evoray.storage import Storage, UnitStore

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def featurised(pool: Path, model: Path, out: Path, **settings: object) -> Featurised:
    config = FeatureConfig(representation="hidden_mean", max_tokens=96, **settings)
    return featurize(
        str(pool), str(model), str(out), features=config, lora=LoraConfig(rank=2), reading=PoolConfig(unit_rows=16),
        cluster=ClusterConfig(workers=1),
    )  # fmt: skip


def store_of(found: Featurised) -> UnitStore:
    folder = Path(found.path)
    return UnitStore(Storage(folder.parent.parent), f"features/{folder.name}")


def reused(found: Featurised) -> list[bool]:
    return ["reused" in commit.facts for commit in store_of(found).commits().values()]


def rows_of(found: Featurised) -> dict[str, list[float]]:
    store = store_of(found)
    table = pa.concat_tables([store.read(commit) for commit in store.commits().values()])
    return dict(zip(table["id"].to_pylist(), table["feature"].to_pylist(), strict=True))


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
    assert rows_of(grown) == rows_of(alone)
    # Features of another kind have nothing in common with these.
    assert not any(reused(featurised(pool, tiny_model_dir, out, batch_tokens=128)))


@pytest.mark.soak
def test_a_store_that_is_gone_is_no_source(
    ray_session: Session, task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    pool, out = tmp_path / "pool", tmp_path / "out"
    pool.mkdir()
    (pool / "a.jsonl").write_text((task / "pool.jsonl").read_text())
    first = featurised(pool, tiny_model_dir, out)
    for file in Path(first.path).iterdir():
        file.unlink()
    (pool / "b.jsonl").write_text('{"instruction": "9+9?", "output": "18"}\n')
    assert not any(reused(featurised(pool, tiny_model_dir, out)))
