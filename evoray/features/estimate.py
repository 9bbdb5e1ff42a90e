"""Second moments for an adapter that came without its optimiser: what Adam's would be on a slice of the pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from evoray.features.gradient import adapted_layers, per_sample_gradients
from evoray.models.loss import Tokens, collate, token_budget_batches
from evoray.models.moments import Moments


def estimate_moments(
    model: torch.nn.Module,
    samples: Sequence[Tokens],
    *,
    pad_id: int,
    batch_size: int,
    batch_tokens: int,
    precision: torch.dtype | None,
    progress: Callable[[int, int], None],
) -> Moments:
    """The mean, over batches of `batch_size` samples, of the batch gradient and of its square, elementwise.

    model: a PEFT LoRA model. The result counts no steps: there was no optimiser, and nothing is to be corrected.
    """
    model.eval().requires_grad_(False)
    layers = adapted_layers(model)
    device = next(model.parameters()).device
    first: dict[str, Tensor] = {}
    second: dict[str, Tensor] = {}
    groups = [samples[start : start + batch_size] for start in range(0, len(samples), batch_size)]
    for done, group in enumerate(groups, 1):
        mean: dict[str, Tensor] = {}

        def add(name: str, gradient_BOI: Tensor, mean: dict[str, Tensor] = mean, rows: int = len(group)) -> None:
            part = gradient_BOI.sum(0) / rows
            mean[name] = mean[name] + part if name in mean else part

        for indices in token_budget_batches([len(sample.ids) for sample in group], batch_tokens):
            batch = collate([group[index] for index in indices], pad_id)
            per_sample_gradients(model, layers, batch.to(device), add, precision)
        for name, gradient in mean.items():
            first[name] = first.get(name, 0) + gradient / len(groups)
            second[name] = second.get(name, 0) + gradient.square() / len(groups)
        progress(done, len(groups))
    return Moments(first=first, second=second, steps=0, origin="estimated")
