"""Attention for a CPU: plain matrix products over tiles of queries that leave out what the causal mask forbids.

`transformers`' own `eager` attention multiplies the whole square of scores, of which the mask throws half away; the
fused one works in blocks so small that its backward pass is slower than either. A tile of queries attends to the keys
up to its last position alone, and the heads that share a key (grouped queries) are rows of one product, so that no key
is copied. Scores are those of `eager` up to rounding; float32 scores are normalised in float32, as there.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

#: The name under which `transformers` knows it.
NAME = "evoray_tiled"
_TILE = 128  # queries: small enough to skip much, large enough for full speed of the products


def use_tiled_attention(model: PreTrainedModel) -> None:
    """Have a model that was loaded with `eager` attention use this one, where its code leaves the choice open."""
    if type(model)._supports_attention_backend:
        model.set_attn_implementation(NAME)


def tiled_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Output [B, T, H, d] of queries [B, H, T, d], keys and values [B, G, T', d]; the mask is added to the scores.

    A model that changes its scores on their way to the softmax (soft caps, sinks, biases) keeps its own attention.
    """
    if any(others.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        own = sys.modules[type(module).__module__].eager_attention_forward
        mask, drop = attention_mask, dropout
        return own(module, query, key, value, mask, scaling=scaling, dropout=drop, **others)[0], None
    batch, heads, length, width = query.shape
    groups, keys = key.shape[1], key.shape[2]
    # Without a mask every key is seen, whatever the module says of itself.
    causal = attention_mask is not None and keys == length and (module.is_causal if is_causal is None else is_causal)
    scaled = (query * (width**-0.5 if scaling is None else scaling)).view(batch, groups, heads // groups, length, width)
    parts = []
    for start in range(0, length, _TILE):
        stop = min(start + _TILE, length)
        seen = stop if causal else keys
        tile = scaled[:, :, :, start:stop].reshape(batch, groups, -1, width)
        scores = (tile @ key[:, :, :seen].transpose(2, 3)).view(batch, heads, stop - start, seen)
        if attention_mask is not None:
            scores += attention_mask[:, :, start:stop, :seen]
        weights = torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
        weights = nn.functional.dropout(weights, dropout, module.training)
        part = weights.view(batch, groups, -1, seen) @ value[:, :, :seen]
        parts.append(part.view(batch, heads, stop - start, -1))
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
    return whole.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, tiled_attention)
AttentionMaskInterface.register(NAME, eager_mask)
