"""Per-sample gradients against one-at-a-time autograd in float64, and the sketch that is made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from evoray.errors import ModelError
from evoray.features.gradient import GradientFeatures, adapted_layers, merge, per_sample_gradients
from evoray.features.precondition import adam_scale
from evoray.features.sketches import make_sketch
from evoray.models.loading import cast_frozen
from evoray.models.loss import Batch, collate, token_budget_batches
from evoray.models.moments import Moments, canonical_name


@dataclass(frozen=True)
class Sample:
    ids: list[int]
    supervised: list[bool]


_SHAPE = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def _build(architecture: str, **lora: object) -> PeftModel:
    torch.manual_seed(0)
    if architecture == "llama":
        model = LlamaForCausalLM(LlamaConfig(**_SHAPE, **_HEADS, tie_word_embeddings=True))
    elif architecture == "qwen":
        model = Qwen2ForCausalLM(Qwen2Config(**_SHAPE, **_HEADS))
    else:
        model = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=2, n_positions=64))
    settings = {"r": 3, "lora_alpha": 6, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **lora}
    adapted = get_peft_model(model.eval(), PeftLoraConfig(**settings))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # at B = 0 the gradient of A vanishes and would not be tested
            torch.nn.init.normal_(parameter, std=0.3)
    return adapted.double().eval()


def _samples(count: int = 5, seed: int = 1) -> list[Sample]:
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for index in range(count):
        length = 4 + 3 * index
        ids = torch.randint(0, 61, (length,), generator=generator).tolist()
        samples.append(Sample(ids, [position >= length // 2 for position in range(length)]))
    return samples


def _autograd(model: PeftModel, sample: Sample) -> dict[str, Tensor]:
    """Oracle: the loss written out with full logits, one sample, autograd on the LoRA weights."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    logits = model(input_ids=torch.tensor([sample.ids])).logits[0]
    log_probability = torch.log_softmax(logits, -1)
    terms = [-log_probability[t - 1, sample.ids[t]] for t in range(1, len(sample.ids)) if sample.supervised[t]]
    named = {name: p for name, p in model.named_parameters() if "lora_" in name}
    gradients = torch.autograd.grad(torch.stack(terms).mean(), list(named.values()))
    return {canonical_name(name): gradient for name, gradient in zip(named, gradients, strict=True)}


def _hooked(model: PeftModel, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    found: dict[str, Tensor] = {}
    model.requires_grad_(False)
    losses = per_sample_gradients(model, adapted_layers(model), batch, found.__setitem__)
    return found, losses


@pytest.fixture(scope="module", params=["llama", "qwen", "gpt2"])
def adapted(request: pytest.FixtureRequest) -> Iterator[PeftModel]:
    yield _build(request.param)


def test_hooks_equal_one_at_a_time_autograd_in_float64(adapted: PeftModel) -> None:
    samples = _samples()
    found, _ = _hooked(adapted, collate(samples, pad_id=0))
    for row, sample in enumerate(samples):
        expected = _autograd(adapted, sample)
        assert set(expected) == set(found)
        for name, gradient in expected.items():
            scale = gradient.abs().max().clamp(min=1e-12)
            assert (found[name][row] - gradient).abs().max() / scale < 1e-10, name


def test_per_sample_gradients_sum_to_the_gradient_of_the_batch() -> None:
    model, batch = _build("llama"), collate(_samples(), 0)
    found, _ = _hooked(model, batch)
    expected: dict[str, Tensor] = {}
    for sample in _samples():
        for name, gradient in _autograd(model, sample).items():
            expected[name] = expected.get(name, torch.zeros_like(gradient)) + gradient
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name].sum(0), gradient, rtol=1e-9, atol=1e-12)


def test_adapters_on_upper_layers_only_get_their_exact_gradients() -> None:
    model = _build("llama", target_modules=["q_proj", "down_proj"], layers_to_transform=[1])
    sample = _samples()[3]
    found, _ = _hooked(model, collate([sample], 0))
    for name, gradient in _autograd(model, sample).items():
        torch.testing.assert_close(found[name][0], gradient, rtol=1e-9, atol=1e-12)


def test_rank_stabilised_scaling_is_taken_from_the_adapter() -> None:
    model = _build("llama", use_rslora=True)
    sample = _samples()[2]
    found, _ = _hooked(model, collate([sample], 0))
    for name, gradient in _autograd(model, sample).items():
        torch.testing.assert_close(found[name][0], gradient, rtol=1e-9, atol=1e-12)


def test_features_are_the_explicit_sketch_matrix_times_the_preconditioned_gradient() -> None:
    model, dim, samples = _build("llama"), 16, _samples(3)
    named = {canonical_name(n): p for n, p in model.named_parameters() if "lora_" in n}
    generator = torch.Generator().manual_seed(3)
    second = {n: torch.rand(p.shape, generator=generator) for n, p in named.items()}
    moments = Moments(first={}, second=second, steps=5, origin="optimizer")
    expected = torch.zeros(3, dim, dtype=torch.float64)
    for row, sample in enumerate(samples):
        for name, gradient in _autograd(model, sample).items():
            scaled = gradient * adam_scale(second[name] / (1 - 0.999**5)).double()
            expected[row] += make_sketch("sparse", name, tuple(gradient.shape), dim, 7).matrix() @ scaled.flatten()
    found = GradientFeatures(model, dim=dim, seed=7, preconditioning="adam", moments=moments)(collate(samples, 0))
    torch.testing.assert_close(found.feature_BD.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_features_do_not_depend_on_the_batch_they_are_computed_in() -> None:
    model = _build("llama").float()
    features = GradientFeatures(model, dim=32, seed=0)
    samples = _samples(6)
    together = features(collate(samples, 0)).feature_BD
    apart = torch.cat([features(collate([sample], 0)).feature_BD for sample in samples])
    assert ((together - apart).norm(dim=1) / apart.norm(dim=1)).max() < 1e-5


def test_a_sample_without_supervised_tokens_has_zero_loss_and_zero_gradient() -> None:
    model = _build("llama")
    nothing = Sample([1, 2, 3], [False, False, False])
    found = GradientFeatures(model, dim=16, seed=0)(collate([nothing, _samples()[1]], 0))
    assert found.loss_B[0] == 0 and found.feature_BD[0].abs().max() == 0 and found.feature_BD[1].abs().max() > 0
    alone = GradientFeatures(model, dim=16, seed=0)(collate([nothing], 0))
    assert alone.feature_BD.abs().max() == 0


@pytest.mark.parametrize(
    "lora",
    [{"use_dora": True}, {"target_modules": ["embed_tokens"]}, {"modules_to_save": ["lm_head"]}],
    ids=["dora", "embedding", "whole module"],
)
def test_adapters_whose_gradient_would_be_missed_are_refused(lora: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="expected"):
        GradientFeatures(_build("llama", **lora), dim=16, seed=0)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"target_modules": ["gate"]}, "gate with an input of shape"),
        (
            {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]},
            "an adapted MixtralExperts",
        ),
    ],
)
def test_a_mixture_of_experts_is_refused_by_the_name_of_its_layer(lora: dict[str, list[str]], message: str) -> None:
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**_SHAPE, **_HEADS, num_local_experts=2))
    adapted = get_peft_model(model, PeftLoraConfig(r=2, task_type="CAUSAL_LM", **lora))
    with pytest.raises(ModelError, match=message):
        GradientFeatures(adapted, dim=16, seed=0)(collate(_samples(), 0))


def test_an_adapter_is_not_rounded_away_beside_narrow_weights() -> None:
    exact, narrow = _build("llama").float(), _build("llama").float()
    for model in (exact, narrow):  # as small beside the weights as a warm-up leaves it
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data *= 1e-3
    cast_frozen(narrow, torch.bfloat16)
    batch = collate(_samples(6), 0)
    expected = GradientFeatures(exact, dim=64, seed=0)(batch).feature_BD
    found = GradientFeatures(narrow, dim=64, seed=0, precision=torch.bfloat16)(batch).feature_BD
    assert not any(layer.layer.merged for layer in adapted_layers(narrow))
    assert torch.cosine_similarity(expected, found).min() > 0.99


@pytest.mark.parametrize("rank", [1, 64])
def test_merging_the_adapter_changes_no_gradient(rank: int) -> None:
    model, samples = _build("qwen", r=rank), _samples()
    expected = [_autograd(model, sample) for sample in samples]
    merge(model, adapted_layers(model))
    found, _ = _hooked(model, collate(samples, 0))
    for row, gradients in enumerate(expected):
        for name, gradient in gradients.items():
            assert (found[name][row] - gradient).abs().max() / gradient.abs().max() < 1e-9, name


def test_gradient_checkpointing_changes_nothing() -> None:
    plain, checkpointed = _build("llama"), _build("llama")
    checkpointed.base_model.gradient_checkpointing_enable()
    expected, _ = _hooked(plain, collate(_samples(), 0))
    found, _ = _hooked(checkpointed, collate(_samples(), 0))
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_less_gives_the_update_that_adam_would_make() -> None:
    model, dim, samples = _build("llama"), 16, _samples(3)
    named = {canonical_name(n): p for n, p in model.named_parameters() if "lora_" in n}
    generator = torch.Generator().manual_seed(3)
    first = {n: torch.randn(p.shape, generator=generator) for n, p in named.items()}
    second = {n: torch.rand(p.shape, generator=generator) for n, p in named.items()}
    expected = torch.zeros(3, dim, dtype=torch.float64)
    for row, sample in enumerate(samples):
        for name, gradient in _autograd(model, sample).items():
            moved = 0.9 * first[name] + 0.1 * gradient
            update = moved / torch.sqrt(0.999 * second[name] + 0.001 * gradient**2 + 1e-8)
            expected[row] += make_sketch("sparse", name, tuple(gradient.shape), dim, 7).matrix() @ update.flatten()
    moments = Moments(first=first, second=second, steps=5, origin="optimizer")
    found = GradientFeatures(model, dim=dim, seed=7, preconditioning="less", moments=moments)(collate(samples, 0))
    torch.testing.assert_close(found.feature_BD.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_a_factored_sketch_cannot_be_preconditioned() -> None:
    with pytest.raises(ModelError, match="kronecker"):
        GradientFeatures(_build("llama"), dim=16, seed=0, sketch="kronecker", preconditioning="adam")


def test_moments_that_do_not_fit_the_adapter_are_refused() -> None:
    with pytest.raises(ModelError, match="moments"):
        GradientFeatures(
            _build("llama"), dim=16, seed=0, preconditioning="adam",
            moments=Moments(first={}, second={}, steps=1, origin="optimizer"),
        )  # fmt: skip


def test_token_budget_batches_hold_every_sample_once_and_keep_the_budget() -> None:
    lengths = [5, 90, 7, 7, 40, 1, 300]
    batches = token_budget_batches(lengths, 100)
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 100 for b in batches)
