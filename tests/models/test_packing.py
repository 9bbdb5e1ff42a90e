"""Packed samples have the losses and gradients that they have padded, where a model keeps them apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, LlamaConfig, MambaConfig, MistralConfig

from evoray.config import LoraConfig
from evoray.models.attention import use_tiled_attention
from evoray.models.loading import load_model, load_tokenizer, new_adapter
from evoray.models.loss import collate, sample_losses
from evoray.models.packing import keeps_packed_apart, pack, packed_batches
from tests.training.plain import tiny_adapter, tiny_samples

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
LLAMA = {**SMALL, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


@given(lengths=st.lists(st.integers(1, 60), max_size=30), budget=st.integers(10, 80))
def test_every_sample_is_in_one_group_and_groups_stay_in_the_budget(lengths: list[int], budget: int) -> None:
    groups = packed_batches(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or sum(lengths[index] for index in group) <= budget for group in groups)


def test_losses_and_gradients_are_those_of_padded_samples(tiny_model_dir: Path) -> None:
    samples = tiny_samples(tiny_model_dir, 6)
    assert len({len(sample.ids) for sample in samples}) > 3

    def found(packed: bool) -> tuple[Tensor, list[Tensor]]:
        model = tiny_adapter(tiny_model_dir).double()
        losses = sample_losses(model, pack(samples) if packed else collate(samples, 0))
        (losses * torch.arange(1.0, 7.0)).sum().backward()  # weighted: a gradient in the wrong sample would show
        return losses.detach(), [p.grad for p in model.parameters() if p.grad is not None]

    (packed, packed_grads), (padded, padded_grads) = found(True), found(False)
    torch.testing.assert_close(packed, padded, rtol=1e-12, atol=1e-12)
    assert len(packed_grads) == len(padded_grads) > 0
    for one, other in zip(packed_grads, padded_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_no_token_predicts_the_next_sample(tiny_model_dir: Path) -> None:
    samples = tiny_samples(tiny_model_dir, 3)
    batch = pack(samples)
    expected = [token for one in samples for token, carries in zip(one.ids, one.supervised, strict=True) if carries]
    assert batch.labels_S.tolist() == expected
    counts = [sum(one.supervised) for one in samples]
    assert batch.row_S.tolist() == [row for row, count in enumerate(counts) for _ in range(count)]


@pytest.mark.parametrize(
    ("config", "attention", "apart"),
    [
        (LlamaConfig(**LLAMA), "eager", True),
        (LlamaConfig(**LLAMA), "sdpa", True),
        (MistralConfig(**LLAMA, sliding_window=6), "sdpa", True),
        (GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4), "sdpa", True),
        (BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4), "eager", False),
        (MambaConfig(**SMALL), "eager", False),
    ],
    ids=["llama-tiled", "llama-fused", "mistral-window", "gpt2", "bloom", "mamba"],
)
def test_a_model_that_mixes_packed_samples_is_found_out(config: object, attention: str, apart: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    if attention == "eager":
        use_tiled_attention(model)
    assert keeps_packed_apart(model) is apart


def test_an_adapted_model_is_tried_as_a_whole(tiny_model_dir: Path) -> None:
    model = new_adapter(load_model(str(tiny_model_dir)), LoraConfig(rank=2, alpha=4), seed=0)
    assert load_tokenizer(str(tiny_model_dir)).pad_token_id is not None
    assert keeps_packed_apart(model)
