"""One rank's fine-tuning loop under DeepSpeed ZeRO.

Every rank knows all rows of the round (they are few), so that each can compute the same plan of batches.

The gradient of a step is that of the mean over its rows of the sample loss: the same loss whose gradients
selection works with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from evoray.config import TrainingConfig
from evoray.errors import StageError, StorageError
from evoray.models.chat import Encoded
from evoray.models.loss import Batch
from evoray.models.moments import Moments
from evoray.storage import scratch_folder
from evoray.training.checkpoints import Checkpoints, Progress
from evoray.training.order import batches, learning_rate_factor
from evoray.training.passes import Layout, Rank, passes
from evoray.training.zero import Model, SampleLoss, restore, save_trained, set_rate, start_engine

#: Called with the number of steps done, what was measured in the last one, and its rows and tokens over all ranks.
OnStep = Callable[[int, Mapping[str, float], int, int], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained on, in which order and how: the same on every rank."""

    samples: Sequence[Encoded]
    validate: Sequence[Encoded]  # rows that early stopping looks at; empty without it
    layout: Layout
    config: TrainingConfig
    steps: int
    seed: int
    precision: torch.dtype | None
    checkpoints: Checkpoints


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Where an interrupted training was: its model is loaded from the same checkpoint."""

    progress: Progress
    moments: Moments


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished loop reports."""

    progress: Progress
    kept_step: int  # whose weights are kept: the last, or the best one where early stopping looked
    seconds: float  # of this process in the loop, from the first step it did


def train_rank(
    model: Model, plan: Plan, folder: Path, rank: Rank, *, resume: Resume | None, on_step: OnStep
) -> TrainResult:
    """Train for the plan's steps; rank 0 leaves the weights and Adam's moments in `folder`.

    Collective: every rank calls it with the same arguments. Raises StageError if a loss or weight is not finite.
    """
    loop = _Loop(model, plan, rank, resume, on_step)
    started = time.monotonic()
    progress = loop.run()
    seconds = time.monotonic() - started
    kept = progress.step if progress.best_step is None else progress.best_step
    if not save_trained(loop.module, folder, plan.config, write=rank.index == 0, steps=progress.step):
        raise loop.diverged(f"weights that are not finite after step {progress.step}")
    if kept != progress.step and rank.index == 0:
        if plan.checkpoints.find(kept) is None:
            raise StorageError(
                f"no whole checkpoint of step {kept}, the best", "what was written there", "run it again"
            )
        plan.checkpoints.folder(kept).copy_to(folder)
    loop.engine.destroy()
    return TrainResult(progress=progress, kept_step=kept, seconds=seconds)


class _Loop:
    def __init__(self, model: Model, plan: Plan, rank: Rank, resume: Resume | None, on_step: OnStep) -> None:
        self.plan, self.rank, self.on_step = plan, rank, on_step
        self.module = SampleLoss(model, plan.precision)
        self.engine = start_engine(self.module, plan.config)
        self.device = next(model.parameters()).device
        self.progress = Progress() if resume is None else resume.progress
        self.saved: int | None = None  # step of the last checkpoint, which is kept until the next is good
        if resume is not None:
            self.saved = resume.progress.step
            restore(self.engine, self.module, resume.moments, self._batch(plan.samples, [0]))

    def run(self) -> Progress:
        config, plan = self.plan.config, self.plan
        order = batches([sample.ids for sample in plan.samples], config.batch_size, plan.steps, plan.seed)
        for step in range(self.progress.step, plan.steps):
            if self._stops_early():
                break
            self._step(step, order[step])
            looked = self._look()
            if looked or (config.checkpoint_steps and (step + 1) % config.checkpoint_steps == 0):
                self._checkpoint()
        return self.progress

    def _step(self, step: int, indices: Sequence[int]) -> None:
        config, started = self.plan.config, time.monotonic()
        factor = learning_rate_factor(step, self.plan.steps, config.warmup_share, config.schedule)
        set_rate(self.engine, config.learning_rate * factor)
        total = torch.zeros(1, device=self.device)
        planned = passes(self.plan.samples, indices, self.plan.layout, self.rank)
        for number, (rows, weight) in enumerate(planned):
            # DeepSpeed averages over ranks; the factor `size` turns its mean into the sum over all rows.
            loss = self.engine(self._batch(self.plan.samples, rows)) * (weight * self.rank.size / len(indices))
            self.engine.set_gradient_accumulation_boundary(number == len(planned) - 1)
            self.engine.backward(loss)
            self.engine.step()
            total += loss.detach() / self.rank.size
        torch.distributed.all_reduce(total)
        value, before = float(total), self.progress
        if not math.isfinite(value):
            raise self.diverged(f"a training loss of {value} in step {step + 1}")
        tokens = sum(len(self.plan.samples[index].ids) for index in indices)
        self.progress = replace(
            before,
            step=step + 1,
            first_loss=value if before.first_loss is None else before.first_loss,
            last_loss=value,
            tokens=before.tokens + tokens,
        )
        measured = {
            "loss": value,
            "learning_rate": config.learning_rate * factor,
            "gradient_norm": float(self.engine.get_global_grad_norm() or 0.0),
            "tokens_per_second": tokens / max(time.monotonic() - started, 1e-9),
        }
        self.on_step(step + 1, measured, len(indices), tokens)

    def _batch(self, samples: Sequence[Encoded], rows: Sequence[int]) -> Batch:
        return self.plan.layout.batch([samples[index] for index in rows]).to(self.device)

    def _stops_early(self) -> bool:
        early = self.plan.config.early_stop
        return early is not None and self.progress.worse >= early.patience

    def _look(self) -> bool:
        """Where early stopping looks after this step: note the validate loss; whether it is the best so far."""
        early, step = self.plan.config.early_stop, self.progress.step
        if early is None or (step % early.every and step < self.plan.steps):
            return False
        loss = self._validate_loss()
        if not math.isfinite(loss):
            raise self.diverged(f"a validate loss of {loss} after step {step}")
        self.on_step(step, {"validate_loss": loss}, 0, 0)
        best = self.progress.best_loss
        if best is not None and not loss < best:
            self.progress = replace(self.progress, worse=self.progress.worse + 1)
            return False
        self.progress = replace(self.progress, best_step=step, best_loss=loss, worse=0)
        return True

    def _validate_loss(self) -> float:
        rows = self.plan.validate
        total = torch.zeros(1, device=self.device)
        with torch.no_grad():
            for indices, weight in passes(rows, range(len(rows)), self.plan.layout, self.rank):
                losses: Tensor = self.engine(self._batch(rows, indices))
                total += losses * weight
        torch.distributed.all_reduce(total)
        return float(total) / len(rows)

    def _checkpoint(self) -> None:
        """Weights that are not finite are no checkpoint: the next loss tells."""
        progress, first = self.progress, self.rank.index == 0
        with scratch_folder() as folder:
            done = save_trained(self.module, folder, self.plan.config, write=first, steps=progress.step)
            if first and done:
                self.plan.checkpoints.save(folder, progress)
                kept = (progress.step, progress.best_step, self.saved)
                self.plan.checkpoints.keep({step for step in kept if step is not None})
                self.saved = progress.step

    def diverged(self, what: str) -> StageError:
        """What to tell of a training that cannot go on. Collective.

        Weights under which a loss is not finite are not kept.
        """
        checkpoints, step = self.plan.checkpoints, self.progress.step
        good = checkpoints.latest(below=step)
        torch.distributed.barrier()  # every rank has looked before one deletes
        if self.rank.index == 0:
            checkpoints.keep({one for one in (good and good.step, self.progress.best_step) if one})
        kept = (
            "no checkpoint was written before"
            if good is None
            else f"the last good checkpoint, of step {good.step}, is kept at {checkpoints.folder(good.step)}"
        )
        return StageError(
            f"{what} of {self.plan.steps}; {kept}",
            "a training that stays finite",
            "lower training.learning_rate in another run directory (`store` lets runs share features), or look for rows"
            " that the model cannot take; models of earlier rounds are unchanged",
        )
