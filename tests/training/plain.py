"""A plain fine-tuning loop to compare with: one sample at a time, the model's own loss, torch's AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from evoray.config import LoraConfig
from evoray.models.chat import Encoded, encode
from evoray.models.loading import load_model, load_tokenizer, new_adapter
from evoray.records import Message, Row


@dataclass(frozen=True, kw_only=True)
class Plain:
    """What the loop left behind, by the parameters' names."""

    losses: list[float]
    weights: dict[str, Tensor]
    first: dict[str, Tensor]  # exp_avg
    second: dict[str, Tensor]  # exp_avg_sq


def tiny_adapter(model_dir: Path) -> PeftModel:
    """A fresh adapter on the tiny model, with B away from zero so that A learns from the first step on."""
    model = new_adapter(load_model(str(model_dir)), LoraConfig(rank=2, alpha=4), seed=3)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def tiny_rows(count: int) -> list[Row]:
    """Rows whose lengths differ, so that the ranks' passes do too."""
    return [
        Row(
            id=f"row-{index}",
            messages=(Message("user", f"say {'ab' * (1 + 5 * (index % 4))}"), Message("assistant", "cd" * (index + 1))),
        )
        for index in range(count)
    ]


def tiny_samples(model_dir: Path, count: int) -> list[Encoded]:
    """The same rows as tokens."""
    return encode(tiny_rows(count), load_tokenizer(str(model_dir)), 96)


def train_plainly(
    model: PeftModel,
    samples: Sequence[Encoded],
    plan: Sequence[Sequence[int]],
    rates: Sequence[float],
    max_norm: float | None,
    weight_decay: float = 0.0,
) -> Plain:
    """One optimiser step a batch of the plan, at the rate given for it."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1.0, betas=(0.9, 0.999), weight_decay=weight_decay)
    losses = []
    for batch, rate in zip(plan, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        total = 0.0
        for index in batch:
            loss = _loss(model, samples[index]) / len(batch)
            loss.backward()
            total += loss.item()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained.values(), max_norm)
        optimizer.step()
        losses.append(total)
    states = {name: optimizer.state[parameter] for name, parameter in trained.items()}
    return Plain(
        losses=losses,
        weights={name: p.detach().clone() for name, p in trained.items()},
        first={name: state["exp_avg"] for name, state in states.items()},
        second={name: state["exp_avg_sq"] for name, state in states.items()},
    )


def _loss(model: PeftModel, sample: Encoded) -> Tensor:
    ids = torch.tensor([sample.ids])
    labels = ids.masked_fill(~torch.tensor([sample.supervised]), -100)
    loss: Tensor = model(input_ids=ids, labels=labels).loss
    return loss


def validate_loss(model_dir: Path, weights: dict[str, Tensor], rows: Sequence[Row]) -> float:
    """Mean loss of rows under the tiny model with these weights of its adapter."""
    model = tiny_adapter(model_dir)
    named = dict(model.named_parameters())
    for name, value in weights.items():
        named[name].data = value
    samples = encode(rows, load_tokenizer(str(model_dir)), 96)
    with torch.no_grad():
        return sum(_loss(model, sample).item() for sample in samples) / len(samples)
