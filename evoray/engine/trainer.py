"""Launch one fine-tuning: Ray Train starts the workers, each runs DeepSpeed's loop on the same few rows."""

from __future__ import annotations

import os
import tempfile
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from evoray.config import LoraConfig, TrainingConfig
from evoray.engine.events import Stage
from evoray.engine.progress import Counter, watched
from evoray.engine.remote import evoray_cause
from evoray.engine.session import Session
from evoray.errors import EvorayError, StageError
from evoray.models.folder import Folder


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One training: everything a worker needs, picklable."""

    data: str | tuple[str, ...]  # paths or URIs of the rows, in any accepted format
    model: str
    start: Folder | None  # adapter to go on from; None: a fresh one
    out: Folder
    lora: LoraConfig
    config: TrainingConfig
    max_tokens: int
    max_chars: int  # of one row, as the pool was read with
    steps: int | None  # None: as many as the config's epochs take
    seed: int
    threads: int


def train(job: TrainJob, session: Session, stage: Stage) -> dict[str, Any]:
    """Run the job to its end; its facts: steps, tokens, rows, first and last loss.

    Raises StageError where a worker failed.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    job = replace(job, config=session.settled(job.config))
    counter = Counter.start()
    outcome = f"training/{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="evoray-train-") as scratch:
        # Ray Train keeps its own state under storage_path; the adapter goes to the run's storage instead.
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"job": job, "counter": counter, "outcome": outcome},
            torch_config=TorchConfig(backend="nccl" if session.gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=job.config.workers,
                use_gpu=session.gpus > 0,
                resources_per_worker={"CPU": 1, "GPU": session.gpus} if session.gpus else {"CPU": 1},
            ),
            run_config=RunConfig(
                name=outcome.replace("/", "-"),
                storage_path=scratch if job.out.storage.is_local else job.out.storage.location("ray-train"),
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        try:
            with watched(counter, stage):
                trainer.fit()
        except Exception as error:
            raise _failure(error) from error
        finally:
            ray.kill(counter)
    facts: dict[str, Any] = job.out.storage.read_json(f"{job.out.prefix}/training.json")
    return facts


def _train_worker(settings: dict[str, Any]) -> None:
    """One rank, inside a Ray Train worker."""
    import torch

    job: TrainJob = settings["job"]
    torch.set_num_threads(job.threads)
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported, which comes later
    from ray.train import get_context

    from evoray.models.chat import encode
    from evoray.models.loading import autocast_dtype, load_adapter, load_model, load_tokenizer, new_adapter, to_device
    from evoray.pool import load_rows
    from evoray.training.deepspeed import Rank, train_rank
    from evoray.training.order import steps_of

    context = get_context()
    rank = Rank(index=context.get_world_rank(), size=context.get_world_size())
    tokenizer = load_tokenizer(job.model)
    base = load_model(job.model)
    if job.start is None:
        model = new_adapter(base, job.lora, job.seed)
    else:
        model = load_adapter(base, job.start.fetch(), trainable=True)
    rows, refused = load_rows(job.data, job.max_chars)
    samples = [sample for sample in encode(rows, tokenizer, job.max_tokens) if any(sample.supervised)]
    steps = job.steps or steps_of(len(samples), job.config.batch_size, job.config.epochs)

    def on_step(step: int, _loss: float) -> None:
        if rank.index == 0:
            settings["counter"].reach.remote(step, steps)

    with tempfile.TemporaryDirectory(prefix="evoray-adapter-") as scratch:
        result = train_rank(
            to_device(model),
            samples,
            int(tokenizer.pad_token_id),
            Path(scratch),
            job.config,
            rank,
            steps=steps,
            seed=job.seed,
            precision=autocast_dtype(job.config.precision),
            on_step=on_step,
        )
        if rank.index == 0:
            job.out.upload(Path(scratch))
            facts = {
                "rows": len(samples),
                "left_out": len(refused) + len(rows) - len(samples),  # unusable, or without a supervised token
                "row_tokens": sum(len(sample.ids) for sample in samples),
                "steps": result.steps,
                "tokens": result.tokens,
                "first_loss": result.first_loss,
                "last_loss": result.last_loss,
            }
            job.out.storage.write_json(f"{job.out.prefix}/training.json", facts)


def _failure(error: Exception) -> EvorayError:
    """The evoray error inside Ray Train's wrapping, or one that carries its text."""
    return evoray_cause(error) or StageError(
        f"training failed: {error}", "a training that runs to its end", "see the message; the same command resumes"
    )
