"""One padded pass of a causal model that computes logits only where a supervised token is predicted.

With a vocabulary of V tokens the logits of a whole batch weigh far more than everything else in the pass: the hidden
states are gathered in front of the output layer (`models.loss.gathered_head`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from evoray.errors import ModelError
from evoray.models.chat import Encoded
from evoray.models.loss import gathered_head

_CHUNK_FLOATS = 1 << 24  # fp32 copies of logits are made 64 MiB at a time


def padded(sequences: Sequence[Sequence[int]], pad: int, device: torch.device) -> torch.Tensor:
    """Right-pad integer sequences to [B, T] int64, T the longest length."""
    longest = max(len(sequence) for sequence in sequences)
    return torch.tensor([[*sequence, *[pad] * (longest - len(sequence))] for sequence in sequences], device=device)


def predicting(encoded: Sequence[Encoded], start: int | Sequence[int], device: torch.device) -> torch.Tensor:
    """Mask [B, T] of positions, counted from `start`, whose hidden state predicts a supervised token."""
    starts = [start] * len(encoded) if isinstance(start, int) else start
    rows = [[*one.supervised[first + 1 :], False] for one, first in zip(encoded, starts, strict=True)]
    return padded(rows, False, device).bool()


def supervised_losses(
    model: PreTrainedModel,
    ids_BT: torch.Tensor,
    predicting_BT: torch.Tensor,
    autocast: torch.dtype | None,
    **inputs: Any,
) -> tuple[torch.Tensor, Any]:
    """Run the model; return the NLL in nats of each predicted token [n] (fp32, row by row) and the model's output.

    `predicting_BT` marks n positions t; position t predicts the token at t + 1. `inputs` go to the model as they are
    (attention mask, positions, cache). Raises ModelError where the output layer cannot be found.
    """
    with (
        gathered_head(model, predicting_BT),
        torch.autocast(ids_BT.device.type, autocast, enabled=autocast is not None),
    ):
        output = model(input_ids=ids_BT, **inputs)
    targets_n = ids_BT.roll(-1, dims=1)[predicting_BT]
    logits_nV = output.logits
    if logits_nV.shape[:-1] != targets_n.shape:
        raise ModelError(
            f"logits of shape {tuple(logits_nV.shape)} from {type(model).__name__}",
            f"({len(targets_n)}, V): one row for each supervised token, computed by the output embeddings",
            "use a causal language model whose output layer is its output embeddings",
        )
    return _cross_entropy(logits_nV, targets_n), output


def _cross_entropy(logits_nV: torch.Tensor, targets_n: torch.Tensor) -> torch.Tensor:
    rows = max(1, _CHUNK_FLOATS // logits_nV.shape[-1])
    pieces = [
        torch.nn.functional.cross_entropy(logits_kV.float(), targets_k, reduction="none")
        for logits_kV, targets_k in zip(torch.split(logits_nV, rows), torch.split(targets_n, rows), strict=True)
    ]
    return torch.cat(pieces)
