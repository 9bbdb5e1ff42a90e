"""Representations of the last hidden layer: a forward pass alone, much cheaper than gradients.

`rds` weights position t of prompt and response by t / sum t (RDS+, Ivison et al. 2025); `hidden_mean` weights all
positions equally (what DiverseEvol uses); `embed` is `hidden_mean` of a sentence encoder.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from evoray.features.protocol import FeatureBatch
from evoray.models.flops import FORWARD, flops_per_token
from evoray.models.loss import Batch

Pooling = Literal["mean", "position"]


class HiddenFeatures:
    """Pooled last hidden states of a model without its head."""

    def __init__(self, body: Any, pooling: Pooling, precision: torch.dtype | None = None) -> None:
        self._body = body.eval().requires_grad_(False)
        self._pooling = pooling
        self._precision = precision
        self.dim = int(body.config.hidden_size)
        self.device = next(body.parameters()).device
        self.flops_per_token = flops_per_token(body, FORWARD)

    def __call__(self, batch: Batch) -> FeatureBatch:
        """One forward pass; no losses."""
        amp = torch.autocast(self.device.type, self._precision) if self._precision else nullcontext()
        with torch.inference_mode(), amp:
            output = self._body(input_ids=batch.ids_BT, attention_mask=batch.attention_BT)
        hidden_BTH = output.last_hidden_state.float()
        weight_BT = pooling_weights(batch.attention_BT, self._pooling).to(hidden_BTH.dtype)
        return FeatureBatch(torch.einsum("bt,bth->bh", weight_BT, hidden_BTH), None)


def pooling_weights(attention_BT: Tensor, pooling: Pooling) -> Tensor:
    """Weights of the positions of every row, which sum to 1 over its real tokens; float64."""
    mask_BT = attention_BT.double()
    weight_BT = mask_BT.cumsum(1) * mask_BT if pooling == "position" else mask_BT
    return weight_BT / weight_BT.sum(1, keepdim=True)
