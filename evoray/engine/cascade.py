"""A cascade: a cheap representation prunes the pool before gradients are taken of what is left.

The cheap features rank candidates by the same alignment as the selection does, without its diversity term, and keep a
multiple of K. How much that loses is measured on a random sample of the pool, where both passes are made.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import pyarrow as pa

from evoray.config import CascadeConfig, FeatureConfig, SelectionConfig
from evoray.engine.choose import choose
from evoray.engine.featurise import featurise
from evoray.engine.pools import Pool
from evoray.engine.proxy import Proxy
from evoray.engine.remote import in_task
from evoray.engine.shards import StoredTiles
from evoray.engine.site import Site, Source, fingerprint
from evoray.engine.stages import Target
from evoray.engine.stored import POOL, Features, read_features
from evoray.engine.workers import KeptRows
from evoray.selection.selector import Goal
from evoray.storage import UnitStore

_ALIGN = "align"
#: Ranking by alignment alone, at the default temperature: nothing is tuned on the way to a multiple of K.
_RANKING = SelectionConfig(energy="none", lam=0.0, r=0.5)


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """The two passes, over the same pool, target and seed."""

    pool: Pool
    align: Target
    config: FeatureConfig  # of the full pass
    settings: CascadeConfig
    proxy: Proxy  # of the full pass
    cheap: Proxy
    k: int
    seed: int
    site: Site


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What the cheap pass left."""

    source: Source  # the candidates that gradients are taken of
    cheap: Features  # of the whole pool
    facts: dict[str, Any]


def prune(cascade: Cascade, used: Collection[str]) -> Pruned:
    """Keep the `settings.keep` times k best-aligned unused candidates, and the used ones (for their diversity)."""
    keep = min(ceil(cascade.settings.keep * cascade.k), cascade.pool.usable - len(used))
    cheap = _cheap_features(cascade, cascade.pool.source)
    kept = _best(cascade, cheap, keep, used)
    recall = _recall(cascade, cheap[POOL]) if cascade.settings.recall_rows else None
    source = _source_of(cascade, cheap[POOL], {*kept, *used})
    facts = {"representation": cascade.settings.representation, "kept": len(kept), "recall": recall}
    return Pruned(source=source, cheap=cheap[POOL], facts=facts)


def _cheap_features(cascade: Cascade, source: Source) -> dict[str, Features]:
    config = cascade.config.model_copy(
        update={"representation": cascade.settings.representation, "cascade": None, "preconditioning": "none"}
    )
    return featurise({POOL: source, _ALIGN: cascade.align.source}, cascade.cheap, config, cascade.seed, cascade.site)


def _best(cascade: Cascade, features: dict[str, Features], k: int, used: Collection[str]) -> list[str]:
    """Ids of the k candidates that align best with the target."""
    ids, align_MD = read_features(features[_ALIGN])
    goal = Goal(align_MD=align_MD, validate_MD=None, weights_M=cascade.align.weights_of(ids))
    selection = _RANKING.model_copy(update={"k": min(k, features[POOL].rows - len(used))})
    with cascade.site.events.stage("rank candidates", 1) as stage:
        tiles = StoredTiles(store=features[POOL].store, units=features[POOL].units)
        choice = choose(tiles, goal, selection, cascade.seed, cascade.site.session, stage.share, used)
    return [pick.id for pick in choice.picks]


def _recall(cascade: Cascade, cheap: Features) -> dict[str, Any]:
    """Of the candidates that the full pass ranks first in a random sample, the share that the cheap pass keeps."""
    rows = min(cascade.settings.recall_rows, cheap.rows)
    drawn = choose(
        StoredTiles(store=cheap.store, units=cheap.units),
        None,
        SelectionConfig(selector="random", k=rows),
        cascade.seed,
        cascade.site.session,
        lambda _done, _total: None,
    )
    sample = _source_of(cascade, cheap, {pick.id for pick in drawn.picks})
    k = max(1, round(cascade.k * rows / cheap.rows))
    config = cascade.config.model_copy(update={"cascade": None})
    sources = {POOL: sample, _ALIGN: cascade.align.source}
    full = featurise(sources, cascade.proxy, config, cascade.seed, cascade.site)
    wanted = _best(cascade, full, k, ())
    kept = set(_best(cascade, _cheap_features(cascade, sample), ceil(cascade.settings.keep * k), ()))
    return {"rows": rows, "wanted": len(wanted), "kept": len(kept), "found": sum(one in kept for one in wanted)}


def _source_of(cascade: Cascade, cheap: Features, ids: Collection[str]) -> Source:
    """The rows of some ids, in the units of the pool that hold them."""
    storage = cascade.site.storage
    identity = fingerprint(pool=cascade.pool.fingerprint, ids=sorted(ids))
    key = f"kept/{identity}.parquet"
    storage.write_table(key, pa.table({"id": pa.array(sorted(ids), pa.string())}))
    units = in_task(_units_with, cheap.store, cheap.units, frozenset(ids))
    return Source(rows=KeptRows(rows=cascade.pool.rows, key=key), units=units, identity=identity)


def _units_with(store: UnitStore, units: Sequence[int], ids: frozenset[str]) -> tuple[int, ...]:
    tables = store.tables(units, ["id"])
    return tuple(unit for unit, table in zip(units, tables, strict=True) if not ids.isdisjoint(table["id"].to_pylist()))
