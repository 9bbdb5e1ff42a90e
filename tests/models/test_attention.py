"""Tiled attention against the library's own, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from evoray.models import attention
from evoray.models.attention import tiled_attention, use_tiled_attention

_SHAPE = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def _build(architecture: str) -> PreTrainedModel:
    torch.manual_seed(0)
    builders = {
        "grouped queries": lambda: LlamaForCausalLM(LlamaConfig(**_SHAPE, **_HEADS)),
        "sliding window": lambda: MistralForCausalLM(MistralConfig(**_SHAPE, **_HEADS, sliding_window=5)),
        "soft caps": lambda: Gemma2ForCausalLM(Gemma2Config(**_SHAPE, **_HEADS, head_dim=8, query_pre_attn_scalar=8)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=2, n_positions=64)),
        "encoder": lambda: BertModel(BertConfig(**_SHAPE, num_attention_heads=4)),
    }
    model = builders[architecture]().eval()
    model.set_attn_implementation("eager")
    return model


def _output_and_gradients(model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor) -> list[Tensor]:
    model.zero_grad()
    output = model(input_ids=ids_BT, attention_mask=mask_BT)
    last = output.logits if hasattr(output, "logits") else output.last_hidden_state
    last[mask_BT.bool()].square().sum().backward()
    return [last[mask_BT.bool()].detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("padded", ["right", "left"])
@pytest.mark.parametrize("architecture", ["grouped queries", "sliding window", "soft caps", "gpt2", "encoder"])
def test_tiled_attention_is_the_models_own_forward_and_backward(
    architecture: str, padded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_TILE", 4)
    ids_BT = torch.randint(0, 61, (3, 11), generator=torch.Generator().manual_seed(1))
    mask_BT = (torch.arange(11) < torch.tensor([[11], [7], [2]])).long()
    mask_BT = mask_BT.flip(1) if padded == "left" else mask_BT
    model = _build(architecture)
    expected = _output_and_gradients(model, ids_BT, mask_BT)
    use_tiled_attention(model)
    assert model.config._attn_implementation == attention.NAME
    for ours, own in zip(_output_and_gradients(model, ids_BT, mask_BT), expected, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-5)


def test_no_score_is_computed_of_keys_after_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_TILE", 4)
    module = torch.nn.Module().eval()
    module.is_causal = True
    query, key = torch.randn(1, 2, 8, 4), torch.randn(1, 1, 8, 4)
    mask = torch.full((8, 8), -torch.inf).triu(1)[None, None]
    poisoned = key.clone()
    poisoned[:, :, 4:] = torch.nan  # a product with a masked key would show: nan - inf is nan
    early = tiled_attention(module, query, key, key, mask)[0][:, :4]
    assert torch.equal(tiled_attention(module, query, poisoned, poisoned, mask)[0][:, :4], early)
