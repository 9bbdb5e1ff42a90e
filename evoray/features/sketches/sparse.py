"""Sparse Johnson-Lindenstrauss sketch of gradients, the same on every worker and device.

A parameter with P coordinates is padded to L, the next multiple of D. Its L slots are shuffled and dealt
in L / D rounds of D cards: coordinate p lands in bucket (place of p in the shuffle) mod D, times a
random sign. Every bucket of a parameter so receives equally many slots, which makes the sketch a gather
and a sum (no atomics, hence deterministic on a GPU) and keeps E<Pg, Ph> = <g, h>: the signs of two
different coordinates are independent, so that their cross terms vanish in expectation.
With s > 1 nonzeros, s independent sketches are added and divided by sqrt(s).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evoray.features.sketches.counter import counter_hash, stable_key


@dataclass(frozen=True)
class SparseSketch:
    """The sketch of one parameter: `slot_L` gathers coordinates (P stands for padding), `weight_L` multiplies."""

    dim: int
    coordinates: int
    slot_L: Tensor  # int64, values in 0..P
    weight_L: Tensor  # float32: sign / sqrt(s), times the preconditioner where there is one; 0 for padding

    @classmethod
    def make(cls, name: str, shape: tuple[int, int], dim: int, seed: int, nonzeros: int = 1) -> SparseSketch:
        """Of the parameter `name`. nonzeros: buckets that a coordinate is added to (s of the sparse JL literature)."""
        coordinates = shape[0] * shape[1]
        padded = -(-coordinates // dim) * dim
        slots, weights = [], []
        for copy in range(nonzeros):
            place_L = np.argsort(counter_hash(stable_key(seed, f"{name}#place{copy}"), padded), kind="stable")
            high_bit_P = counter_hash(stable_key(seed, f"{name}#sign{copy}"), padded) >> np.uint64(63)
            sign_P = 1.0 - 2.0 * high_bit_P.astype(np.float32)
            used_L = place_L < coordinates
            slots.append(np.where(used_L, place_L, coordinates))
            weights.append(np.where(used_L, sign_P[place_L], 0.0) / np.sqrt(nonzeros))
        slot_L = torch.from_numpy(np.concatenate(slots).astype(np.int64))
        weight_L = torch.from_numpy(np.concatenate(weights).astype(np.float32))
        return cls(dim, coordinates, slot_L, weight_L)

    def apply(self, gradient_BOI: Tensor) -> Tensor:
        """Sketch of a batch of gradients of the parameter: [B, O, I] to [B, D], in the gradient's dtype."""
        gathered_BL = gradient_BOI.flatten(1).index_select(1, self.slot_L.clamp(max=self.coordinates - 1))
        weighted_BL = gathered_BL * self.weight_L.to(gradient_BOI.dtype)
        return weighted_BL.view(gradient_BOI.shape[0], -1, self.dim).sum(1)

    def preconditioned(self, scale_OI: Tensor) -> SparseSketch:
        """The sketch of `scale_OI * gradient`, at no extra cost: the scale is folded into the weights."""
        scale_L = scale_OI.flatten()[self.slot_L.clamp(max=self.coordinates - 1)]
        return SparseSketch(self.dim, self.coordinates, self.slot_L, self.weight_L * scale_L)

    def to(self, device: torch.device) -> SparseSketch:
        """The same sketch on a device."""
        return SparseSketch(self.dim, self.coordinates, self.slot_L.to(device), self.weight_L.to(device))

    def matrix(self) -> Tensor:
        """The explicit [D, P] matrix, float64: for tests."""
        matrix = torch.zeros(self.dim, self.coordinates, dtype=torch.float64)
        used = self.slot_L < self.coordinates
        bucket_L = torch.arange(len(self.slot_L)) % self.dim
        index = (bucket_L[used], self.slot_L[used])
        return matrix.index_put(index, self.weight_L[used].double(), accumulate=True)
