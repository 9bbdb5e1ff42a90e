"""Warm-up of a proxy's adapter: a short plain fine-tune that leaves B non-zero and Adam's moments behind.

At LoRA initialisation B = 0, so that grad A = 0 and gradient features would see half of the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from evoray.config import WarmupConfig
from evoray.errors import StageError
from evoray.models.chat import Encoded, encode
from evoray.models.loss import collate, sample_losses, token_budget_batches
from evoray.models.moments import Moments, save_moments, second_moments
from evoray.records import Row
from evoray.training.order import batches, learning_rate_factor, steps_of


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
) -> float:
    """One epoch over `rows`; adapter and moments go to `folder`. Returns the mean loss of the last step.

    Raises StageError if the loss is not finite.
    """
    samples = [sample for sample in encode(rows, tokenizer, max_tokens) if any(sample.supervised)]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=config.learning_rate, weight_decay=0.0)
    steps = steps_of(len(samples), config.batch_size, epochs=1)
    loss = float("nan")
    for step, indices in enumerate(batches(len(samples), config.batch_size, steps, seed)):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, steps, warmup_share=0.0)
        loss = accumulate_gradient(
            model,
            [samples[index] for index in indices],
            len(indices),
            int(tokenizer.pad_token_id),
            batch_tokens,
            precision,
        )
        if not torch.isfinite(torch.tensor(loss)):
            raise StageError(
                f"a loss of {loss} in step {step} of the warm-up",
                "a finite loss",
                "lower features.warmup.learning_rate",
            )
        optimizer.step()
        optimizer.zero_grad()
        progress(step + 1, steps)
    model.save_pretrained(folder, safe_serialization=True)
    save_moments(folder, Moments(second_moments(optimizer, trained), "optimizer"))
    return loss


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
