"""The warm-up against the plain loop, its checkpoints and their stored moments included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evoray.config import WarmupConfig
from evoray.errors import ConfigError, StageError
from evoray.models.loading import load_tokenizer
from evoray.models.moments import canonical_name, load_moments
from evoray.training.order import batches, learning_rate_factor
from evoray.training.warmup import WarmedUp, warm_up
from tests.training.plain import tiny_adapter, tiny_rows, tiny_samples, train_plainly

ROWS = 10
CONFIG = WarmupConfig(rows=ROWS, batch_size=4, learning_rate=2e-3, threads=1)


def run(model_dir: Path, folder: Path, batch_tokens: int = 1024, **changes: Any) -> WarmedUp:
    return warm_up(
        tiny_adapter(model_dir),
        load_tokenizer(str(model_dir)),
        tiny_rows(ROWS),
        folder,
        CONFIG.model_copy(update=changes),
        seed=2,
        max_tokens=96,
        batch_tokens=batch_tokens,
        precision=None,
        progress=lambda _done, _total: None,
    )


@pytest.mark.parametrize(("batch_tokens", "epochs", "checkpoints"), [(64, 1, 1), (1024, 2, 2)])
def test_adapters_moments_and_loss_are_those_of_a_plain_loop(
    tiny_model_dir: Path, tmp_path: Path, batch_tokens: int, epochs: int, checkpoints: int
) -> None:
    done = run(tiny_model_dir, tmp_path, batch_tokens, epochs=epochs, checkpoints=checkpoints)
    steps = 3 * epochs
    plan = batches([one.ids for one in tiny_samples(tiny_model_dir, ROWS)], CONFIG.batch_size, steps, seed=2)
    rates = [CONFIG.learning_rate * learning_rate_factor(step, steps, 0.0) for step in range(steps)]
    for number in range(1, checkpoints + 1):
        end = steps * number // checkpoints
        samples = tiny_samples(tiny_model_dir, ROWS)
        plain = train_plainly(tiny_adapter(tiny_model_dir), samples, plan[:end], rates[:end], None)
        folder = tmp_path / f"checkpoint-{number}"
        moments = load_moments(folder)
        assert moments is not None
        assert (moments.origin, moments.steps) == ("optimizer", end)
        saved = {canonical_name(n): t for n, t in load_file(folder / "adapter_model.safetensors").items()}
        for name, expected in plain.weights.items():
            key = canonical_name(name)
            torch.testing.assert_close(saved[key], expected, rtol=1e-3, atol=2e-5)
            torch.testing.assert_close(moments.first[key], plain.first[name], rtol=1e-3, atol=1e-6)
            torch.testing.assert_close(moments.second[key], plain.second[name], rtol=1e-3, atol=1e-9)
    assert done.loss == pytest.approx(plain.losses[-1], rel=1e-5)
    width = steps // checkpoints
    assert done.weights == pytest.approx([sum(rates[at : at + width]) / width for at in range(0, steps, width)])


def test_a_loss_that_is_not_finite_ends_the_warm_up(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="warm-up"):
        run(tiny_model_dir, tmp_path, learning_rate=float("inf"))


def test_more_checkpoints_than_steps_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most one checkpoint a step"):
        run(tiny_model_dir, tmp_path, checkpoints=4)
