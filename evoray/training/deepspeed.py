"""One rank's fine-tuning loop under DeepSpeed ZeRO.

Every rank knows all rows of the round (they are few), so that each can compute the same plan of batches: an
optimiser step's rows are dealt to the ranks in turn, each rank splits its share by a token budget, and
ranks with fewer passes add passes of zero loss, because ZeRO's reductions pair up pass by pass.

The gradient of a step is that of the mean over its rows of the sample loss: the same loss whose gradients
selection works with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from evoray.config import TrainingConfig
from evoray.errors import StageError
from evoray.models.chat import Encoded
from evoray.models.loss import Batch, collate, sample_losses, token_budget_batches
from evoray.models.moments import BETAS, Moments, canonical_name, save_moments
from evoray.training.order import batches, learning_rate_factor


@dataclass(frozen=True, kw_only=True)
class Rank:
    """This process among the workers of the round."""

    index: int
    size: int


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished loop reports."""

    steps: int
    first_loss: float
    last_loss: float
    tokens: int  # unpadded tokens of all rows seen, over all ranks


class _SampleLoss(nn.Module):
    """The module that DeepSpeed wraps: a batch in, the sum of its sample losses out.

    Autocast lives inside, where ZeRO's own precision handling does not interfere.
    """

    def __init__(self, model: PeftModel, precision: torch.dtype | None) -> None:
        super().__init__()
        self.model = model
        self.precision = precision

    def forward(self, batch: Batch) -> Tensor:
        with torch.autocast(batch.ids_BT.device.type, self.precision, enabled=self.precision is not None):
            return sample_losses(self.model, batch).sum()


def train_rank(
    model: PeftModel,
    samples: Sequence[Encoded],
    pad_id: int,
    folder: Path,
    config: TrainingConfig,
    rank: Rank,
    *,
    steps: int,
    seed: int,
    precision: torch.dtype | None,
    on_step: Callable[[int, float], None],
) -> TrainResult:
    """Train the adapter for `steps` steps; rank 0 leaves adapter and moments in `folder`.

    Collective: every rank calls it with the same arguments. Raises StageError if the loss is not finite.
    """
    engine = _initialise(_SampleLoss(model, precision), config)
    device = next(model.parameters()).device
    losses: list[float] = []
    tokens = 0
    for step, indices in enumerate(batches(len(samples), config.batch_size, steps, seed)):
        rate = config.learning_rate * learning_rate_factor(step, steps, config.warmup_share, config.schedule)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros(1, device=device)
        passes = _passes(samples, indices, config.micro_batch_tokens, rank)
        for number, (rows, weight) in enumerate(passes):
            batch = collate([samples[index] for index in rows], pad_id).to(device)
            # DeepSpeed averages over ranks; the factor `size` turns its mean into the sum over all rows.
            loss = engine(batch) * (weight * rank.size / len(indices))
            engine.set_gradient_accumulation_boundary(number == len(passes) - 1)
            engine.backward(loss)
            engine.step()
            total += loss.detach() / rank.size
        torch.distributed.all_reduce(total)
        losses.append(float(total))
        if not math.isfinite(losses[-1]):
            raise StageError(
                f"a training loss of {losses[-1]} in step {step}",
                "a finite loss",
                "lower training.learning_rate; the best model so far is unchanged",
            )
        tokens += sum(len(samples[index].ids) for index in indices)
        on_step(step + 1, losses[-1])
    _save(engine, model, folder, config.zero_stage, rank, steps)
    return TrainResult(steps=steps, first_loss=losses[0], last_loss=losses[-1], tokens=tokens)


def _initialise(module: _SampleLoss, config: TrainingConfig) -> Any:
    import deepspeed  # here and not above: importing it decides the accelerator of the process

    optimizer = {
        "lr": config.learning_rate,
        "betas": list(BETAS),
        "weight_decay": config.weight_decay,
        "torch_adam": True,
    }
    settings = {
        # Batch sizes only feed DeepSpeed's own accounting: the loop decides where a step ends.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "optimizer": {"type": "AdamW", "params": optimizer},
        "zero_optimization": {"stage": config.zero_stage},
        "steps_per_print": 10**9,
    }
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    engine, *_ = deepspeed.initialize(model=module, model_parameters=trained, config=settings)
    return engine


def _passes(
    samples: Sequence[Encoded], indices: Sequence[int], budget: int, rank: Rank
) -> list[tuple[list[int], float]]:
    """This rank's passes of one step as (rows, weight); weight 0 fills up to the longest rank's number."""
    plans = []
    for worker in range(rank.size):
        share = list(indices[worker :: rank.size])
        groups = token_budget_batches([len(samples[index].ids) for index in share], budget)
        plans.append([[share[place] for place in group] for group in groups])
    longest = max(len(plan) for plan in plans)
    mine: list[tuple[list[int], float]] = [(rows, 1.0) for rows in plans[rank.index]]
    return mine + [([indices[0]], 0.0)] * (longest - len(mine))


def _save(engine: Any, model: PeftModel, folder: Path, stage: int, rank: Rank, steps: int) -> None:
    """Gather what ZeRO spread out; every rank takes part, rank 0 writes."""
    import deepspeed
    from deepspeed.utils import safe_get_full_optimizer_state

    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def gathered(kind: str) -> dict[str, Tensor]:
        states = {name: safe_get_full_optimizer_state(parameter, kind) for name, parameter in trained.items()}
        return {canonical_name(name): state.detach().cpu().float() for name, state in states.items()}

    moments = Moments(first=gathered("exp_avg"), second=gathered("exp_avg_sq"), steps=steps, origin="optimizer")
    with deepspeed.zero.GatheredParameters(list(trained.values()), enabled=stage == 3):
        if rank.index == 0:
            model.save_pretrained(folder, safe_serialization=True)
            save_moments(folder, moments)
    engine.destroy()
