"""Features of base weights against autograd on the weights, one sample at a time in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.pytorch_utils import Conv1D

from evoray.errors import ModelError
from evoray.features.base_weights import BaseWeightFeatures, linear_layers
from evoray.features.sketches import KroneckerSketch
from evoray.models.loss import collate
from tests.features.test_gradient import Sample, _samples

SHAPE = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def build(architecture: str) -> Any:
    torch.manual_seed(0)
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**SHAPE, **HEADS, tie_word_embeddings=True)).double().eval()
    if architecture == "gpt2":
        return (
            GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=2, n_positions=64)).double().eval()
        )
    return MixtralForCausalLM(MixtralConfig(**SHAPE, **HEADS, num_local_experts=2)).double().eval()


def expected_features(model: Any, sample: Sample, dim: int, seed: int) -> torch.Tensor:
    layers = linear_layers(model)
    weights = [layer.weight.requires_grad_() for layer in layers.values()]
    logits = torch.log_softmax(model(input_ids=torch.tensor([sample.ids])).logits[0], -1)
    terms = [-logits[t - 1, sample.ids[t]] for t in range(1, len(sample.ids)) if sample.supervised[t]]
    gradients = torch.autograd.grad(torch.stack(terms).mean(), weights)
    total = torch.zeros(dim, dtype=torch.float64)
    for (name, layer), gradient in zip(layers.items(), gradients, strict=True):
        as_matrix = gradient.T if isinstance(layer, Conv1D) else gradient
        sketch = KroneckerSketch.make(name, tuple(as_matrix.shape), dim, seed)
        total += sketch.matrix() @ as_matrix.flatten()
    return total


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_features_are_the_sketched_gradients_of_all_linear_weights(architecture: str) -> None:
    model, samples = build(architecture), _samples(4)
    expected = torch.stack([expected_features(model, sample, 64, 3) for sample in samples])
    found = BaseWeightFeatures(model, dim=64, seed=3)(collate(samples, 0)).feature_BD.double()
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-5


def test_embeddings_and_the_head_are_left_out() -> None:
    names = set(linear_layers(build("llama")))
    assert len(names) == 2 * 7
    assert not any("embed" in name or "lm_head" in name for name in names)


def test_weights_that_would_be_missed_are_refused() -> None:
    with pytest.raises(ModelError, match="experts"):
        BaseWeightFeatures(build("mixtral"), dim=64, seed=0)
    model = build("llama")
    model.extra = nn.Conv1d(3, 4, 2)
    with pytest.raises(ModelError, match="extra"):
        BaseWeightFeatures(model, dim=64, seed=0)
