"""The rows, the model and its work that `featurize.py` measures, on a CPU or on the GPU that torch finds."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from evoray.config import LoraConfig
from evoray.features.gradient import GradientFeatures
from evoray.models.chat import Encoded, encode
from evoray.models.loading import cast_frozen, load_model, load_tokenizer, new_adapter, to_device
from evoray.models.loss import Batch, collate, token_budget_batches
from evoray.pool import normalise, plan_units, read_span, rows_from_table
from evoray.records import Message, Row

TOKENIZER, MAX_TOKENS, SEED = "smollm2", 512, 0
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def samples_of(options: argparse.Namespace) -> list[Encoded]:
    """Tokenised rows, the same for every contender."""
    generator = np.random.default_rng(SEED)
    files = sorted((options.data / "pools").glob("*.parquet")) if options.data else []
    rows: list[Row] = []
    for place, file in enumerate(files):
        count = options.rows // len(files) + (place < options.rows % len(files))
        (span,) = plan_units(str(file), 10**9)
        table, _ = normalise(read_span(span)[0], span)
        rows += rows_from_table(table.take(np.sort(generator.permutation(table.num_rows)[:count])))
    if not files:
        words = [
            "the",
            "model",
            "reads",
            "a",
            "question",
            "and",
            "writes",
            "an",
            "answer",
            "that",
            "should",
            "be",
            "right",
        ]
        for index, length in enumerate(np.exp(generator.normal(4.5, 0.8, options.rows)).astype(int)):
            text = " ".join(generator.choice(words, max(4, length)))
            half = len(text) // 2
            rows.append(Row(id=str(index), messages=(Message("user", text[:half]), Message("assistant", text[half:]))))
    order = generator.permutation(len(rows))
    encoded = encode([rows[index] for index in order], load_tokenizer(options.model), MAX_TOKENS)
    return [sample for sample in encoded if any(sample.supervised)][: options.rows]


def adapted_model(options: argparse.Namespace, precision: torch.dtype | None) -> Any:
    """The model with a seeded LoRA adapter away from its start, where half of the gradient would vanish."""
    model = new_adapter(load_model(options.model), LoraConfig(), SEED)
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.01 * torch.randn(parameter.shape, generator=generator)
    return cast_frozen(to_device(model), precision)


def budgeted(samples: Sequence[Encoded], tokens: int) -> list[Batch]:
    """Token-budget batches over the length-sorted samples, on the device."""
    pad_id = int(load_tokenizer(TOKENIZER).pad_token_id)
    groups = token_budget_batches([len(sample.ids) for sample in samples], tokens)
    return [collate([samples[index] for index in group], pad_id).to(DEVICE) for group in groups]


def features_of(options: argparse.Namespace, dim: int, precision: torch.dtype | None) -> GradientFeatures:
    """What is measured: it takes a model of its own over."""
    return GradientFeatures(adapted_model(options, precision), dim=dim, seed=SEED, precision=precision)


def flops_of(model: Any) -> Callable[[Sequence[Encoded]], float]:
    """Useful work on samples of a forward and an input-gradient backward pass: no weight gradients, no padding, half of
    the attention's square, which the causal mask leaves.
    """
    config: Any = model.config
    trained = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    body = sum(p.numel() for p in model.parameters()) - trained - model.get_input_embeddings().weight.numel()

    def work(samples: Sequence[Encoded]) -> float:
        return _work(config, body, samples)

    return work


def _work(config: Any, body: int, samples: Sequence[Encoded]) -> float:
    tokens = sum(len(sample.ids) for sample in samples)
    supervised = sum(sum(sample.supervised) for sample in samples)
    squares = sum(len(sample.ids) ** 2 for sample in samples)
    width = config.hidden_size // config.num_attention_heads
    attention = 6 * config.num_hidden_layers * config.num_attention_heads * width * squares
    return float(4 * body * tokens + 4 * config.vocab_size * config.hidden_size * supervised + attention)


def gemm_peak(precision: torch.dtype | None, clock: Callable[[], float]) -> float:
    """Best measured multiply-add rate of square matrices at a precision, in floating-point operations a second."""
    best = 0.0
    for size in (1024, 2048, 3072) if DEVICE.type == "cpu" else (4096, 8192):
        left, right = (torch.randn(size, size, device=DEVICE).to(precision or torch.float32) for _ in range(2))
        for _ in range(6):
            began = clock()
            left @ right
            best = max(best, 2 * size**3 / (clock() - began))
    return best
