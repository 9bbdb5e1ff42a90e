"""The configuration of a run: frozen and strict sections. `config_file` reads them.

Every field carries its unit and its default;
docs/methods.md gives their reasons. The same file runs on a laptop and on a
cluster: only `cluster.address` (or `--address`) differs.
"""

from __future__ import annotations

import difflib
import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evoray.budget import Budget
from evoray.errors import ConfigError

Precision = Literal["auto", "float32", "bfloat16"]
Preconditioning = Literal["none", "adam", "less"]
SketchKind = Literal["sparse", "rademacher", "kronecker"]

Representation = Literal["auto", "gradient", "rds", "embed", "hidden_mean", "uncertainty"]

SELECTORS = (
    *("all", "deita", "doubly_greedy", "entropy", "evoselect", "k_center", "kmeans_quality", "kmeans_random"),
    *("knn_kde", "knn_uniform", "least_confidence", "less", "margin", "qdit", "random", "round_robin", "uot"),
)
SCORERS = ("auto", "loss", "choice", "exact_match")


def check_selector(name: str) -> None:
    """Raise ConfigError for an unknown selector, with the nearest one."""
    module, colon, kind = name.partition(":")
    own = bool(colon) and all(part.isidentifier() for part in (*module.split("."), kind))
    if name not in SELECTORS and not own:
        near = difflib.get_close_matches(name, SELECTORS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of them"
        known = f"one of {', '.join(SELECTORS)}, or a class of yours as package.module:Class"
        raise ConfigError(f"selection.selector: {name!r}", known, hint)


#: `auto` is held to what gradients need until the selector decides.
_GRADIENTS = ("auto", "gradient")


class Section(BaseModel):
    """A part of a config: frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class LoraConfig(Section):
    """Shape of the LoRA adapters of the proxy and of the learner."""

    rank: int = Field(8, ge=1, le=256)
    alpha: float = Field(16.0, gt=0)
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class WarmupConfig(Section):
    """The short fine-tune on random pool rows that gives a fresh proxy adapter non-zero gradients."""

    rows: int = Field(64, ge=1)  # random rows of the pool
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(8, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    checkpoints: int = Field(1, ge=1)  # adapters kept on the way, each weighed by the mean learning rate before it
    threads: int = Field(2, ge=1)  # compute threads of this one process; part of what makes a run repeatable


class CascadeConfig(Section):
    """A cheap first pass over the pool that leaves a multiple of K to the features proper."""

    representation: Literal["rds", "embed", "hidden_mean"] = "rds"
    model: str | None = None  # what it is taken from; None: the proxy (for embed: minilm)
    keep: float = Field(4.0, ge=1.1)  # candidates to keep, in multiples of selection.k
    recall_rows: int = Field(256, ge=0)  # random rows on which the loss is measured; 0: not measured


class FeatureConfig(Section):
    """Features of candidates and target rows."""

    representation: Representation = "auto"  # auto: what the selector's authors use
    model: str | None = None  # the proxy; None: the model that is trained (for embed: minilm)
    adapter: str | tuple[str, ...] | None = None  # ready adapter directories; None: warm one up
    adapter_weights: tuple[float, ...] | None = None  # what each of several counts; None: the same
    parameters: Literal["lora", "base"] = "lora"  # whose gradients; base: the model's own linear layers
    dim: int = Field(2048, ge=8, le=65536)  # dimensions after the sketch, of one checkpoint
    sketch: SketchKind = "sparse"
    centred: bool = False  # take the mean of the pool's rows off all rows
    max_tokens: int = Field(512, ge=8)  # longer samples are truncated and flagged
    preconditioning: Preconditioning = "adam"
    precision: Precision = "auto"  # of the passes; sketch and norms are float32 always
    batch_tokens: int = Field(512, ge=8)  # padded tokens in one pass
    cascade: CascadeConfig | None = None
    warmup: WarmupConfig = WarmupConfig()
    seed: int | None = None  # of warm-up and sketch; None: the run's. Runs that share it share features
    refresh: Literal["each_round", "never"] = "each_round"  # features follow the newest model, or stay

    @property
    def uses_lora(self) -> bool:
        """Whether features are gradients of a LoRA adapter."""
        return self.representation in _GRADIENTS and self.parameters == "lora"

    def taken_for(self, representation: Representation, *, only: bool) -> FeatureConfig:
        """With `auto` decided. only: the selector is defined on that representation; then ConfigError for another."""
        if only and self.representation not in ("auto", representation):
            raise ConfigError(
                f"features.representation: {self.representation}",
                f"{representation}: the selector is defined on it",
                "leave features.representation out, or choose another selector",
            )
        chosen = representation if self.representation == "auto" else self.representation
        return FeatureConfig.model_validate({**self.model_dump(), "representation": chosen})

    def proxy_model(self, learner: str) -> str:
        """The model that features are taken from."""
        return self.model or ("minilm" if self.representation == "embed" else learner)

    def cascade_model(self, learner: str) -> str:
        """The model of the cheap first pass."""
        cascade = self.cascade or CascadeConfig()
        return cascade.model or ("minilm" if cascade.representation == "embed" else self.proxy_model(learner))

    @property
    def adapters(self) -> tuple[str, ...]:
        """The ready adapters."""
        return (self.adapter,) if isinstance(self.adapter, str) else self.adapter or ()

    @model_validator(mode="after")
    def _consistent(self) -> FeatureConfig:
        if self.adapter_weights is not None and (
            len(self.adapter_weights) != len(self.adapters) or min(self.adapter_weights, default=0) <= 0
        ):
            raise ConfigError(
                f"features.adapter_weights = {list(self.adapter_weights)} for {len(self.adapters)} adapters",
                "one positive weight for each path of features.adapter",
                "give as many weights as adapters",
            )
        if self.centred and self.cascade is not None:
            raise ConfigError(
                "features.centred with features.cascade",
                "one of them: what a cascade leaves has another mean than the pool",
                "leave one of them out",
            )
        if len(self.adapters) > int(self.uses_lora or self.representation != "embed") and not self.uses_lora:
            raise ConfigError(
                f"{len(self.adapters)} adapters for features.representation: {self.representation}",
                "no adapter for embed, at most one for hidden states and base weights",
                "leave features.adapter out, or take gradients of LoRA weights",
            )
        if self.representation not in _GRADIENTS:
            return self
        if self.preconditioning == "less" and self.centred:
            raise ConfigError(
                "features.centred with features.preconditioning: less",
                "features whose candidates and targets lie in one space",
                "set features.centred: false, or features.preconditioning: adam",
            )
        if self.sketch == "kronecker" and self.preconditioning != "none":
            raise ConfigError(
                f"features.sketch: kronecker with features.preconditioning: {self.preconditioning}",
                "a factored sketch of plain gradients: it cannot weight single coordinates",
                "set features.preconditioning: none, or features.sketch: sparse",
            )
        if self.parameters == "base" and self.sketch != "kronecker":
            raise ConfigError(
                f"features.parameters: base with features.sketch: {self.sketch}",
                "a factored sketch: gradients of all base weights are too large to be formed",
                "set features.sketch: kronecker and features.preconditioning: none",
            )
        return self


class PoolConfig(Section):
    """How the pool is cut into units, and how much of it may be unusable."""

    unit_rows: int = Field(64, ge=1)  # rows of one unit of work
    max_quarantined: float = Field(0.05, ge=0, le=1)  # share of rows; above it the run stops
    max_chars: int = Field(1_000_000, ge=1)  # characters of one row; longer ones are quarantined


class SelectionConfig(Section):
    """Which candidates are chosen."""

    selector: str = "evoselect"
    k: int | float | str = 96  # to choose in a round: rows (96), a share of the pool (0.2), or tokens (100000tok)
    options: dict[str, Any] = {}  # of every other selector than evoselect, whose options follow
    energy: Literal["none", "linear", "squared_cosine", "vendi", "log_det", "relative_vendi"] = "relative_vendi"
    lam: float | Literal["auto"] = Field("auto", alias="lambda")  # weight of the energy
    r: float | Literal["auto"] = "auto"  # eps over the standard deviation of the cost
    eps: float | None = Field(None, gt=0)  # in units of cost; overrides r
    rho: float | None = Field(None, gt=0)  # price of missing the target's weights, in units of cost; None: they are met
    solver: Literal["sinkhorn", "exact"] = "sinkhorn"  # exact: without eps and energy, for pools that fit
    eta: float = Field(0.3, gt=0)  # step of the exponentiated gradient
    steps: int = Field(40, ge=1)
    tolerance: float = Field(1e-3, gt=0)  # L1 error of the target marginal
    shares: dict[str, tuple[float, float]] = {}  # least and largest share of the picks, by source
    max_share: float | None = Field(None, ge=0, le=1)  # largest share of every source that `shares` does not name
    shards: int | None = Field(None, ge=1)  # solver actors; None: one per CPU, at least two
    cache_mb: int = Field(3072, ge=0)  # each actor's memory for kernels; beyond it a pass computes them anew

    @property
    def has_shares(self) -> bool:
        """Whether sources matter."""
        return bool(self.shares) or self.max_share is not None

    @model_validator(mode="after")
    def _consistent(self) -> SelectionConfig:
        check_selector(self.selector)
        ranked = Budget.of(self.k).tokens is not None
        if ranked and (self.has_shares or self.solver == "exact"):
            raise ConfigError(
                f"selection.k = {self.k} with " + ("shares" if self.has_shares else "solver exact"),
                "a number of rows, or a share of the pool: the plan is made for as many",
                "set selection.k in rows",
            )
        if self.solver == "exact" and (self.lam not in ("auto", 0) or self.rho is not None):
            raise ConfigError(
                f"selection.lambda: {self.lam}, rho: {self.rho} with selection.solver: exact",
                "lambda 0 and no rho: the exact solver minimises the transport cost alone, and meets all weights",
                "set selection.lambda: 0 and leave rho out, or set selection.solver: sinkhorn",
            )
        if self.has_shares and (self.selector != "evoselect" or self.solver == "exact"):
            raise ConfigError(
                f"selection.shares or max_share with selector {self.selector}, solver {self.solver}",
                "evoselect with solver sinkhorn: only its weights obey shares",
                "leave selection.shares and selection.max_share out, or change selector or solver",
            )
        wrong = [f"{name}: {list(pair)}" for name, pair in self.shares.items() if not 0 <= pair[0] <= pair[1] <= 1]
        if wrong or math.fsum(low for low, _ in self.shares.values()) > 1 + 1e-13:
            raise ConfigError(
                f"selection.shares with {', '.join(wrong) or 'minima of more than 1 together'}",
                "[minimum, maximum] of each source, 0 <= minimum <= maximum <= 1, and minima of at most 1 together",
                "correct selection.shares",
            )
        return self


class EarlyStopConfig(Section):
    """Look at the validate loss on the way, keep the best weights seen, and stop when nothing gets better."""

    every: int = Field(10, ge=1)  # steps between two looks
    patience: int = Field(3, ge=1)  # looks in a row without a better loss


class TrainingConfig(Section):
    """One round's fine-tuning: Ray Train launching DeepSpeed."""

    weights: Literal["lora", "full"] = "lora"  # what is trained: an adapter, or the model's own weights
    epochs: int = Field(2, ge=1)
    batch_size: int = Field(8, ge=1)  # rows of one optimiser step over all workers
    micro_batch_tokens: int = Field(512, ge=8)  # tokens in one pass of one worker; a step accumulates over its passes
    packing: bool = True  # several rows in one sequence, without padding, where the model allows it
    learning_rate: float = Field(5e-4, gt=0)
    warmup_share: float = Field(0.1, ge=0, lt=1)  # share of the steps with rising learning rate
    schedule: Literal["linear", "cosine"] = "linear"  # how the learning rate falls to zero after that
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    zero_stage: Literal[1, 2, 3] = 2
    offload: Literal["none", "optimizer", "all"] = "none"  # from GPU to host memory: Adam's state, or weights as well
    workers: int = Field(2, ge=1)
    precision: Precision = "auto"
    checkpoint_steps: int | None = Field(50, ge=1)  # steps between checkpoints to go on from; None: only early_stop's
    early_stop: EarlyStopConfig | None = None
    start_from: Literal["base", "previous"] = Field("previous", alias="from")  # of rounds after the first
    on_harm: Literal["flag", "roll_back"] = "flag"  # a round that made the model worse on validate: go on from the best

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if self.offload == "all" and self.zero_stage != 3:
            raise ConfigError(
                f"training.offload: all with training.zero_stage: {self.zero_stage}",
                "zero_stage 3: only it spreads weights, and can move them to the host",
                "set training.zero_stage: 3, or training.offload: optimizer",
            )
        return self


class EvaluationConfig(Section):
    """How models are scored on the target."""

    precision: Precision = "auto"
    batch_tokens: int = Field(1024, ge=8)  # padded tokens in one pass
    list_options: bool = False  # whether the prompt lists the options of a multiple-choice row
    scorer: str = "auto"  # auto (choice where rows have choices), loss, choice, exact_match, or package.module:function
    extract: str | dict[str, str] = "whole"  # how the answer is cut out of generated text: one rule, or one a subtask
    max_new_tokens: int = Field(64, ge=1)  # of a generated answer
    control: bool = True  # also train on random rows of the same tokens and planned steps, to compare

    @model_validator(mode="after")
    def _known_scorer(self) -> EvaluationConfig:
        module, colon, function = self.scorer.partition(":")
        named = all(part.isidentifier() for part in (*module.split("."), function)) if colon else False
        if self.scorer not in SCORERS and not named:
            raise ConfigError(
                f"evaluation.scorer: {self.scorer!r}",
                f"one of {', '.join(SCORERS)}, or a function of yours as package.module:function",
                "correct the name",
            )
        return self


class ClusterConfig(Section):
    """Where the work runs; None everywhere means: this machine."""

    address: str | None = None  # of a running Ray cluster
    workers: int | None = Field(None, ge=1)  # actors for features and scoring; None: one per CPU
    gpus_per_worker: float = Field(0.0, ge=0)
    threads: int = Field(1, ge=1)  # compute threads of each actor; results are exact at a fixed number
    unit_attempts: int = Field(3, ge=1)  # tries of one unit before the stage stops
    object_store_mb: int = Field(256, ge=80)  # of an embedded Ray


class RunConfig(Section):
    """The whole run."""

    pool: str | tuple[str, ...]  # file, folder, glob, or a list of them
    target: str  # a file (then it is dev) or a folder with dev and test files
    model: str = "smollm2"  # what is trained: hub id, local directory, or smollm2
    out: str = "evoray-run"  # run directory or bucket URI
    store: str | None = None  # where pool, features and scores are kept; None: in `out`. Runs may share one
    rounds: int = Field(2, ge=1)
    seed: int = 0
    labels: str | None = None  # Parquet with id and label; "good" rows are counted in the report only
    reading: PoolConfig = PoolConfig()
    lora: LoraConfig = LoraConfig()
    features: FeatureConfig = FeatureConfig()
    selection: SelectionConfig = SelectionConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _one_round_of_all(self) -> RunConfig:
        if self.selection.selector == "all" and self.rounds > 1:
            raise ConfigError(
                f"rounds = {self.rounds} with selection.selector = 'all'",
                "one round: the first uses every row",
                "set rounds: 1",
            )
        return self

    @model_validator(mode="after")
    def _proxy_can_follow(self) -> RunConfig:
        follows = self.features.refresh == "each_round" and self.rounds > 1 and self.proxy_model == self.model
        featured = self.selection.selector not in ("random", "all")
        if self.training.weights == "full" and featured and follows:
            raise ConfigError(
                "training.weights: full with features.refresh: each_round",
                "features that stay with the first proxy: they follow adapters, and no model that was trained whole",
                "set features.refresh: never, or training.weights: lora",
            )
        return self

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
