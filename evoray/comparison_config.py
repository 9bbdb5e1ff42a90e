"""The configuration of a comparison: selectors, budgets, seeds and targets beside the sections of a run.

pool: pool.parquet
targets: {arc: targets/arc, winogrande: targets/winogrande}
selectors: [random, evoselect, less, {selector: round_robin, features: {representation: rds}}]
budgets: [96]
seeds: [0, 1, 2]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from evoray.budget import Budget, per_round
from evoray.config import (
    ClusterConfig,
    EvaluationConfig,
    FeatureConfig,
    FeedbackConfig,
    LoraConfig,
    PoolConfig,
    Section,
    SelectionConfig,
    TrainingConfig,
)
from evoray.config.task import TaskName
from evoray.config_file import explain, read_settings
from evoray.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class EntryConfig(Section):
    """One selector of a comparison, with what it has of its own."""

    selector: str  # a name, or a class of yours as package.module:Class
    name: str = ""  # in tables and plots; empty: the selector, with its representation where that is given
    options: dict[str, Any] = {}  # of the selector
    features: dict[str, Any] = {}  # keys of the section `features` that differ
    selection: dict[str, Any] = {}  # keys of the section `selection` that differ
    training: dict[str, Any] = {}  # keys of the section `training` that differ
    rounds: int = Field(1, ge=1)  # of a loop; its rounds share the budget in equal parts
    tokens_of: str | None = None  # choose as many tokens as another entry did, and train for as many steps

    @property
    def shown(self) -> str:
        """The name, or one made up."""
        own = self.features.get("representation")
        plain = self.selector.rpartition(":")[2]
        return self.name or (f"{plain}-{own}" if own else plain)


class ComparisonConfig(Section):
    """A whole comparison."""

    pool: str | tuple[str, ...]  # file, folder, glob, or a list of them
    targets: dict[str, str]  # name: a file (then it is dev), a folder with dev and test files, or lm-eval:TASK
    selectors: tuple[EntryConfig, ...] = Field(min_length=1)  # what is compared
    budgets: tuple[int | float | str, ...] = Field((96,), min_length=1)  # each as selection.k
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)  # of splits, draws and trainings; features share one
    reference: str = "random"  # the entry that all others are compared with
    deciles: bool = False  # also train on each tenth of the pool by predicted alignment
    model: str = "smollm2"  # what is trained: hub id, local directory, or smollm2
    out: str = "evoray-comparison"  # folder or bucket URI
    launch: int = Field(8, ge=1)  # trainings in one launch of workers
    parallel: int | None = Field(None, ge=1)  # launches at a time; null: as many as there are actors for
    reading: PoolConfig = PoolConfig()
    lora: LoraConfig = LoraConfig()
    features: FeatureConfig = FeatureConfig()
    selection: SelectionConfig = SelectionConfig()
    training: TrainingConfig = TrainingConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        """A bare selector name is an entry; a list of targets is named by its files and tasks."""
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        if isinstance(data.get("selectors"), Sequence) and not isinstance(data["selectors"], str):
            data["selectors"] = [{"selector": one} if isinstance(one, str) else one for one in data["selectors"]]
        targets = data.get("targets")
        if isinstance(targets, Sequence) and not isinstance(targets, str):
            data["targets"] = {_short(str(one)): str(one) for one in targets}
            if len(data["targets"]) < len(targets):
                raise ConfigError(f"targets: {list(targets)}", "targets of different names", "write them as name: path")
        return data

    @model_validator(mode="after")
    def _consistent(self) -> ComparisonConfig:
        names = [entry.shown for entry in self.selectors]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ConfigError(f"selectors named {', '.join(twice)} twice", "one name each", "give each entry a name")
        for name in [*names, *self.targets]:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"the name {name!r} of a selector or target", "letters, digits and _ . -", "give it another name"
                )
        own = [entry.shown for entry in self.selectors if entry.tokens_of is None and entry.selector != "all"]
        for entry in self.selectors:
            if entry.tokens_of not in (None, *own):
                raise ConfigError(
                    f"selectors: {entry.shown} with tokens_of: {entry.tokens_of}",
                    f"an entry that has a budget of its own: {', '.join(own)}",
                    "correct the name",
                )
        if min(self.seeds) < 0:
            raise ConfigError(f"seeds: {list(self.seeds)}", "numbers of at least 0", "correct them")
        for budget in self.budgets:
            Budget.of(budget)
        for entry in self.selectors:
            self._check_loop(entry)
        return self

    def _check_loop(self, entry: EntryConfig) -> None:
        if "workers" in entry.training:
            raise ConfigError(
                f"selectors: {entry.shown} with training.workers",
                "one number of training workers, which several trainings share",
                "set it in the section training",
            )
        if entry.rounds > 1 and (entry.tokens_of is not None or entry.selector == "all"):
            raise ConfigError(
                f"selectors: {entry.shown} with rounds: {entry.rounds}",
                "rounds of a selector that has a budget of its own",
                "leave rounds or tokens_of out, or choose another selector",
            )
        if "max_tokens" in entry.features:
            raise ConfigError(
                f"selectors: {entry.shown} with features.max_tokens",
                "one length of rows, for features, training and scores alike",
                "set it in the section features",
            )
        for budget in self.budgets:
            per_round(budget, entry.rounds)


def _short(target: str) -> str:
    """The name of a target in a list: its task's, or its file's without the ending."""
    task = TaskName.of(target)
    return Path(target).stem if task is None else task.name


def load_comparison(path: str | Path, overrides: Sequence[str] = (), **values: Any) -> ComparisonConfig:
    """Read a YAML config; `overrides` are `section.key=value` strings, `values` top-level keys.

    Relative `pool`, `targets` and local models are taken from the config's own folder. Raises ConfigError.
    """
    return build_comparison(read_settings(Path(path), overrides, values, ("pool", "targets")))


def build_comparison(data: Mapping[str, Any]) -> ComparisonConfig:
    """Validate a mapping. Raises ConfigError that names the key, what it held and the nearest key."""
    try:
        return ComparisonConfig.model_validate(data)
    except ValidationError as error:
        raise explain(error, ComparisonConfig) from error
