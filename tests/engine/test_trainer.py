"""Trainings that Ray Train runs on two workers against a plain loop, and what becomes of them in trouble."""

from __future__ import annotations

import hashlib
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from torch import Tensor

from evoray.config import EarlyStopConfig
from evoray.engine import trainer
from evoray.engine.events import Events, Silent
from evoray.engine.session import Session
from evoray.engine.trainer import TrainJob, train
from evoray.errors import ConfigError, StageError
from evoray.models.loading import load_model
from evoray.models.moments import canonical_name, load_moments
from tests.engine.training_jobs import ROWS, SEED, STEPS, VALIDATE, Workbench
from tests.processes import named
from tests.training.curves import scalars
from tests.training.plain import Plain, tiny_samples, validate_loss

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STAGES = ("zero-1", "zero-2", "zero-3")
EARLY = {"learning_rate": 0.03, "early_stop": EarlyStopConfig(every=2, patience=2)}
LONG = 40  # steps


@pytest.fixture(scope="module")
def bench(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return Workbench.at(tmp_path_factory.mktemp("trainings"), tiny_model_dir)


@dataclass
class Shares(Silent):
    """How far a stage was said to be."""

    seen: list[tuple[int, int]] = field(default_factory=list)

    def share(self, done: int, total: int) -> None:
        self.seen.append((done, total))


@pytest.fixture(scope="module")
def shares() -> Shares:
    return Shares()


@pytest.fixture(scope="module")
def trained(bench: Workbench, shares: Shares, ray_session: Session) -> Workbench:
    """All trainings that nothing disturbs, in one launch: starting it costs more than they do."""
    jobs = [bench.job(f"zero-{stage}", zero_stage=stage, checkpoint_steps=2) for stage in (1, 2, 3)]
    jobs += [
        bench.job("padded", packing=False),
        bench.job("offloaded", zero_stage=3, offload="all"),
        replace(bench.job("follower"), steps=bench.job("zero-1").out),
        *(bench.job(f"bfloat16-{stage}", zero_stage=stage, precision="bfloat16") for stage in (2, 3)),
        bench.job("full-2", weights="full"),
        bench.job("full-3", weights="full", zero_stage=3),
        bench.job("early", steps=LONG, **EARLY),
        bench.job("long", steps=LONG),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", (bench.folder / "mlflow").as_uri())
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        train(jobs, ray_session, events(bench, shares))
    return bench


def events(bench: Workbench, display: Silent | None = None) -> Events:
    return Events(bench.job("any").out.storage, display)


@pytest.fixture(scope="module")
def plain(bench: Workbench) -> Plain:
    return bench.plainly()


def weights(folder: Path) -> dict[str, Tensor]:
    return {canonical_name(name): tensor for name, tensor in load_file(folder / "adapter_model.safetensors").items()}


@pytest.mark.parametrize("name", [*STAGES, "padded", "offloaded"])
def test_the_adapter_is_that_of_a_plain_loop(trained: Workbench, plain: Plain, name: str) -> None:
    found = weights(trained.out(name))
    assert set(found) == {canonical_name(name) for name in plain.weights}
    for parameter, expected in plain.weights.items():
        torch.testing.assert_close(found[canonical_name(parameter)], expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("name", [*STAGES, "padded", "offloaded"])
def test_the_loss_curve_is_that_of_a_plain_loop(trained: Workbench, plain: Plain, name: str) -> None:
    curve = scalars(trained.folder / "out" / "tensorboard" / name, "loss")
    assert [curve[step] for step in range(1, STEPS + 1)] == pytest.approx(plain.losses, rel=1e-4)
    facts = trained.facts(name)
    assert (facts["first_loss"], facts["last_loss"]) == pytest.approx((plain.losses[0], plain.losses[-1]), rel=1e-4)


@pytest.mark.parametrize("name", ["bfloat16-2", "bfloat16-3"])
def test_bfloat16_follows_the_curve_within_its_precision(trained: Workbench, plain: Plain, name: str) -> None:
    curve = scalars(trained.folder / "out" / "tensorboard" / name, "loss")
    assert [curve[step] for step in range(1, STEPS + 1)] == pytest.approx(plain.losses, rel=2e-3)
    assert list(curve.values()) != plain.losses
    assert all(tensor.dtype == torch.float32 for tensor in weights(trained.out(name)).values())


@pytest.mark.parametrize("name", STAGES)
def test_the_stored_moments_are_those_of_a_plain_loop(trained: Workbench, plain: Plain, name: str) -> None:
    moments = load_moments(trained.out(name))
    assert moments is not None
    assert set(moments.second) == set(moments.first) == {canonical_name(one) for one in plain.second}
    assert moments.steps == STEPS
    for parameter, expected in plain.second.items():
        found = canonical_name(parameter)
        torch.testing.assert_close(moments.first[found], plain.first[parameter], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(moments.second[found], expected, rtol=1e-3, atol=1e-9)


def test_a_training_can_take_as_many_steps_as_one_before_it(trained: Workbench) -> None:
    assert (trained.facts("follower")["planned_steps"], trained.facts("follower")["steps"]) == (STEPS, STEPS)


def test_rows_and_tokens_are_counted_over_all_ranks(trained: Workbench) -> None:
    facts, rows = trained.facts("zero-2"), [one.ids for one in tiny_samples(trained.model, ROWS)]
    lengths = [len(row) for row in rows]
    assert (facts["rows"], facts["row_tokens"]) == (ROWS, sum(lengths))
    assert facts["tokens"] == sum(lengths) + sum(lengths[index] for index in _second_epoch(rows))


def _second_epoch(rows: list[list[int]]) -> list[int]:
    """Rows of steps 4 and 5, of which the second pass over 7 rows in batches of 3 consists."""
    tokens = [b"".join(struct.pack("<q", token) for token in row) for row in rows]
    keys = [hashlib.blake2b(f"{SEED} 1 ".encode() + one, digest_size=16).hexdigest() for one in tokens]
    return sorted(range(ROWS), key=keys.__getitem__)[:6]


def test_packed_and_padded_passes_train_the_same(trained: Workbench) -> None:
    assert (trained.facts("zero-2")["packed"], trained.facts("padded")["packed"]) == (True, False)
    packed, padded = weights(trained.out("zero-2")), weights(trained.out("padded"))
    for name, tensor in packed.items():
        torch.testing.assert_close(tensor, padded[name], rtol=1e-4, atol=1e-6)


def test_all_weights_can_be_trained_at_every_stage(trained: Workbench) -> None:
    two, three = (load_file(trained.out(name) / "model.safetensors") for name in ("full-2", "full-3"))
    before = load_model(str(trained.model)).state_dict()
    assert set(two) == set(three)
    for name, tensor in two.items():
        torch.testing.assert_close(tensor, three[name], rtol=1e-3, atol=1e-5)
        assert not torch.equal(tensor, before[name]), name
    assert load_model(str(trained.out("full-2"))).config.vocab_size == before["lm_head.weight"].shape[0]
    assert trained.facts("full-2")["last_loss"] < trained.facts("full-2")["first_loss"]


def test_training_stops_early_and_keeps_the_best_weights(trained: Workbench) -> None:
    facts = trained.facts("early")
    looks = {}
    for step in range(2, facts["steps"] + 1, 2):
        before = trained.plainly(step, LONG, **EARLY)
        looks[step] = validate_loss(trained.model, before.weights, VALIDATE)
    best = min(looks, key=lambda step: looks[step])
    assert facts["steps"] == best + 4 < LONG, "two looks without a better one after the best"
    assert facts["kept_step"] == best
    assert facts["validate_loss"] == pytest.approx(looks[best], rel=1e-3)
    found = weights(trained.out("early"))
    for name, expected in trained.plainly(best, LONG, **EARLY).weights.items():
        torch.testing.assert_close(found[canonical_name(name)], expected, rtol=0.02, atol=1e-3)


def test_a_finished_training_leaves_no_checkpoint_and_is_not_run_again(
    trained: Workbench, ray_session: Session
) -> None:
    assert [path for path in (trained.folder / "out" / "checkpoints").rglob("*") if path.is_file()] == []
    before = (trained.out("zero-1") / "training.json").stat().st_mtime_ns
    job = trained.job("zero-1", zero_stage=3, workers=1)  # where it runs makes it no other training
    (facts,) = train([job], ray_session, events(trained))
    assert facts["steps"] == STEPS
    assert (trained.out("zero-1") / "training.json").stat().st_mtime_ns == before


def test_the_progress_of_several_trainings_is_that_of_all(trained: Workbench, shares: Shares) -> None:
    done = [share for share, _ in shares.seen]
    assert done == sorted(done) and done[-1] > LONG, "no single one has so many steps"
    assert all(share <= total for share, total in shares.seen)


def test_the_curves_are_in_mlflow_where_it_is_set(
    trained: Workbench, plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient((trained.folder / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("evoray")
    (run,) = client.search_runs([experiment.experiment_id])
    losses = {one.step: one.value for one in client.get_metric_history(run.info.run_id, "zero-1/loss")}
    assert [losses[step] for step in range(1, STEPS + 1)] == pytest.approx(plain.losses, rel=1e-4)


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint(trained: Workbench, ray_session: Session) -> None:
    job, notes = trained.job("disturbed", steps=LONG, checkpoint_steps=3), Notes()
    killer = threading.Thread(
        target=to_a_worker, args=(job, int(np.random.default_rng().integers(3, 20)), psutil.Process.kill)
    )
    killer.start()
    (facts,) = train([job], ray_session, events(trained, notes))
    killer.join()
    assert any("was interrupted" in line for line in notes.lines)
    assert facts["resumed_from"] > 0
    for key in ("steps", "tokens", "first_loss", "last_loss"):
        assert facts[key] == trained.facts("long")[key]
    for name, tensor in weights(trained.out("long")).items():
        assert torch.equal(tensor, weights(trained.out("disturbed"))[name]), name
    curve = scalars(trained.folder / "out" / "tensorboard" / "disturbed", "loss")
    assert sorted(curve) == list(range(1, LONG + 1))


@pytest.mark.soak
def test_workers_without_enough_memory_go_on_with_smaller_passes(
    trained: Workbench, plain: Plain, ray_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first launch fails as one does on a GPU; the second is a real one."""
    launch, halvings, notes = trainer._launch, list[int](), Notes()

    def launched(jobs: Any, halved: int, *rest: Any) -> None:
        halvings.append(halved)
        if len(halvings) == 1:
            raise RuntimeError("rank 1: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
        launch(jobs, halved, *rest)

    monkeypatch.setattr(trainer, "_launch", launched)
    train([trained.job("little-memory")], ray_session, events(trained, notes))
    assert halvings == [0, 1]
    assert any("with 1/2 of training.micro_batch_tokens" in line for line in notes.lines)
    found = weights(trained.out("little-memory"))
    for parameter, expected in plain.weights.items():
        torch.testing.assert_close(found[canonical_name(parameter)], expected, rtol=1e-3, atol=2e-5)


@pytest.mark.soak
def test_a_training_that_stands_still_ends_and_goes_on_later(trained: Workbench, ray_session: Session) -> None:
    """What stood still ends with its driver; here its processes are killed."""
    job, stopped = trained.job("stopped", steps=LONG, checkpoint_steps=3), []
    stopper = threading.Thread(target=lambda: stopped.append(to_a_worker(job, 3, psutil.Process.suspend)))
    stopper.start()
    with pytest.raises(StageError, match=rf"nothing done for 1.5 minutes; step \d+ of {LONG} was the last"):
        train([job], replace(ray_session, stall=90.0), events(trained))
    stopper.join()
    for process in stopped:
        process.kill()
    (facts,) = train([job], ray_session, events(trained))
    assert facts["resumed_from"] >= 3
    assert facts["last_loss"] == trained.facts("long")["last_loss"]


def test_a_training_whose_workers_get_no_processor_says_what_they_ask_for(
    trained: Workbench, ray_session: Session
) -> None:
    job = trained.job("waiting", workers=100)
    with pytest.raises(StageError, match=r"no step of 100 workers: each asks for 1 CPU, and free are \d+ CPU"):
        train([job], replace(ray_session, stall=10.0, slots=None), events(trained))  # as on a cluster


def test_more_workers_than_this_machine_runs_are_refused_at_once(ray_session: Session) -> None:
    assert ray_session.slots is not None
    ray_session.check_training(ray_session.slots)
    with pytest.raises(ConfigError, match=rf"training.workers = {ray_session.slots + 1}, and this machine runs"):
        ray_session.check_training(ray_session.slots + 1)


def test_more_gpus_than_this_machine_has_are_refused_at_once(trained: Workbench, ray_session: Session) -> None:
    job = trained.job("greedy", workers=2)
    with pytest.raises(ConfigError, match=r"training.workers = 2 with 1 GPUs each, and 0 here"):
        train([job], replace(ray_session, gpus=1.0), events(trained))


def to_a_worker(job: TrainJob, step: int, act: Callable[[psutil.Process], None]) -> psutil.Process:
    """Do something to one of the two processes as soon as a checkpoint of `step` or later is there."""
    record = Path(job.out.storage.location(job.checkpoints.prefix))
    while not any(int(path.stem.partition("-")[2]) >= step for path in record.glob("step-*.json")):
        time.sleep(0.01)
    workers = named("RayTrainWorker", psutil.Process().children(recursive=True))
    act(workers[step % len(workers)])
    return workers[step % len(workers)]
