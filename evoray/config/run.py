"""A whole run."""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from evoray.config.features import FeatureConfig, LoraConfig
from evoray.config.generation import GenerationConfig
from evoray.config.section import Section
from evoray.config.selection import FeedbackConfig, SelectionConfig
from evoray.config.training import EvaluationConfig, TrainingConfig
from evoray.errors import ConfigError


class PoolConfig(Section):
    """How the pool is cut into units, and how much of it may be unusable."""

    unit_rows: int = Field(64, ge=1)  # rows of one unit of work
    max_quarantined: float = Field(0.05, ge=0, le=1)  # share of rows; above it the run stops
    max_chars: int = Field(1_000_000, ge=1)  # characters of one row; longer ones are quarantined


class ClusterConfig(Section):
    """Where the work runs; null everywhere means: this machine."""

    address: str | None = None  # of a running Ray cluster
    workers: int | None = Field(None, ge=1)  # actors that compute; null: one per GPU if they get any, else per CPU
    gpus_per_worker: float = Field(0.0, ge=0)  # GPUs of each actor, and of each training worker
    threads: int = Field(1, ge=1)  # compute threads of each actor; results are exact at a fixed number
    unit_attempts: int = Field(3, ge=1)  # tries of one unit before the stage stops
    stall_minutes: float = Field(60, gt=0, allow_inf_nan=False)  # without a unit done, until a stage stops and says why
    object_store_mb: int = Field(256, ge=80)  # of an embedded Ray


class MachineConfig(Section):
    """A kind of machine, for the price of a run."""

    workers: int = Field(1, ge=1)  # of cluster.workers that run on one of it
    hour: tuple[float, float]  # least and most for an hour of it: spot and on demand, in any currency

    @model_validator(mode="after")
    def _ordered(self) -> MachineConfig:
        least, most = self.hour
        if not 0 <= least <= most < math.inf:
            raise ConfigError(f"hour: {list(self.hour)}", "[least, most], neither below 0", "correct the prices")
        return self


class RunConfig(Section):
    """The whole run."""

    pool: str | tuple[str, ...] | None = None  # file, folder, glob, or a list of them; null: generated rows alone
    target: str  # a file (then it is dev), a folder with dev and test files, or lm-eval:TASK[@FOLDER]
    model: str = "smollm2"  # what is trained: hub id or id@revision, local directory, or smollm2
    out: str = "evoray-run"  # run directory or bucket URI
    store: str | None = None  # where pool, features and scores are kept; null: in `out`. Runs may share one
    rounds: int = Field(2, ge=1)  # of choosing and training
    seed: int = Field(0, ge=0)  # of every random choice
    labels: str | None = None  # Parquet with id and label; "good" rows are counted in the report only
    patience: int | None = Field(None, ge=1)  # rounds in a row without a better validate loss that end the run
    generation: GenerationConfig | None = None  # who writes candidates for each round, beside the pool
    reading: PoolConfig = PoolConfig()
    lora: LoraConfig = LoraConfig()
    features: FeatureConfig = FeatureConfig()
    selection: SelectionConfig = SelectionConfig()
    training: TrainingConfig = TrainingConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    cluster: ClusterConfig = ClusterConfig()
    machines: dict[str, MachineConfig] = {}  # by name: what `evoray plan` prices a run on

    @model_validator(mode="after")
    def _has_candidates(self) -> RunConfig:
        if self.pool is None and self.generation is None:
            raise ConfigError(
                "neither pool nor generation",
                "candidates: files of rows, a generator, or both",
                "give pool: PATH, or a section generation",
            )
        return self

    @model_validator(mode="after")
    def _one_round_of_all(self) -> RunConfig:
        if self.selection.selector == "all" and self.rounds > 1:
            raise ConfigError(
                f"rounds = {self.rounds} with selection.selector = 'all'",
                "one round: the first uses every row",
                "set rounds: 1",
            )
        return self

    def of_models(self, learner: str, proxy: str) -> RunConfig:
        """The same config with these in place of the models that it names."""
        features = self.features if self.features.model is None else self.features.model_copy(update={"model": proxy})
        return self.model_copy(update={"model": learner, "features": features})

    @property
    def proxy_model(self) -> str:
        """The model that features are taken from."""
        return self.features.proxy_model(self.model)

    @property
    def feature_seed(self) -> int:
        """The seed of the proxy's warm-up and of the sketch."""
        return self.seed if self.features.seed is None else self.features.seed


def check_metric(features: FeatureConfig, selection: SelectionConfig) -> None:
    """Raise ConfigError where the selection needs distances among candidates and the features give none."""
    diverse = selection.selector == "evoselect" and selection.energy != "none" and selection.lam != 0
    diverse = diverse and selection.solver != "exact"
    if diverse and features.uses_lora and features.preconditioning == "less":
        raise ConfigError(
            f"features.preconditioning: less with selection.energy: {selection.energy}",
            "a selection by alignment alone: `less` scores candidates against targets, and says nothing of how they"
            " differ from one another",
            "set selection.energy: none, or features.preconditioning: adam",
        )
