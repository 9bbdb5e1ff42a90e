"""A training that goes on from a checkpoint: at ZeRO 1 and 3, on a number of ranks that no parameter divides into."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evoray.config import TrainingConfig
from evoray.models.cache import cache_dir
from evoray.models.loading import load_adapter, load_model, load_tokenizer
from evoray.models.moments import load_moments
from evoray.storage import Storage
from evoray.training.checkpoints import Checkpoints
from tests.processes import free_ports
from tests.training.plain import tiny_adapter, tiny_samples

pytestmark = pytest.mark.slow

RANKS, STEPS, HALF, STAGES = 3, 5, 3, (1, 3)
CONFIG = TrainingConfig(batch_size=3, micro_batch_tokens=128, learning_rate=3e-3, checkpoint_steps=HALF)


def train_in_rank(rank: int, port: int, model_dir: Path, folder: Path) -> None:
    """Train without an interruption, then again from the checkpoint that was left on the way."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS)
    )
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["TORCH_EXTENSIONS_DIR"] = str(cache_dir() / "torch_extensions")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=RANKS)
    from evoray.training.deepspeed import Plan, Resume, train_rank
    from evoray.training.passes import Layout, Rank

    pad_id = int(load_tokenizer(str(model_dir)).pad_token_id)
    for stage in STAGES:
        place = folder / f"zero-{stage}"
        checkpoints = Checkpoints(storage=Storage(place), prefix="checkpoints", identity="mine")
        plan = Plan(
            samples=tiny_samples(model_dir, 7),
            validate=(),
            layout=Layout(pad_id=pad_id, budget=CONFIG.micro_batch_tokens, packed=True),
            config=CONFIG.model_copy(update={"zero_stage": stage}),
            steps=STEPS,
            seed=4,
            precision=None,
            checkpoints=checkpoints,
        )
        who, resume = Rank(index=rank, size=RANKS), None
        model = tiny_adapter(model_dir)
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
    torch.distributed.destroy_process_group()


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
