"""DeepSpeed's ZeRO stages over two processes against a plain loop in this one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evoray.models.moments import canonical_name, load_moments
from evoray.training.order import batches, learning_rate_factor
from tests.processes import free_ports
from tests.training import ranks
from tests.training.plain import Plain, tiny_adapter, tiny_samples, train_plainly

pytestmark = pytest.mark.slow

STAGES = (1, 2, 3)


@pytest.fixture(scope="module")
def plain(tiny_model_dir: Path) -> Plain:
    config = ranks.CONFIG
    plan = batches(ranks.ROWS, config.batch_size, ranks.STEPS, ranks.SEED)
    factors = [learning_rate_factor(step, ranks.STEPS, config.warmup_share) for step in range(ranks.STEPS)]
    return train_plainly(
        tiny_adapter(tiny_model_dir),
        tiny_samples(tiny_model_dir, ranks.ROWS),
        plan,
        [config.learning_rate * factor for factor in factors],
        config.max_grad_norm,
        config.weight_decay,
    )


@pytest.fixture(scope="module")
def trained(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One pair of processes trains at every stage: starting them costs more than training."""
    folder = tmp_path_factory.mktemp("zero")
    (port,) = free_ports(1)
    torch.multiprocessing.spawn(ranks.train_in_rank, args=(port, tiny_model_dir, folder, STAGES), nprocs=ranks.RANKS)
    yield folder


@pytest.mark.parametrize("stage", STAGES)
def test_the_adapter_is_that_of_a_plain_loop(trained: Path, plain: Plain, stage: int) -> None:
    saved = load_file(trained / f"zero-{stage}" / "adapter_model.safetensors")
    found = {canonical_name(name): tensor for name, tensor in saved.items()}
    assert set(found) == {canonical_name(name) for name in plain.weights}
    for name, expected in plain.weights.items():
        torch.testing.assert_close(found[canonical_name(name)], expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_curve_is_that_of_a_plain_loop(trained: Path, plain: Plain, stage: int) -> None:
    facts = json.loads((trained / f"zero-{stage}" / "facts.json").read_text())
    assert facts["losses"] == pytest.approx(plain.losses, rel=1e-4)
    assert (facts["first"], facts["last"]) == (facts["losses"][0], facts["losses"][-1])


@pytest.mark.parametrize("stage", STAGES)
def test_the_stored_moments_are_those_of_a_plain_loop(trained: Path, plain: Plain, stage: int) -> None:
    moments = load_moments(trained / f"zero-{stage}")
    assert moments is not None
    assert set(moments.second) == set(moments.first) == {canonical_name(name) for name in plain.second}
    assert moments.steps == ranks.STEPS
    for name, expected in plain.second.items():
        torch.testing.assert_close(moments.first[canonical_name(name)], plain.first[name], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(moments.second[canonical_name(name)], expected, rtol=1e-3, atol=1e-9)


def test_tokens_are_counted_over_all_ranks(trained: Path, tiny_model_dir: Path) -> None:
    samples = tiny_samples(tiny_model_dir, ranks.ROWS)
    plan = batches(ranks.ROWS, ranks.CONFIG.batch_size, ranks.STEPS, ranks.SEED)
    facts = json.loads((trained / "zero-2" / "facts.json").read_text())
    assert facts["tokens"] == sum(len(samples[index].ids) for batch in plan for index in batch)
