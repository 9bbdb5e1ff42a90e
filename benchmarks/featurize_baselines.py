"""What gradient features are compared with in `featurize.py`. Frozen: ours may change, these may not.

Each is the fastest fair form of its kind: the same model with its frozen weights in the type of the passes, the same
losses over the same gathered head, LoRA weights that ask for gradients, and no gradient below the lowest adapted layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evoray.models.chat import Encoded
from evoray.models.loss import Batch, collate, sample_losses

#: LESS projects sixteen gradients at a time.
_PROJECTED_TOGETHER = 16
_BLOCK_BYTES = 2**27


class PlainModel:
    """A LoRA model as training uses it: one backward pass gives the gradient of a batch's summed losses."""

    def __init__(self, model: Any, precision: torch.dtype | None) -> None:
        self.model, self.precision = model.eval(), precision
        self.trained = [p for name, p in model.named_parameters() if "lora_" in name]
        for parameter in self.trained:
            parameter.requires_grad_(True)

    def step(self, batch: Batch) -> list[Tensor]:
        """Forward and backward; the gradients."""
        for parameter in self.trained:
            parameter.grad = None
        with torch.autocast(batch.ids_BT.device.type, self.precision, enabled=self.precision is not None):
            loss = sample_losses(self.model, batch).sum()
        torch.autograd.backward(loss)
        return [parameter.grad for parameter in self.trained if parameter.grad is not None]


def plain_pass(model: PlainModel, batches: Sequence[Batch]) -> None:
    """Forward and backward of given batches: what any gradient costs."""
    for batch in batches:
        model.step(batch)


def padded_batches(samples: Sequence[Encoded], batches: int, pad_id: int) -> list[Batch]:
    """Batches in the order of arrival, of equal numbers of rows, padded to the longest."""
    rows = -(-len(samples) // batches)
    return [collate(samples[start : start + rows], pad_id) for start in range(0, len(samples), rows)]


def looped(
    model: PlainModel,
    samples: Sequence[Encoded],
    pad_id: int,
    sketch: Callable[[list[Tensor]], None],
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> None:
    """One sample at a time, each gradient sketched at once."""
    for sample in samples:
        sketch(model.step(collate([sample], pad_id).to(device)))


class DenseProjection:
    """Dense Rademacher projection of flat gradients, in blocks of signs that are made anew for every sixteen.

    The signs come from the fastest generator at hand (numpy's SFC64, one bit a sign). Seconds of making signs and of
    multiplying are kept apart.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.random_seconds = self.matrix_seconds = 0.0
        self._waiting: list[Tensor] = []

    def add(self, gradients: list[Tensor]) -> None:
        """Keep one sample's gradient; project when there are sixteen."""
        self._waiting.append(torch.cat([gradient.flatten() for gradient in gradients]))
        if len(self._waiting) == _PROJECTED_TOGETHER:
            self.flush()

    def flush(self) -> Tensor | None:
        """Project what is waiting: [n, D]."""
        if not self._waiting:
            return None
        rows_NP = torch.stack(self._waiting)
        self._waiting = []
        result_ND = torch.zeros(len(rows_NP), self.dim, device=rows_NP.device)
        generator = np.random.Generator(np.random.SFC64(0))
        height = _BLOCK_BYTES // self.dim
        for start in range(0, rows_NP.shape[1], height):
            began = time.perf_counter()
            block_NP = rows_NP[:, start : start + height]
            if rows_NP.is_cuda:  # made there: drawn bytes would have to travel
                signs = torch.randint(2, (block_NP.shape[1], self.dim), dtype=torch.int8, device=rows_NP.device)
            else:
                bits = np.frombuffer(generator.bytes(block_NP.shape[1] * self.dim // 8), np.uint8)
                signs = torch.from_numpy(np.unpackbits(bits).view(np.int8)).view(-1, self.dim)
            signs_PD = signs.to(torch.float32).mul_(2).sub_(1)
            made = time.perf_counter()
            result_ND.addmm_(block_NP, signs_PD)
            self.random_seconds += made - began
            self.matrix_seconds += time.perf_counter() - made
        return result_ND
