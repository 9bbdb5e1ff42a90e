"""Warm-up of a proxy's adapter: a short plain fine-tune that leaves B non-zero and Adam's moments behind.

At LoRA initialisation B = 0, so that grad A = 0 and gradient features would see half of the adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from evoray.config import WarmupConfig
from evoray.errors import ConfigError, StageError
from evoray.models.chat import Encoded, encode
from evoray.models.loading import write_trained
from evoray.models.loss import collate, sample_losses, token_budget_batches
from evoray.models.moments import BETAS, optimizer_moments, save_moments
from evoray.records import Row
from evoray.training.order import batches, learning_rate_factor, steps_of


@dataclass(frozen=True, kw_only=True)
class WarmedUp:
    """How a warm-up ended."""

    loss: float  # mean over the rows of the last step
    weights: list[float]  # of each checkpoint: the mean learning rate of the steps that led to it


def warm_up(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    folder: Path,
    config: WarmupConfig,
    *,
    seed: int,
    max_tokens: int,
    batch_tokens: int,
    precision: torch.dtype | None,
    progress: Callable[[int, int], None],
) -> WarmedUp:
    """Train on `rows`; adapters and moments go to `folder/checkpoint-1` and on, the last one after the last step.

    Raises StageError if the loss is not finite, ConfigError for more checkpoints than steps.
    """
    samples = [sample for sample in encode(rows, tokenizer, max_tokens) if any(sample.supervised)]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=config.learning_rate, betas=BETAS, weight_decay=0.0)
    steps = steps_of(len(samples), config.batch_size, epochs=config.epochs)
    ends = _part_ends(steps, config.checkpoints)
    rates = [config.learning_rate * learning_rate_factor(step, steps, warmup_share=0.0) for step in range(steps)]
    loss = float("nan")
    for step, indices in enumerate(batches([sample.ids for sample in samples], config.batch_size, steps, seed)):
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        loss = accumulate_gradient(
            model,
            [samples[index] for index in indices],
            len(indices),
            int(tokenizer.pad_token_id),
            batch_tokens,
            precision,
        )
        if not math.isfinite(loss):
            raise StageError(
                f"a loss of {loss} in step {step} of the warm-up",
                "a finite loss",
                "lower features.warmup.learning_rate",
            )
        optimizer.step()
        optimizer.zero_grad()
        if step + 1 in ends:
            part = folder / f"checkpoint-{ends.index(step + 1) + 1}"
            write_trained(model, part)
            save_moments(part, optimizer_moments(optimizer, trained, step + 1))
        progress(step + 1, steps)
    parts = zip([0, *ends], ends, strict=False)
    return WarmedUp(loss=loss, weights=[sum(rates[start:end]) / (end - start) for start, end in parts])


def _part_ends(steps: int, checkpoints: int) -> list[int]:
    """The steps after which an adapter is kept: parts of equal length."""
    if checkpoints > steps:
        raise ConfigError(
            f"features.warmup.checkpoints = {checkpoints} in {steps} steps",
            "at most one checkpoint a step",
            "lower it, or raise features.warmup.rows or epochs",
        )
    return [steps * part // checkpoints for part in range(1, checkpoints + 1)]


def accumulate_gradient(
    model: PeftModel,
    samples: Sequence[Encoded],
    global_rows: int,
    pad_id: int,
    batch_tokens: int,
    precision: torch.dtype | None,
) -> float:
    """Add the gradient of sum(loss of samples) / global_rows in token-budget passes; return that value."""
    total = 0.0
    device = next(model.parameters()).device
    for indices in token_budget_batches([len(sample.ids) for sample in samples], batch_tokens):
        batch = collate([samples[index] for index in indices], pad_id).to(device)
        with torch.autocast(device.type, precision, enabled=precision is not None):
            loss = sample_losses(model, batch).sum() / global_rows
        torch.autograd.backward(loss)
        total += float(loss.detach())
    return total
