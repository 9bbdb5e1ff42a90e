"""What all cells of a comparison share: pool, targets, proxies, features, each made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError

from evoray.comparison_config import ComparisonConfig, EntryConfig
from evoray.config import FeatureConfig, Section, SelectionConfig, TrainingConfig
from evoray.config_file import explain
from evoray.engine.featurise import featurise
from evoray.engine.pools import Pool, read_pool
from evoray.engine.proxy import Proxy, identify_model, ready_proxy
from evoray.engine.selectors import is_featured, needs_of, with_representation
from evoray.engine.shards import StoredTiles
from evoray.engine.site import Site, fingerprint
from evoray.engine.stages import Target, open_target
from evoray.engine.stored import POOL, Features, read_features
from evoray.errors import ConfigError, TargetError
from evoray.pool import find_target
from evoray.selection.selector import Goal, Matrix

_FEATURE_SEED = 0
_TENTHS = 10
S = TypeVar("S", bound=Section)
_DECILE = "evoray.selection.decile:Decile"


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A selector with all its settings; `k` is put in for each budget. Equal to itself alone."""

    name: str
    kind: str  # selection or decile
    selection: SelectionConfig
    features: FeatureConfig
    training: TrainingConfig
    rounds: int = 1  # more than one: of a loop
    tokens_of: str | None = None

    @property
    def aims(self) -> bool:
        """Whether what it chooses depends on the target."""
        return needs_of(self.selection).target

    @property
    def featured(self) -> bool:
        """Whether it works on features of its own."""
        return is_featured(self.selection)


def entries_of(config: ComparisonConfig) -> list[Entry]:
    """The entries of a config, those with `tokens_of` last. Raises ConfigError for settings that do not serve."""
    tenths = [
        EntryConfig(name=f"decile-{index:02d}", selector=_DECILE, options={"index": index})
        for index in range(1, _TENTHS + 1)
        if config.deciles
    ]
    entries = [_entry(config, entry, "selection") for entry in config.selectors]
    entries += [_entry(config, entry, "decile") for entry in tenths]
    return sorted(entries, key=lambda entry: entry.tokens_of is not None)


def _entry(config: ComparisonConfig, entry: EntryConfig, kind: str) -> Entry:
    chosen = {"selector": entry.selector, "options": entry.options}
    plain = config.selection.model_copy(update={"options": {}})  # options are of one selector
    selection = section(plain, {**entry.selection, **chosen})
    features = section(config.features, entry.features)
    if features.cascade is not None:
        raise ConfigError("features.cascade in a comparison", "features of all candidates", "leave it out")
    return Entry(
        name=entry.shown,
        kind=kind,
        selection=selection,
        features=with_representation(features, selection),
        training=section(config.training, entry.training),
        rounds=entry.rounds,
        tokens_of=entry.tokens_of,
    )


def section(common: S, own: Mapping[str, Any]) -> S:
    """A section of a comparison with an entry's own keys. Raises ConfigError that names the wrong one."""
    try:
        return type(common).model_validate(_merged(common, own))
    except ValidationError as error:
        raise explain(error, type(common)) from error


def _merged(common: Section, own: Mapping[str, Any]) -> dict[str, Any]:
    """Key by key, down to the sections of sections; what is no section is replaced whole."""
    both = {key: getattr(common, key, None) for key, value in own.items() if isinstance(value, Mapping)}
    inner = {key: _merged(held, own[key]) for key, held in both.items() if isinstance(held, Section)}
    return {**common.model_dump(by_alias=True), **own, **inner}


def feature_seed(config: FeatureConfig) -> int:
    """Of warm-up and sketch: features do not vary with the seeds of a comparison, unless the config has its own."""
    return _FEATURE_SEED if config.seed is None else config.seed


@dataclass(frozen=True, kw_only=True)
class Representation:
    """Features of the pool, and of every dev row of every target by its key (see `Bench.keys`)."""

    pool: Features
    rows: Mapping[str, Mapping[str, np.ndarray[Any, Any]]]

    def matrix(self, target: str, keys: list[str]) -> Matrix:
        """Unit rows of some of a target's rows, in order."""
        found: Matrix = np.stack([self.rows[target][key] for key in keys])
        return found


@dataclass(kw_only=True)
class Bench:
    """The inputs of all cells."""

    config: ComparisonConfig
    site: Site
    pool: Pool
    model_identity: str
    entries: list[Entry]
    _targets: dict[tuple[str, str, int], Target] = field(default_factory=dict)
    _ids: dict[tuple[str, str, int], list[str]] = field(default_factory=dict)
    _representations: dict[str, Representation] = field(default_factory=dict)

    @classmethod
    def of(cls, config: ComparisonConfig, site: Site) -> Bench:
        """Read the pool, and look at all targets. Raises UserError's children for what is wrong with them."""
        entries = entries_of(config)
        name, identity = identify_model(config.model, site.events)
        bench = cls(
            config=config.model_copy(update={"model": name}),
            site=site,
            pool=read_pool(config.pool, config.reading, site),
            model_identity=identity,
            entries=entries,
        )
        for name in config.targets:
            bench.target(name, "test", config.seeds[0])
            for seed in config.seeds:
                bench.ids(name, "align", seed)
                bench.ids(name, "validate", seed)
        return bench

    def target(self, name: str, split: str, seed: int) -> Target:
        """A split of a target; align and validate are a seeded cut of dev, unless they are given."""
        key = (name, split, 0 if split == "test" else seed)
        if key not in self._targets:
            evaluation, rows = self.config.evaluation, self.config.reading.unit_rows
            path = self.config.targets[name]
            try:
                self._targets[key] = open_target(path, split, seed, rows, self.site, evaluation.list_options)  # type: ignore[arg-type]
            except TargetError as error:
                raise TargetError(f"target {name}: {error.received}", error.expected, error.remedy) from error
        return self._targets[key]

    def ids(self, name: str, split: str, seed: int) -> list[str]:
        """Ids of a split's rows, in order."""
        key = (name, split, seed)
        if key not in self._ids:
            self._ids[key] = [row.id for row in self.target(name, split, seed).source.read()]
        return self._ids[key]

    def keys(self, name: str, split: str, ids: Sequence[str]) -> list[str]:
        """What rows of a target are known by: a cut moves rows of dev from split to split, but files of their own may
        each count from 0."""
        own = not find_target(self.config.targets[name]).splits_dev
        return [f"{split}/{row_id}" for row_id in ids] if own else list(ids)

    def features(self, config: FeatureConfig) -> Representation:
        """Features of the pool and of all targets in one representation; computed once, by any comparison."""
        key = fingerprint(config=config.model_dump())
        if key not in self._representations:
            self._representations[key] = self._featurise(config)
        return self._representations[key]

    def proxy(self, config: FeatureConfig) -> Proxy:
        """The model that features are taken from, warmed up."""
        model, identity = config.proxy_model(self.config.model), self.model_identity
        if model != self.config.model:
            model, identity = identify_model(model, self.site.events)
        return ready_proxy(model, identity, config, self.config.lora, feature_seed(config), self.pool, self.site)

    def _featurise(self, config: FeatureConfig) -> Representation:
        proxy = self.proxy(config)
        cut = _FEATURE_SEED  # units of dev rows are the same for any seeds, and so is every bit of their features
        splits = {f"{name} {split}": (name, split) for name in self.config.targets for split in ("align", "validate")}
        sources = {POOL: self.pool.source}
        sources |= {title: self.target(name, split, cut).source for title, (name, split) in splits.items()}
        found = featurise(sources, proxy, config, feature_seed(config), self.site)
        rows: dict[str, dict[str, np.ndarray[Any, Any]]] = {name: {} for name in self.config.targets}
        for title, (name, split) in splits.items():
            ids, matrix = read_features(found[title])
            rows[name].update(zip(self.keys(name, split, ids), matrix, strict=True))
        return Representation(pool=found[POOL], rows=rows)

    def tiles(self, representation: Representation) -> StoredTiles:
        """The pool's features as a selection reads them."""
        return StoredTiles(store=representation.pool.store, units=representation.pool.units, rows=self.pool.rows)

    def goal(self, entry: Entry, target: str, seed: int) -> tuple[Goal, list[str]]:
        """What an entry aims at, and the ids of the rows aimed at (those that have features)."""
        representation = self.features(entry.features)
        aimed, held_out = (self._known(representation, target, split, seed) for split in ("align", "validate"))
        align = self.target(target, "align", seed)
        goal = Goal(
            align_MD=representation.matrix(target, list(aimed)),
            validate_MD=representation.matrix(target, list(held_out)),
            weights_M=align.weights_of(list(aimed.values())),
            subtasks_M=align.subtasks_of(list(aimed.values())),
        )
        return goal, list(aimed.values())

    def _known(self, representation: Representation, target: str, split: str, seed: int) -> dict[str, str]:
        """Key and id of each row of a split that has features, in order."""
        ids = self.ids(target, split, seed)
        pairs = zip(self.keys(target, split, ids), ids, strict=True)
        return {key: row_id for key, row_id in pairs if key in representation.rows[target]}

    @cached_property
    def yardstick(self) -> Entry | None:
        """The entry in whose features subsets are measured: the first with gradients, else the first with any."""
        featured = [entry for entry in self.entries if entry.featured]
        gradients = [entry for entry in featured if entry.features.representation == "gradient"]
        return next(iter([*gradients, *featured]), None)
