"""What a selection aims at: features of a target, or features made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from evoray.config import FeatureConfig, LoraConfig
from evoray.engine.cascade import Cascade, prune
from evoray.engine.choose import Goal
from evoray.engine.external import open_features, read_all
from evoray.engine.featurise import featurise
from evoray.engine.pools import Pool
from evoray.engine.potentials import Recipe
from evoray.engine.proxy import cheap_proxy, ready_proxy
from evoray.engine.shards import StoredTiles, TileSource
from evoray.engine.site import Site
from evoray.engine.stages import open_target
from evoray.engine.stored import POOL, read_features
from evoray.pool import split_dev


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What is selected from, and what for."""

    source: TileSource
    goal: Goal | None = None  # None: the selector aims at nothing
    target_ids: tuple[str, ...] = ()  # of the goal's align rows
    recipe: Recipe | None = None  # how the features were taken; None: elsewhere, or there are none


def external_aim(path: str, target: str | None, seed: int) -> Aim:
    """Features that were computed before; of the target's, a seeded half to aim at, the other to choose lambda on."""
    source = open_features(path)
    if target is None:
        return Aim(source=source)
    ids, rows_MD = read_all(open_features(target))
    align, validate = split_dev(len(ids), seed)
    goal = Goal(align_MD=rows_MD[align], validate_MD=rows_MD[validate])
    return Aim(source=source, goal=goal, target_ids=tuple(ids[index] for index in align))


def gradient_aim(
    pool: Pool,
    target: str,
    model: str,
    identity: str,
    k: int,
    features: FeatureConfig,
    lora: LoraConfig,
    seed: int,
    site: Site,
    max_chars: int,
) -> Aim:
    """Features of a pool (read with `max_chars` a row) and of a target. Raises TargetError."""
    splits = {split: open_target(target, split, seed, 64, site) for split in ("align", "validate")}
    seed = seed if features.seed is None else features.seed
    proxy = ready_proxy(model, identity, features, lora, seed, pool, site)
    sources = {POOL: pool.source, **{name: split.source for name, split in splits.items()}}
    cheap = cheap_proxy(model, features, site)
    if features.cascade is not None and cheap is not None:
        cascade = Cascade(
            pool=pool, align=splits["align"], config=features, settings=features.cascade, proxy=proxy, cheap=cheap, k=k,
            seed=seed, site=site,
        )  # fmt: skip
        pruned = prune(cascade, ())
        site.events.write("cascade", **pruned.facts)
        sources[POOL] = pruned.source
    found = featurise(sources, proxy, features, seed, site)
    ids, align_MD = read_features(found["align"])
    _, validate_MD = read_features(found["validate"])
    goal = Goal(align_MD=align_MD, validate_MD=validate_MD, weights_M=splits["align"].weights_of(ids))
    tiles = StoredTiles(store=found[POOL].store, units=found[POOL].units, rows=pool.rows)
    recipe = Recipe.of(proxy, site.session.settled(features), seed, max_chars)
    return Aim(source=tiles, goal=goal, target_ids=tuple(ids), recipe=recipe)
