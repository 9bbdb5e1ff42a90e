"""What a GPU computes beside what a CPU computes: features, moments, tiles, scores and answers of one tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evoray.alignment.kernels import kernel_pass, log_pass, stabilised_kernel
from evoray.config import LoraConfig
from evoray.evaluation.likelihood import grouped_token_losses
from evoray.features.base_weights import BaseWeightFeatures
from evoray.features.estimate import estimate_moments
from evoray.features.gradient import GradientFeatures
from evoray.features.hidden import HiddenFeatures
from evoray.features.protocol import Extractor
from evoray.features.rows import featurise_rows
from evoray.features.uncertainty import UncertaintyFeatures
from evoray.models.chat import encode, encode_choices
from evoray.models.generating import Sampling, write
from evoray.models.loading import cast_frozen, load_model, load_tokenizer, new_adapter, to_device
from evoray.models.loss import collate
from evoray.models.moments import Moments
from evoray.models.packing import keeps_packed_apart
from evoray.records import Message, Row
from tests.training.plain import tiny_rows

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DIM, SEED, LONGEST = 64, 3, 96
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def adapted(model: Path, device: torch.device, precision: torch.dtype | None = None) -> Any:
    """With a B that is not zero: else half of the gradient vanishes."""
    found = new_adapter(load_model(str(model)), LoraConfig(rank=3), SEED)
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return cast_frozen(found.to(device), precision)


def moments(model: Path, device: torch.device) -> Moments:
    samples = encode(tiny_rows(12), load_tokenizer(str(model)), LONGEST)
    return estimate_moments(
        adapted(model, device), samples, pad_id=0, batch_size=4, batch_tokens=256, precision=None,
        progress=lambda _done, _all: None,
    )  # fmt: skip


def extractor(kind: str, model: Path, device: torch.device, precision: torch.dtype | None = None) -> Extractor:
    if kind in ("hidden", "uncertainty", "base"):
        loaded = load_model(str(model)).to(device)
        if kind == "hidden":
            return HiddenFeatures(loaded.base_model, "position", precision)
        if kind == "uncertainty":
            return UncertaintyFeatures(loaded, precision)
        return BaseWeightFeatures(loaded, dim=DIM, seed=SEED, precision=precision)
    sketch, _, preconditioning = kind.partition(" ")
    known = moments(model, CPU) if preconditioning else None
    return GradientFeatures(
        adapted(model, device, precision), dim=DIM, seed=SEED, sketch=sketch, precision=precision,  # type: ignore[arg-type]
        preconditioning=preconditioning or "none", moments=known,  # type: ignore[arg-type]
    )  # fmt: skip


def features(found: Extractor, model: Path, batch_tokens: int = 256) -> tuple[Any, Any, int]:
    """(features [N, D], losses [N], halvings) of rows of many lengths."""
    tokenizer = load_tokenizer(str(model))
    rows = [Row(id=str(n), messages=row.messages) for n, row in enumerate(tiny_rows(40))]
    made = featurise_rows(
        rows, found, lambda some: encode(some, tokenizer, LONGEST), pad_id=0, batch_tokens=batch_tokens
    )
    assert made.table.num_rows == len(rows)
    assert not made.quarantined
    values = np.array(made.table["feature"].to_pylist()) * np.array(made.table["norm"].to_pylist())[:, None]
    return values, np.array(made.table["loss"].to_pylist(), dtype=float), made.halvings


KINDS = (
    "sparse", "rademacher", "kronecker", "sparse adam", "sparse less", "rademacher adam", "hidden", "uncertainty",
    "base",
)  # fmt: skip


def away(found: Any, expected: Any) -> float:
    """The largest difference of a row, as a share of the row's norm."""
    return float((np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_cpu(kind: str, tiny_model_dir: Path) -> None:
    expected, losses, _ = features(extractor(kind, tiny_model_dir, CPU), tiny_model_dir)
    found, same, _ = features(extractor(kind, tiny_model_dir, GPU), tiny_model_dir)
    assert away(found, expected) < 1e-4
    np.testing.assert_allclose(same, losses, rtol=1e-5)


@pytest.mark.parametrize("kind", ["sparse adam", "hidden", "base"])
def test_bfloat16_points_the_same_way(kind: str, tiny_model_dir: Path) -> None:
    expected, _, _ = features(extractor(kind, tiny_model_dir, CPU), tiny_model_dir)
    found, _, _ = features(extractor(kind, tiny_model_dir, GPU, torch.bfloat16), tiny_model_dir)
    cosine_N = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine_N.min() > 0.97  # so small a model is coarser in it than a large one


def test_features_of_a_gpu_are_the_same_each_time(tiny_model_dir: Path) -> None:
    first, _, _ = features(extractor("sparse adam", tiny_model_dir, GPU, torch.bfloat16), tiny_model_dir)
    again, _, _ = features(extractor("sparse adam", tiny_model_dir, GPU, torch.bfloat16), tiny_model_dir)
    np.testing.assert_array_equal(first, again)


def test_a_batch_that_does_not_fit_the_gpu_is_cut_and_nothing_is_lost(tiny_model_dir: Path) -> None:
    expected, _, _ = features(extractor("sparse", tiny_model_dir, GPU), tiny_model_dir)
    found = extractor("sparse", tiny_model_dir, GPU)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    features(found, tiny_model_dir, batch_tokens=10**6)  # all rows in one pass: what that takes
    whole, held = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((held + (whole - held) / 2 + 2**20) / total)
        cut, _, halvings = features(found, tiny_model_dir, batch_tokens=10**6)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert halvings
    assert away(cut, expected) < 1e-4


def test_estimated_moments_are_those_of_the_cpu(tiny_model_dir: Path) -> None:
    expected, found = moments(tiny_model_dir, CPU), moments(tiny_model_dir, GPU)
    for name, second in expected.second.items():
        torch.testing.assert_close(found.second[name].cpu(), second, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiles_of_the_solver_are_those_of_the_cpu(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    similarity = torch.from_numpy(rng.uniform(-0.4, 1.0, (500, 37))).to(dtype)
    log_b = torch.full((37,), -float(np.log(37)), dtype=torch.float64)
    g, w = torch.from_numpy(rng.normal(0.0, 0.05, 37)), torch.from_numpy(rng.uniform(0.0, 1.0, 500) ** 8)
    u = torch.linspace(0.5, 2.0, 37, dtype=dtype)
    sums, masses = kernel_pass(stabilised_kernel(similarity.clone(), log_b, g, 0.05), u, w)
    on = [one.to(GPU) for one in (similarity, log_b, g, w, u)]
    kernel = stabilised_kernel(on[0].clone(), on[1], on[2], 0.05)
    found_sums, found_masses = kernel_pass(kernel, on[4], on[3])
    exact = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found_sums.cpu(), sums, rtol=exact, atol=0)
    torch.testing.assert_close(found_masses.cpu(), masses, rtol=exact, atol=0)
    f, log_c = log_pass(similarity, log_b, g, w.log(), 0.05)
    found_f, found_log_c = log_pass(on[0], on[1], on[2], on[3].log(), 0.05)
    torch.testing.assert_close(found_f.cpu(), f, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found_log_c.cpu(), log_c, rtol=1e-9, atol=1e-12)


def test_scores_and_answers_are_those_of_the_cpu(tiny_model_dir: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model_dir))
    rows = [
        Row(
            id=str(number),
            messages=(Message("user", f"{number} " + "what? " * number), Message("assistant", "red")),
            choices=("red", "dark blue", "g"),
            answer="red",
        )
        for number in range(1, 6)
    ]
    groups = [encode_choices(row, tokenizer, LONGEST) for row in rows]
    model = load_model(str(tiny_model_dir))
    expected = grouped_token_losses(model, groups, 0)
    on_gpu = to_device(load_model(str(tiny_model_dir)))
    found = grouped_token_losses(on_gpu, groups, 0)
    for one, other in zip(found, expected, strict=True):
        for losses, wanted in zip(one, other, strict=True):
            np.testing.assert_allclose(losses, wanted, rtol=1e-4)
    prompts = [group[0].ids[:8] for group in groups]
    assert write(on_gpu, tokenizer, prompts, 12) == write(model, tokenizer, prompts, 12)
    sampling = Sampling(temperature=1.0, top_p=0.9, seeds=[7] * len(prompts))
    drawn = [write(on_gpu, tokenizer, prompts, 12, sampling=sampling) for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_packed_samples_stay_apart_under_the_gpus_attention(tiny_model_dir: Path) -> None:
    assert keeps_packed_apart(to_device(load_model(str(tiny_model_dir))))


def test_a_loss_on_the_gpu_ignores_padding(tiny_model_dir: Path) -> None:
    samples = encode(tiny_rows(6), load_tokenizer(str(tiny_model_dir)), LONGEST)
    found = extractor("sparse", tiny_model_dir, GPU)
    together = found(collate(samples, 0).to(GPU)).feature_BD
    alone = torch.cat([found(collate([one], 0).to(GPU)).feature_BD for one in samples])
    assert away(together.cpu().numpy(), alone.cpu().numpy()) < 1e-4
