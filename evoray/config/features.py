"""Settings of features: what is taken from which model, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from evoray.config.section import Computed, PassTokens, Precision, Section
from evoray.errors import ConfigError

Preconditioning = Literal["none", "adam", "less"]
SketchKind = Literal["sparse", "rademacher", "kronecker"]

Representation = Literal["auto", "gradient", "rds", "embed", "hidden_mean", "uncertainty"]

#: `auto` is held to what gradients need until the selector decides.
_GRADIENTS = ("auto", "gradient")


class LoraConfig(Section):
    """Shape of the LoRA adapters of the proxy and of the learner."""

    rank: int = Field(8, ge=1, le=256)  # of the two matrices
    alpha: float = Field(16.0, gt=0)  # LoRA scaling is alpha / rank
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"  # layers that get an adapter, by name


class WarmupConfig(Section):
    """The short fine-tune on random pool rows that gives a fresh proxy adapter non-zero gradients."""

    rows: int = Field(64, ge=1)  # random rows of the pool
    epochs: int = Field(1, ge=1)  # over these rows
    batch_size: int = Field(8, ge=1)  # rows of one optimiser step
    learning_rate: float = Field(5e-4, gt=0)  # at first; it falls linearly to zero
    checkpoints: int = Field(1, ge=1)  # adapters kept on the way, each weighed by the mean learning rate before it
    threads: int = Field(2, ge=1)  # compute threads of this one process; part of what makes a run repeatable


class CascadeConfig(Section):
    """A cheap first pass over the pool that leaves a multiple of K to the features proper."""

    representation: Literal["rds", "embed", "hidden_mean"] = "rds"  # of the cheap pass
    model: str | None = None  # what it is taken from; null: the proxy (for embed: minilm)
    keep: float = Field(4.0, ge=1.1)  # candidates to keep, in multiples of selection.k
    recall_rows: int = Field(256, ge=0)  # random rows on which the loss is measured; 0: not measured


class FeatureConfig(Computed):
    """Features of candidates and target rows."""

    auto_tokens = (512, 32_768)

    representation: Representation = "auto"  # auto: what the selector's authors use
    model: str | None = None  # the proxy; null: the model that is trained (for embed: minilm)
    adapter: str | tuple[str, ...] | None = None  # ready adapter directories; null: warm one up
    adapter_weights: tuple[float, ...] | None = None  # weight of each adapter where there are several; null: equal
    parameters: Literal["lora", "base"] = "lora"  # whose gradients; base: the model's own linear layers
    dim: int = Field(2048, ge=8, le=65536)  # dimensions after the sketch, of one checkpoint
    sketch: SketchKind = "sparse"  # the random map to dim dimensions
    centred: bool = False  # take the mean of the pool's rows off all rows
    max_tokens: int = Field(512, ge=8)  # longer samples are truncated and flagged
    preconditioning: Preconditioning = "adam"  # how coordinates of gradients are weighed before the sketch
    precision: Precision = "auto"  # of the passes; sketch and norms are float32 always
    batch_tokens: PassTokens = "auto"  # padded tokens in one pass; auto: 512 on a CPU, 32768 on a GPU
    cascade: CascadeConfig | None = None
    warmup: WarmupConfig = WarmupConfig()
    seed: int | None = Field(None, ge=0)  # of warm-up and sketch; null: the run's. Runs that share it share features
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
