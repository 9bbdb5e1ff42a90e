"""One rank of a DeepSpeed training in a process of its own, for every ZeRO stage in turn."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from evoray.config import TrainingConfig
from evoray.models.cache import cache_dir

RANKS, ROWS, STEPS, SEED = 2, 7, 5, 4
CONFIG = TrainingConfig(
    batch_size=3, micro_batch_tokens=128, learning_rate=3e-3, warmup_share=0.3, max_grad_norm=0.5, weight_decay=0.01
)


def _note(losses: list[float], _step: int, loss: float) -> None:
    losses.append(loss)


def train_in_rank(rank: int, port: int, model_dir: Path, folder: Path, stages: Sequence[int]) -> None:
    """Train and write `folder/zero-<stage>`; rank 0 writes the losses beside the adapter."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS)
    )
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["TORCH_EXTENSIONS_DIR"] = str(cache_dir() / "torch_extensions")
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=RANKS)
    from evoray.models.loading import load_tokenizer
    from evoray.training.deepspeed import Rank, train_rank
    from tests.training.plain import tiny_adapter, tiny_samples

    pad_id = int(load_tokenizer(str(model_dir)).pad_token_id)
    for stage in stages:
        out = folder / f"zero-{stage}"
        out.mkdir(exist_ok=True)
        losses: list[float] = []
        result = train_rank(
            tiny_adapter(model_dir),
            tiny_samples(model_dir, ROWS),
            pad_id,
            out,
            CONFIG.model_copy(update={"zero_stage": stage}),
            Rank(index=rank, size=RANKS),
            steps=STEPS,
            seed=SEED,
            precision=None,
            on_step=partial(_note, losses),
        )
        if rank == 0:
            facts = {"losses": losses, "tokens": result.tokens, "first": result.first_loss, "last": result.last_loss}
            (out / "facts.json").write_text(json.dumps(facts))
    torch.distributed.destroy_process_group()
