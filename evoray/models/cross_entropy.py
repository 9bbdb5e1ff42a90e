"""Cross-entropy over a large vocabulary without a float32 copy of the logits, or of their gradient.

Logits [S, V] stay in the type that the LM head computed them in; a few rows at a time are widened, both forward and
backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_ENTRIES = 2**23  # logits that are widened at a time: 32 MiB


def cross_entropy(logits_SV: Tensor, labels_S: Tensor) -> Tensor:
    """-log softmax(logits)[label] of each row [S], float32 (float64 for float64 logits), with gradient."""
    losses_S: Tensor = _ChunkedCrossEntropy.apply(logits_SV, labels_S)  # type: ignore[no-untyped-call]
    return losses_S


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_SV: Tensor, labels_S: Tensor) -> Tensor:
        partition_S = torch.empty(len(logits_SV), dtype=_wide(logits_SV), device=logits_SV.device)
        losses_S = torch.empty_like(partition_S)
        for rows in _chunks(logits_SV):
            wide = logits_SV[rows].to(partition_S.dtype)
            partition_S[rows] = torch.logsumexp(wide, 1)
            losses_S[rows] = partition_S[rows] - wide.gather(1, labels_S[rows, None]).squeeze(1)
        ctx.save_for_backward(logits_SV, labels_S, partition_S)
        return losses_S

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_S: Tensor) -> tuple[Tensor, None]:
        logits_SV, labels_S, partition_S = ctx.saved_tensors
        gradient_SV = torch.empty_like(logits_SV)
        for rows in _chunks(logits_SV):
            softmax = (logits_SV[rows].to(partition_S.dtype) - partition_S[rows, None]).exp_()
            softmax[torch.arange(len(softmax), device=softmax.device), labels_S[rows]] -= 1
            gradient_SV[rows] = softmax.mul_(upstream_S[rows, None]).to(logits_SV.dtype)
        return gradient_SV, None


def _wide(logits_SV: Tensor) -> torch.dtype:
    return torch.float64 if logits_SV.dtype == torch.float64 else torch.float32


def _chunks(logits_SV: Tensor) -> Iterator[slice]:
    height = max(1, _CHUNK_ENTRIES // max(1, logits_SV.shape[1]))
    for start in range(0, len(logits_SV), height):
        yield slice(start, start + height)
