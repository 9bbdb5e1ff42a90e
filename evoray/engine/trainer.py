"""Launch fine-tunings: Ray Train starts workers once, and each runs DeepSpeed's loop on the same rows, job by job."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evoray.config import LoraConfig, TrainingConfig
from evoray.engine import metrics
from evoray.engine.events import Events, Stage
from evoray.engine.progress import NEVER, Measured, counted
from evoray.engine.remote import evoray_cause
from evoray.engine.session import Session, asked_and_free
from evoray.engine.site import Source, fingerprint
from evoray.engine.trackers import tracking
from evoray.errors import ConfigError, EvorayError, StageError, StorageError, UserError
from evoray.models.folder import OUTCOME_FILE, Folder
from evoray.models.memory import is_out_of_memory, peak_mb
from evoray.storage import scratch_folder

if TYPE_CHECKING:
    from evoray.training.checkpoints import Checkpoints, Progress

#: Settings that say where and how often, not what is trained: a training may go on under others.
WHERE = {"workers", "zero_stage", "offload", "checkpoint_steps"}

#: So many trainings in one launch are no longer shown by name.
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One training: everything a worker needs, picklable."""

    name: str  # for people
    data: str | tuple[str, ...]  # paths or URIs of the rows, in any accepted format
    model: str
    start: Folder | None  # what an earlier training left, to go on from; None: the model as it is
    out: Folder
    inputs: Mapping[str, str | None]  # fingerprints of data, model, start and validate rows
    lora: LoraConfig
    config: TrainingConfig
    max_tokens: int
    max_chars: int  # of one row, as the pool was read with
    steps: int | Folder | None  # as many as another training planned; None: as many as the config's epochs take
    seed: int
    threads: int
    validate: Source | None = None  # rows that early stopping looks at

    @property
    def identity(self) -> str:
        """What is trained on what, and how: equal jobs are trained once, and go on from each other's checkpoints."""
        return fingerprint(
            inputs=dict(self.inputs),
            lora=self.lora.model_dump(),
            config=self.config.model_dump(exclude=WHERE),
            max_tokens=self.max_tokens,
            max_chars=self.max_chars,
            steps=self.steps.prefix if isinstance(self.steps, Folder) else self.steps,
            seed=self.seed,
        )

    @property
    def checkpoints(self) -> Checkpoints:
        """Where it goes on from; they are deleted when it is done."""
        from evoray.training.checkpoints import Checkpoints

        return Checkpoints(storage=self.out.storage, prefix=f"checkpoints/{self.out.prefix}", identity=self.identity)

    def outcome(self) -> dict[str, Any] | None:
        """The facts of the finished training, or None."""
        if not self.out.has(OUTCOME_FILE):
            return None
        facts: dict[str, Any] = self.out.storage.read_json(f"{self.out.prefix}/{OUTCOME_FILE}")
        return facts if facts.pop("identity") == self.identity else None


def train(
    jobs: Sequence[TrainJob], session: Session, events: Events, given_up: threading.Event = NEVER
) -> list[dict[str, Any]]:
    """Run the jobs to their end, all in one launch; their facts: rows, steps, tokens, first and last loss ...

    A job that was done before is not run again, and one that was interrupted goes on from its last checkpoint. A lost
    worker costs a new launch: `session.attempts` in a row that got no further end the stage. given_up: of launches in
    threads, set where the others ended by an error. Raises the workers' EvorayError, StageError, or CancelledError.
    """
    jobs = [_checked(replace(job, config=session.settled(job.config))) for job in jobs]
    begun = [job for job in jobs if job.outcome() is None]
    if begun:
        session.check_training(begun[0].config.workers)
        label = " and ".join(job.name for job in jobs) if len(jobs) < _NAMED else f"{len(begun)} models"
        with events.stage(f"train {label}", 0) as stage:
            _train_all(begun, session, events, stage, given_up)
            for job in begun:
                facts = _outcome(job)
                stage.count(rows=facts["rows"], tokens=facts["tokens"], worker_seconds=facts["seconds"])
                stage.highest(peak_mb=facts["peak_mb"])
    outcomes = {job.name: _outcome(job) for job in jobs}
    for job in jobs:
        job.checkpoints.keep(set())  # nothing goes on from them any more
    for job in begun:
        events.write("trained", job=job.name, **outcomes[job.name])
    return list(outcomes.values())


def _train_all(
    jobs: Sequence[TrainJob], session: Session, events: Events, stage: Stage, given_up: threading.Event
) -> None:
    """Launch until all are done. Raises as `train`."""
    failures, reached, halvings = 0, _reached(jobs), 0
    while any(job.outcome() is None for job in jobs):
        try:
            _launch([job for job in jobs if job.outcome() is None], halvings, session, events, stage, given_up)
        except Exception as error:
            if given_up.is_set():  # there may be no Ray to try it on again
                raise
            known = evoray_cause(error)
            if isinstance(known, UserError | StageError):  # of no other outcome if tried again
                raise known from error
            before, reached = reached, _reached(jobs)
            failures = 1 if reached > before else failures + 1
            if failures >= session.attempts:
                raise _given_up(error, failures) from error
            halvings += is_out_of_memory(error)
            events.write("training interrupted", error=str(error), jobs_and_step=reached, halvings=halvings)
            events.display.note(
                f"training was interrupted ({_reason(error)}): it goes on from its last checkpoint"
                + (f", with 1/{2**halvings} of training.micro_batch_tokens in a pass" if halvings else "")
            )


def _outcome(job: TrainJob) -> dict[str, Any]:
    facts = job.outcome()
    if facts is None:
        raise StorageError(f"no outcome of {job.name} in {job.out}", "what its training wrote", "run it again")
    return facts


def _checked(job: TrainJob) -> TrainJob:
    if job.config.early_stop is not None and job.validate is None:
        raise ConfigError(
            "training.early_stop without a target",
            "a target, whose validate rows it looks at",
            "add --target, or leave training.early_stop out",
        )
    return job


def _reached(jobs: Sequence[TrainJob]) -> tuple[int, int]:
    """How far the jobs are: how many are done, and the last checkpoint of the first one that is not."""
    pending = [job for job in jobs if job.outcome() is None]
    progress = pending[0].checkpoints.latest() if pending else None
    return len(jobs) - len(pending), 0 if progress is None else progress.step


def _launch(
    jobs: Sequence[TrainJob],
    halvings: int,
    session: Session,
    events: Events,
    stage: Stage,
    given_up: threading.Event,
) -> None:
    """One start of the workers. halvings: how often a pass was cut in two, for want of memory."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    storage = jobs[0].out.storage
    begun = [(job, job.checkpoints.latest()) for job in jobs]
    resources = {"CPU": 1.0, "GPU": session.gpus} if session.gpus else {"CPU": 1.0}
    with (
        scratch_folder() as scratch,
        tracking(storage, {job.name: 0 if at is None else at.step for job, at in begun}) as track,
    ):

        def fit(counter: Any) -> None:
            TorchTrainer(
                _train_worker,
                train_loop_config={"jobs": begun, "halvings": halvings, "counter": counter},
                torch_config=TorchConfig(backend="nccl" if session.gpus else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=jobs[0].config.workers,
                    use_gpu=session.gpus > 0,
                    resources_per_worker=resources,
                ),
                run_config=RunConfig(
                    name=f"training-{uuid.uuid4().hex}",
                    # Ray Train's own state; what is trained goes to the run's storage instead.
                    storage_path=str(scratch) if storage.is_local else storage.location("ray-train"),
                    failure_config=FailureConfig(max_failures=0),  # `train` counts: it knows which are no faults
                ),
            ).fit()

        launched, started = time.time(), False

        def on_measured(measured: Measured) -> None:
            nonlocal started
            values = dict(measured)
            at = values.pop("time")
            if not started:
                events.write("first step", job=values["series"], seconds_from_launch=round(at - launched, 3))
                started = True
            track.scalars(values.pop("series"), int(values.pop("step")), values)

        def waiting() -> str:
            return f"no step of {jobs[0].config.workers} workers: {asked_and_free(resources)}"

        try:
            counted(fit, stage, session.stall, waiting, on_measured, given_up)
        finally:
            for problem in track.problems:
                events.display.note(problem)


def _train_worker(settings: dict[str, Any]) -> None:
    """One rank, inside a Ray Train worker."""
    import torch

    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported, which comes later
    from ray.train import get_context

    from evoray.training.passes import Rank

    context = get_context()
    rank = Rank(index=context.get_world_rank(), size=context.get_world_size())
    jobs, before = settings["jobs"], 0
    for place, (job, progress) in enumerate(jobs):
        torch.set_num_threads(job.threads)
        left = len(jobs) - place
        before += _train_one(job, progress, settings["halvings"], rank, settings["counter"], before, left)


def _train_one(
    job: TrainJob, progress: Progress | None, halvings: int, rank: Any, counter: Any, before: int, left: int
) -> int:
    """Train one model; the steps that were planned. before: steps of earlier jobs; left: jobs, this one included."""
    import torch

    from evoray.models.flops import FORWARD_AND_BACKWARD, flops_per_token
    from evoray.models.loading import autocast_dtype, cast_frozen, load_tokenizer, to_device
    from evoray.models.moments import load_moments
    from evoray.training.deepspeed import Plan, Resume, train_rank

    resumed = None if progress is None else job.checkpoints.folder(progress.step).fetch()
    precision = autocast_dtype(job.config.precision)
    data = _read_samples(job, load_tokenizer(job.model))
    model = to_device(_open_model(job, resumed))
    layout = data.layout(model, job.config.packing, job.config.pass_tokens >> halvings)
    if job.config.weights == "lora":
        model = cast_frozen(model, precision)
    moments = None if resumed is None else load_moments(resumed)
    plan = Plan(
        samples=data.samples,
        validate=data.validate,
        layout=layout,
        config=job.config,
        steps=_steps(job, len(data.samples)),
        seed=job.seed,
        precision=precision,
        checkpoints=job.checkpoints,
    )
    operations = flops_per_token(model, FORWARD_AND_BACKWARD)  # before ZeRO takes the weights apart

    def on_step(step: int, measured: Mapping[str, float], rows: int, tokens: int) -> None:
        if rank.index == 0:
            # How long a job is it knows when it begins: those that follow are taken to be as long as this one.
            counter.reach.remote(before + step, before + plan.steps * left)
            counter.note.remote({"series": job.name, "step": step, "time": time.time(), **measured})
            metrics.trained(job.name, measured, rows, tokens, operations / rank.size)

    with scratch_folder() as scratch:
        resume = None if progress is None or moments is None else Resume(progress=progress, moments=moments)
        result = train_rank(model, plan, scratch, rank, resume=resume, on_step=on_step)
        if rank.index == 0:
            job.out.replace_by(scratch, OUTCOME_FILE)
            facts = _outcome_facts(job, data, plan, result, progress)
            job.out.storage.write_json(f"{job.out.prefix}/{OUTCOME_FILE}", facts)
    torch.distributed.barrier()  # the next job may read what this one wrote
    return plan.steps


def _outcome_facts(job: TrainJob, data: _Data, plan: Any, result: Any, progress: Progress | None) -> dict[str, Any]:
    done = result.progress
    return {
        "identity": job.identity,
        "model": job.inputs.get("model"),
        "rows": len(data.samples),
        "left_out": data.left_out,
        "row_tokens": sum(len(sample.ids) for sample in data.samples),
        "steps": done.step,
        "planned_steps": plan.steps,
        "kept_step": result.kept_step,
        "resumed_from": 0 if progress is None else progress.step,
        "tokens": done.tokens,
        "first_loss": done.first_loss,
        "last_loss": done.last_loss,
        "validate_loss": done.best_loss,
        "packed": plan.layout.packed,
        "seconds": round(result.seconds, 3),
        "peak_mb": round(peak_mb()),
    }


@dataclass(frozen=True, kw_only=True)
class _Data:
    samples: list[Any]
    validate: list[Any]
    left_out: int  # rows that are unusable, or without a supervised token
    pad_id: int

    def layout(self, model: Any, packing: bool, budget: int) -> Any:
        import torch

        from evoray.models.packing import keeps_packed_apart
        from evoray.training.passes import Layout

        # Passes have to pair up over the ranks: all pack, or none does.
        agreed = torch.tensor([float(packing and keeps_packed_apart(model))])
        agreed = agreed.to(next(model.parameters()).device)
        torch.distributed.all_reduce(agreed, op=torch.distributed.ReduceOp.MIN)
        packed = bool(agreed)
        return Layout(pad_id=self.pad_id, budget=budget, packed=packed)


def _read_samples(job: TrainJob, tokenizer: Any) -> _Data:
    from evoray.models.chat import encode
    from evoray.pool import load_rows

    rows, refused = load_rows(job.data, job.max_chars)
    samples = [sample for sample in encode(rows, tokenizer, job.max_tokens) if any(sample.supervised)]
    looked = [] if job.validate is None or job.config.early_stop is None else job.validate.read()
    validate = [sample for sample in encode(looked, tokenizer, job.max_tokens) if any(sample.supervised)]
    for kind, needed, found in (("training", True, samples), ("validate", bool(looked), validate)):
        if needed and not found:
            raise StageError(
                f"no {kind} row of {job.name} with a token that carries loss",
                "rows whose response begins within features.max_tokens",
                "raise features.max_tokens, or look at the rows",
            )
    left_out = len(refused) + len(rows) - len(samples)
    return _Data(samples=samples, validate=validate, left_out=left_out, pad_id=int(tokenizer.pad_token_id))


def _open_model(job: TrainJob, resumed: str | None) -> Any:
    """The model with what is to be trained of it. Raises ModelError."""
    from peft import PeftModel

    from evoray.errors import ModelError
    from evoray.models.loading import is_whole_model, load_model, load_trained, new_adapter

    folder = resumed or (None if job.start is None else job.start.fetch())
    if job.config.weights == "full":
        model = load_trained(job.model, folder)
        return (model.merge_and_unload() if isinstance(model, PeftModel) else model).requires_grad_(True)
    if folder is None:
        return new_adapter(load_model(job.model), job.lora, job.seed)
    if is_whole_model(folder):
        raise ModelError(
            f"{folder}, a whole model, to train an adapter further",
            "an adapter, for training.weights: lora",
            "give the folder as the model, or set training.weights: full",
        )
    return load_trained(job.model, folder, trainable=True)


def _steps(job: TrainJob, rows: int) -> int:
    from evoray.training.order import steps_of

    if isinstance(job.steps, Folder):
        return int(job.steps.storage.read_json(f"{job.steps.prefix}/{OUTCOME_FILE}")["planned_steps"])
    return job.steps or steps_of(rows, job.config.batch_size, job.config.epochs)


def _given_up(error: Exception, failures: int) -> EvorayError:
    return StageError(
        f"training lost its workers {failures} times in a row without getting further: {error}",
        "a training that runs to its end",
        "see the message; more memory for each worker, or checkpoints more often (training.checkpoint_steps), and the"
        " same command goes on",
    )


def _reason(error: BaseException) -> str:
    """The last line of what Ray Train says, where the worker's own error is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
