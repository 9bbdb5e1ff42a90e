"""Trainings that go on from a checkpoint, or diverge, on a number of ranks that no parameter divides into."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from evoray.config import TrainingConfig
from evoray.errors import StageError
from evoray.models.cache import operators_dir
from evoray.models.chat import Encoded, encode
from evoray.models.loading import load_adapter, load_model, load_tokenizer
from evoray.models.moments import load_moments
from evoray.records import Message, Row
from evoray.storage import Storage
from evoray.training.checkpoints import Checkpoints
from evoray.training.order import batches
from tests.processes import free_ports
from tests.training.plain import tiny_adapter, tiny_rows, tiny_samples

pytestmark = pytest.mark.slow

RANKS, STEPS, HALF, SEED, STAGES = 3, 5, 3, 4, (1, 3)
CONFIG = TrainingConfig(batch_size=3, micro_batch_tokens=128, learning_rate=3e-3, checkpoint_steps=HALF)


def train_in_rank(rank: int, port: int, model_dir: Path, folder: Path) -> None:
    """Train without an interruption, then again from the checkpoint that was left on the way."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS)
    )
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["TORCH_EXTENSIONS_DIR"] = str(operators_dir())
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=RANKS)
    from evoray.training.deepspeed import Plan, Resume, train_rank
    from evoray.training.passes import Layout, Rank

    pad_id, who = int(load_tokenizer(str(model_dir)).pad_token_id), Rank(index=rank, size=RANKS)

    def plan_of(place: Path, samples: list[Encoded], **changes: int) -> Plan:
        return Plan(
            samples=samples,
            validate=(),
            layout=Layout(pad_id=pad_id, budget=CONFIG.micro_batch_tokens, packed=True),
            config=CONFIG.model_copy(update=changes),
            steps=STEPS,
            seed=SEED,
            precision=None,
            checkpoints=Checkpoints(storage=Storage(place), prefix="checkpoints", identity="mine"),
        )

    for stage in STAGES:
        place, resume = folder / f"zero-{stage}", None
        plan = plan_of(place, tiny_samples(model_dir, 7), zero_stage=stage)
        checkpoints, model = plan.checkpoints, tiny_adapter(model_dir)
        for name in ("undisturbed", "resumed"):
            result = train_rank(model, plan, place / name, who, resume=resume, on_step=lambda *_: None)
            progress, kept = checkpoints.latest(), checkpoints.folder(HALF).fetch()
            moments = load_moments(kept)
            assert progress is not None and moments is not None and progress.step == HALF
            resume = Resume(progress=progress, moments=moments)
            model = load_adapter(load_model(str(model_dir)), kept, trainable=True)
            if rank == 0:
                facts = {"last_loss": result.progress.last_loss, "tokens": result.progress.tokens}
                (place / f"{name}.json").write_text(json.dumps(facts))
    plan = plan_of(folder / "diverging", samples_with_a_bad_one(model_dir), checkpoint_steps=1)
    try:
        train_rank(deaf_model(model_dir), plan, folder / "nothing", who, resume=None, on_step=lambda *_: None)
    except StageError as error:
        (folder / f"error-{rank}.txt").write_text(error.received)
    torch.distributed.destroy_process_group()


def samples_with_a_bad_one(model_dir: Path) -> list[Encoded]:
    """Rows of which the one in the fourth step alone has the letter z."""
    for place, row in enumerate(tiny_rows(12)):
        rows = tiny_rows(12)
        rows[place] = Row(id="bad", messages=(*row.messages[:-1], Message("assistant", "zoo")))
        samples = encode(rows, load_tokenizer(str(model_dir)), 96)
        if place in batches([sample.ids for sample in samples], CONFIG.batch_size, STEPS, SEED)[3]:
            return samples
    raise AssertionError("no row comes in the fourth step")


def deaf_model(model_dir: Path) -> PeftModel:
    """The tiny model, which reads the letter z as no number and writes it as before."""
    model = tiny_adapter(model_dir)
    base = model.get_base_model()
    base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone(), requires_grad=False)
    (token,) = load_tokenizer(str(model_dir))("z")["input_ids"]
    base.get_input_embeddings().weight.data[token] = float("nan")
    return model


@pytest.fixture(scope="module")
def trained(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("resumed")
    (port,) = free_ports(1)
    torch.multiprocessing.spawn(train_in_rank, args=(port, tiny_model_dir, folder), nprocs=RANKS)
    yield folder


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("file", ["adapter_model.safetensors", "moments.safetensors"])
def test_the_end_is_that_of_a_training_without_an_interruption(trained: Path, stage: int, file: str) -> None:
    place = trained / f"zero-{stage}"
    expected, found = (load_file(place / name / file) for name in ("undisturbed", "resumed"))
    assert set(found) == set(expected)
    assert any(tensor.numel() % RANKS for tensor in expected.values())
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert (place / "resumed.json").read_text() == (place / "undisturbed.json").read_text()


def test_a_loss_that_is_not_finite_stops_all_ranks_and_the_last_good_checkpoint_stays(
    trained: Path, tiny_model_dir: Path
) -> None:
    """Weights under which a loss is not finite are not good: of steps 1 to 3, whose losses were, the third goes."""
    for rank in range(RANKS):
        told = (trained / f"error-{rank}.txt").read_text()
        assert told.startswith(
            "a training loss of nan in step 4 of 5; the last good checkpoint, of step 2, is kept at "
        )
        kept = Path(told.rpartition(" is kept at ")[2])
        load_adapter(load_model(str(tiny_model_dir)), str(kept))
    assert not (trained / "nothing").exists()
    assert sorted(path.name for path in kept.parent.glob("*.json")) == ["step-000002.json"]
