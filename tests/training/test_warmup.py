"""The warm-up against the plain loop, its stored moments included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evoray.config import WarmupConfig
from evoray.errors import StageError
from evoray.models.loading import load_tokenizer
from evoray.models.moments import canonical_name, load_moments
from evoray.training.order import batches, learning_rate_factor
from evoray.training.warmup import warm_up
from tests.training.plain import tiny_adapter, tiny_rows, tiny_samples, train_plainly

ROWS = 10
CONFIG = WarmupConfig(rows=ROWS, batch_size=4, learning_rate=2e-3, threads=1)


def run(model_dir: Path, folder: Path, rate: float, batch_tokens: int) -> float:
    return warm_up(
        tiny_adapter(model_dir),
        load_tokenizer(str(model_dir)),
        tiny_rows(ROWS),
        folder,
        CONFIG.model_copy(update={"learning_rate": rate}),
        seed=2,
        max_tokens=96,
        batch_tokens=batch_tokens,
        precision=None,
        progress=lambda _done, _total: None,
    )


@pytest.mark.parametrize("batch_tokens", [64, 1024])
def test_adapter_moments_and_loss_are_those_of_a_plain_loop(
    tiny_model_dir: Path, tmp_path: Path, batch_tokens: int
) -> None:
    loss = run(tiny_model_dir, tmp_path, CONFIG.learning_rate, batch_tokens)
    plan = batches(ROWS, CONFIG.batch_size, 3, seed=2)
    rates = [CONFIG.learning_rate * learning_rate_factor(step, 3, 0.0) for step in range(3)]
    plain = train_plainly(tiny_adapter(tiny_model_dir), tiny_samples(tiny_model_dir, ROWS), plan, rates, None)
    assert loss == pytest.approx(plain.losses[-1], rel=1e-5)
    moments = load_moments(tmp_path)
    assert moments is not None
    assert moments.origin == "optimizer"
    saved = {canonical_name(n): t for n, t in load_file(tmp_path / "adapter_model.safetensors").items()}
    for name, expected in plain.weights.items():
        torch.testing.assert_close(saved[canonical_name(name)], expected, rtol=1e-3, atol=2e-5)
        torch.testing.assert_close(moments.second[canonical_name(name)], plain.second[name], rtol=1e-3, atol=1e-9)


def test_a_loss_that_is_not_finite_ends_the_warm_up(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="warm-up"):
        run(tiny_model_dir, tmp_path, float("inf"), 1024)
