"""What a selection works from: the proxy, its features of pool and target, or features made elsewhere."""

from __future__ import annotations

from typing import Any

from evoray.config import FeatureConfig, LoraConfig
from evoray.engine.choose import Goal
from evoray.engine.external import open_features, read_all
from evoray.engine.shards import StoredTiles, TileSource
from evoray.engine.stages import (
    Checkpoint,
    Features,
    Pool,
    Site,
    featurise,
    open_target,
    read_features,
    warm_up_adapter,
)
from evoray.models.folder import Folder
from evoray.pool import split_dev


def ready_proxy(
    model: str,
    identity: str,
    features: FeatureConfig,
    lora: LoraConfig,
    seed: int,
    pool: Pool,
    site: Site,
) -> Checkpoint:
    """The model whose gradients are features: with the adapter of the config, or with one warmed up on the pool."""
    if features.adapter is not None:
        adapter = Folder.at(features.adapter)
    else:
        adapter = warm_up_adapter(pool, model, identity, lora, features, seed, site)
    return Checkpoint.of(model, identity, adapter)


def pool_features(
    pool: Pool,
    model: str,
    identity: str,
    features: FeatureConfig,
    lora: LoraConfig,
    seed: int,
    site: Site,
) -> tuple[Checkpoint, Features]:
    """A proxy and its features of a pool; only what is not committed yet is computed."""
    proxy = ready_proxy(model, identity, features, lora, seed, pool, site)
    found = featurise("pool", pool.source, proxy, features, seed, site)
    return proxy, found


def external_goal(path: str, seed: int) -> tuple[list[str], Goal]:
    """Target features that were computed before: a seeded half to aim at, the other to choose lambda on."""
    ids, rows_MD = read_all(open_features(path))
    align, validate = split_dev(len(ids), seed)
    return [ids[index] for index in align], Goal(align_MD=rows_MD[align], validate_MD=rows_MD[validate])


def gradient_goal(
    pool: Pool,
    target: str,
    model: str,
    identity: str,
    features: FeatureConfig,
    lora: LoraConfig,
    seed: int,
    site: Site,
) -> tuple[TileSource, list[str], Goal]:
    """Gradient features of a pool, the ids of the target's align rows, and what to aim at. Raises TargetError."""
    splits = {split: open_target(target, split, seed, 64) for split in ("align", "validate")}
    proxy, found = pool_features(pool, model, identity, features, lora, seed, site)
    rows: dict[str, Any] = {}
    for name, split in splits.items():
        rows[name] = read_features(featurise(name, split.source, proxy, features, seed, site))
    ids, align_MD = rows["align"]
    goal = Goal(align_MD=align_MD, validate_MD=rows["validate"][1], weights_M=splits["align"].weights_of(ids))
    return StoredTiles(store=found.store, units=found.units), ids, goal
