"""The selections of a comparison, each made once and kept by the fingerprint of all that it depends on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evoray.alignment.reduction import Array
from evoray.config import SelectionConfig
from evoray.engine.bench import Bench, Entry
from evoray.engine.choose import choose_from, goal_identity, open_shards, shard_needs
from evoray.engine.remote import in_task
from evoray.engine.rundir import SELECTED
from evoray.engine.selected import chosen_sources, features_of_ids, picks_table, token_sum, write_selected
from evoray.engine.selectors import is_featured, source_identity
from evoray.engine.shard_actors import RayShards
from evoray.engine.shards import PoolTiles, TileSource, units_of
from evoray.engine.site import fingerprint
from evoray.errors import ConfigError
from evoray.selection.distance import subset_facts
from evoray.selection.selector import Choice, Goal, Request
from evoray.storage import UnitStore


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One selection of a comparison, and what it is for."""

    entry: Entry
    target: str
    budget: int | float | str
    seed: int

    @property
    def shown(self) -> str:
        """For people."""
        return f"{self.entry.name} {self.target} {self.budget} seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A wanted selection with what it is made from."""

    wanted: Wanted
    config: SelectionConfig
    source: TileSource
    goal: Goal | None
    aimed: list[str]
    identity: str


def select_all(
    bench: Bench, wanted: Sequence[Wanted], known: Mapping[Wanted, Mapping[str, Any]] | None = None
) -> dict[Wanted, dict[str, Any]]:
    """Records of selections: ids, digest, seconds, facts, sources, distances, others. Those that were made are read.

    known: records of selections whose tokens some of the wanted ones are to have. others: identities of a selector's
    further choices, which have records of their own.
    """
    ready = [_prepare(bench, one, _of(known or {}, one)) for one in wanted]
    _make(bench, [one for one in ready if not bench.site.storage.exists(_record(one.identity))])
    return {one.wanted: read_selection(bench, one.wanted, one.identity) for one in ready}


def read_selection(bench: Bench, one: Wanted, identity: str) -> dict[str, Any]:
    """The record of a selection that was made, with its distances to the target of its cell."""
    record = bench.site.storage.read_json(_record(identity))
    return {**record, **measured(bench, one, record)}


def _of(found: Mapping[Wanted, Mapping[str, Any]], one: Wanted) -> Mapping[str, Any] | None:
    """The selection whose tokens a wanted one is to have."""
    if one.entry.tokens_of is None:
        return None
    place = (one.entry.tokens_of, one.target, one.budget, one.seed)
    return next(r for w, r in found.items() if (w.entry.name, w.target, w.budget, w.seed) == place)


def _prepare(bench: Bench, one: Wanted, matched: Mapping[str, Any] | None) -> _Ready:
    entry = one.entry
    budget = one.budget if matched is None else f"{_tokens(bench, matched)}tok"
    config = SelectionConfig.model_validate({**entry.selection.model_dump(by_alias=True), "k": budget})
    goal, aimed = bench.goal(entry, one.target, one.seed) if entry.aims else (None, [])
    source: TileSource = PoolTiles(rows=bench.pool.rows, units=bench.pool.units)
    if entry.featured:
        source = bench.tiles(bench.features(entry.features))
    elif is_featured(config):  # for the tokens of its rows alone
        source = bench.tiles(bench.features(_counted(bench).features))
    identity = fingerprint(
        source=source.identity(),
        pool=bench.pool.fingerprint,
        goal=goal_identity(goal),
        config=config.model_dump(exclude={"shards", "cache_mb"}),
        own=source_identity(config),
        seed=one.seed,
    )
    return _Ready(wanted=one, config=config, source=source, goal=goal, aimed=aimed, identity=identity)


def _tokens(bench: Bench, record: Mapping[str, Any]) -> int:
    features = bench.features(_counted(bench).features).pool
    return token_sum(features.store, units_of(features.units, record["tiles"]), record["ids"])


def _counted(bench: Bench) -> Entry:
    """The entry whose features say how many tokens a row has."""
    if bench.yardstick is None:
        raise ConfigError(
            "a budget in tokens, or tokens_of, and no entry with features",
            "an entry with features, which come with the tokens of each row",
            "add one, or give budgets in rows",
        )
    return bench.yardstick


def _make(bench: Bench, ready: Sequence[_Ready]) -> None:
    """Select, opening shards once for all selections from the same features."""
    groups: dict[Any, list[_Ready]] = {}
    for one in {one.identity: one for one in ready}.values():
        groups.setdefault((one.source.identity(), shard_needs(one.config)), []).append(one)
    for group in groups.values():
        with open_shards(group[0].source, group[0].config, bench.site.session) as shards:
            for one in group:
                _choose(bench, one, shards)


def _choose(bench: Bench, one: _Ready, shards: RayShards) -> None:
    seed = one.wanted.seed
    with bench.site.events.stage(f"select {one.wanted.shown}", 1) as stage:
        started = time.monotonic()
        request = Request(k=1, rows=1, seed=seed, goal=one.goal, progress=stage.share)
        choice = choose_from(shards, one.config, request)
        seconds = time.monotonic() - started
    others = [f"{one.identity}-{place}" for place in range(1, len(choice.others) + 1)]
    for identity, other in zip(others, choice.others, strict=True):
        _keep(bench, one, identity, other, seconds, [])
    _keep(bench, one, one.identity, choice, seconds, others)  # last: with it the others are there


def _keep(bench: Bench, one: _Ready, identity: str, choice: Choice, seconds: float, others: list[str]) -> None:
    storage, picks = bench.site.storage, picks_table(choice.picks)
    tiles = sorted(set(picks["tile"].to_pylist()))
    units = units_of(bench.pool.units, tiles)
    digest = write_selected(storage, _rows(identity), picks, one.aimed, 1, bench.pool.rows, units)
    record = {
        "identity": identity,
        "ids": picks["id"].to_pylist(),
        "digest": digest,
        "tiles": tiles,
        "seconds": round(seconds, 3),
        "facts": brief(choice.facts),
        "sources": chosen_sources(storage, _rows(identity)),
        "others": others,
    }
    storage.write_json(_record(identity), record)


def _record(identity: str) -> str:
    return f"selections/{identity}/selection.json"


def _rows(identity: str) -> str:
    return f"selections/{identity}/{SELECTED}"


def rows_at(bench: Bench, record: Mapping[str, Any]) -> str:
    """Where the chosen rows are."""
    return bench.site.storage.location(_rows(record["identity"]))


def brief(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a choice without those that are as long as the target or the descent."""
    return {key: value for key, value in facts.items() if key not in ("trace", "potentials")}


def measured(bench: Bench, wanted: Wanted, record: Mapping[str, Any]) -> dict[str, Any]:
    """Distances of a selection to the target of its cell, in the features of the yardstick; kept beside it."""
    if bench.yardstick is None:
        return {"distance": None, "cosine": None, "vendi": None, "vendi_target": None}
    representation = bench.features(bench.yardstick.features)
    goal, _ = bench.goal(bench.yardstick, wanted.target, wanted.seed)
    name = fingerprint(features=representation.pool.fingerprint, goal=goal_identity(goal))
    key = f"selections/{record['identity']}/distance-{name}.json"
    storage = bench.site.storage
    if not storage.exists(key):
        units = units_of(representation.pool.units, record["tiles"])
        facts = in_task(
            _subset, representation.pool.store, units, record["ids"], goal.align_MD, goal.validate_MD
        )  # fmt: skip
        storage.write_json(key, facts)
    found: dict[str, Any] = storage.read_json(key)
    return found


def _subset(
    store: UnitStore, units: Sequence[int], ids: Sequence[str], aimed_MD: Array, held_out_MD: Array | None
) -> dict[str, Any]:
    picked_KD = features_of_ids(store, units, ids)
    return dict(subset_facts(picked_KD.astype(np.float64), aimed_MD, held_out_MD))
