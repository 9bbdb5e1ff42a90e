"""Settings of training and evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from evoray.config.section import Computed, PassTokens, Precision, Section, names_own
from evoray.errors import ConfigError

SCORERS = ("auto", "loss", "choice", "exact_match")


class EarlyStopConfig(Section):
    """Look at the validate loss on the way, keep the best weights seen, and stop when nothing gets better."""

    every: int = Field(10, ge=1)  # steps between two looks
    patience: int = Field(3, ge=1)  # looks in a row without a better loss


class TrainingConfig(Computed):
    """One round's fine-tuning: Ray Train launching DeepSpeed."""

    tokens_key = "micro_batch_tokens"
    auto_tokens = (512, 8192)

    weights: Literal["lora", "full"] = "lora"  # what is trained: an adapter, or the model's own weights
    epochs: int = Field(2, ge=1)  # over the rows that are trained on
    batch_size: int = Field(8, ge=1)  # rows of one optimiser step over all workers
    micro_batch_tokens: PassTokens = "auto"  # tokens in one pass of a worker; auto: 512 on a CPU, 8192 on a GPU
    packing: bool = True  # several rows in one sequence, without padding, where the model allows it
    learning_rate: float = Field(5e-4, gt=0)  # at its highest
    warmup_share: float = Field(0.1, ge=0, lt=1)  # share of the steps with rising learning rate
    schedule: Literal["linear", "cosine"] = "linear"  # how the learning rate falls to zero after that
    weight_decay: float = Field(0.0, ge=0)  # of AdamW
    max_grad_norm: float = Field(1.0, gt=0)  # longer gradients are scaled to it
    zero_stage: Literal[1, 2, 3] = 2  # of DeepSpeed: 1 spreads Adam's state, 2 gradients too, 3 weights too
    offload: Literal["none", "optimizer", "all"] = "none"  # from GPU to host memory: Adam's state, or weights as well
    workers: int = Field(2, ge=1)  # processes that train together
    precision: Precision = "auto"  # of the passes; trained weights are float32 always
    checkpoint_steps: int | None = Field(50, ge=1)  # steps between checkpoints to go on from; null: only early_stop's
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


class EvaluationConfig(Computed):
    """How models are scored on the target."""

    auto_tokens = (1024, 32_768)

    precision: Precision = "auto"  # of the passes
    batch_tokens: PassTokens = "auto"  # padded tokens in one pass; auto: 1024 on a CPU, 32768 on a GPU
    list_options: bool = False  # whether the prompt lists the options of a multiple-choice row
    scorer: str = "auto"  # auto (choice where rows have choices), loss, choice, exact_match, or package.module:function
    extract: str | dict[str, str] = "whole"  # how the answer is cut out of generated text: one rule, or one a subtask
    max_new_tokens: int = Field(64, ge=1)  # of a generated answer
    control: bool = True  # also train on random rows of the same tokens and planned steps, to compare

    @model_validator(mode="after")
    def _known_scorer(self) -> EvaluationConfig:
        if self.scorer not in SCORERS and not names_own(self.scorer):
            raise ConfigError(
                f"evaluation.scorer: {self.scorer!r}",
                f"one of {', '.join(SCORERS)}, or a function of yours as package.module:function",
                "correct the name",
            )
        return self
