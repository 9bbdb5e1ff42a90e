"""What a selection aims at: features of a target, or features made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace

from evoray.budget import Budget
from evoray.config import FeatureConfig, LoraConfig
from evoray.engine.cascade import Cascade, prune
from evoray.engine.external import open_features, read_all
from evoray.engine.featurise import featurise
from evoray.engine.pools import Pool
from evoray.engine.potentials import Recipe
from evoray.engine.proxy import cheap_proxy, ready_proxy
from evoray.engine.shards import StoredTiles, TileSource
from evoray.engine.site import Site
from evoray.engine.stages import Target, open_target
from evoray.engine.stored import POOL, Features, read_features
from evoray.errors import ConfigError
from evoray.pool import Split, split_dev
from evoray.selection.selector import Goal, Needs

SPLITS: tuple[Split, Split] = ("align", "validate")


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What is selected from, and what for."""

    source: TileSource
    goal: Goal | None = None  # None: the selector aims at nothing
    target_ids: tuple[str, ...] = ()  # of the goal's align rows
    recipe: Recipe | None = None  # how the features were taken; None: elsewhere, or there are none


def external_aim(path: str, target: str | None, seed: int, pool: Pool | None = None) -> Aim:
    """Features that were computed before; of the target's, a seeded half to aim at, the other to choose lambda on.

    pool: what the features of a store are of; it knows sources and qualities.
    """
    source = open_features(path)
    if isinstance(source, StoredTiles) and pool is not None:
        source = replace(source, rows=pool.rows)
    if target is None:
        return Aim(source=source)
    ids, rows_MD = read_all(open_features(target))
    align, validate = split_dev(len(ids), seed)
    goal = Goal(align_MD=rows_MD[align], validate_MD=rows_MD[validate])
    return Aim(source=source, goal=goal, target_ids=tuple(ids[index] for index in align))


def featured_aim(
    pool: Pool,
    target: str | None,
    model: str,
    identity: str,
    k: int | float | str,
    features: FeatureConfig,
    lora: LoraConfig,
    seed: int,
    site: Site,
    max_chars: int,
) -> Aim:
    """Features of a pool (read with `max_chars` a row) and of a target, where there is one. Raises TargetError."""
    splits: dict[str, Target] = {}
    if target is not None:
        splits = {split: open_target(target, split, seed, 64, site) for split in SPLITS}
    seed = seed if features.seed is None else features.seed
    proxy = ready_proxy(model, identity, features, lora, seed, pool, site)
    sources = {POOL: pool.source, **{name: split.source for name, split in splits.items()}}
    cheap = cheap_proxy(model, features, site)
    if features.cascade is not None and cheap is not None and splits:
        cascade = Cascade(
            pool=pool, align=splits["align"], config=features, settings=features.cascade, proxy=proxy, cheap=cheap,
            k=Budget.of(k).k(pool.usable), seed=seed, site=site,
        )  # fmt: skip
        pruned = prune(cascade, ())
        site.events.write("cascade", **pruned.facts)
        sources[POOL] = pruned.source
    found = featurise(sources, proxy, features, seed, site)
    ids, goal = goal_of(found["align"], found["validate"], splits["align"]) if splits else ([], None)
    tiles = StoredTiles(store=found[POOL].store, units=found[POOL].units, rows=pool.rows)
    recipe = Recipe.of(proxy, site.session.settled(features), seed, max_chars)
    return Aim(source=tiles, goal=goal, target_ids=tuple(ids), recipe=recipe)


def goal_of(align: Features, validate: Features, target: Target) -> tuple[list[str], Goal]:
    """Ids of the align rows of a target, and what a selector aims at."""
    ids, align_MD = read_features(align)
    _, validate_MD = read_features(validate)
    goal = Goal(
        align_MD=align_MD,
        validate_MD=validate_MD,
        weights_M=target.weights_of(ids),
        subtasks_M=target.subtasks_of(ids),
    )
    return ids, goal


def check_cascade(features: FeatureConfig, needs: Needs, k: int | float | str) -> None:
    """Raise ConfigError for a cascade before a selector that does not aim at a target, or with a budget in tokens."""
    if features.cascade is not None and Budget.of(k).tokens is not None:
        raise ConfigError(
            f"features.cascade with selection.k = {k}",
            "a number of rows, or a share of the pool: a cascade keeps a multiple of them",
            "set selection.k in rows",
        )
    if features.cascade is not None and not needs.target:
        raise ConfigError(
            "features.cascade with a selector that aims at no target",
            "one that does: a cascade keeps what is aligned with the target",
            "leave features.cascade out, or choose another selector",
        )
