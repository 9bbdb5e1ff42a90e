"""Sparse Johnson-Lindenstrauss sketch of gradients, the same on every worker and device.

A parameter with P coordinates is padded to L, the next multiple of D. Its L slots are shuffled and dealt
in L / D rounds of D cards: coordinate p lands in bucket (place of p in the shuffle) mod D, times a
random sign. Every bucket of a parameter so receives equally many slots, which makes the sketch a gather
and a sum (no atomics, hence deterministic on a GPU) and keeps E<Pg, Ph> = <g, h>: the signs of two
different coordinates are independent, so that their cross terms vanish in expectation.
With s > 1 nonzeros, s independent sketches are added and divided by sqrt(s).

Shuffle and signs are a counter-based hash (the SplitMix64 finaliser, Steele et al. 2014) of a key that
BLAKE2 makes of (seed, parameter name). Nothing depends on Python's own string hash, which changes from
process to process.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def stable_key(seed: int, name: str) -> int:
    """A 64-bit key of (seed, name), the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "little")


def counter_hash(key: int, count: int) -> npt.NDArray[np.uint64]:
    """`count` uniform 64-bit words: the SplitMix64 finaliser of key + i * golden ratio."""
    with np.errstate(over="ignore"):
        words = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        words = (words ^ (words >> np.uint64(30))) * _MIX_1
        words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return words ^ (words >> np.uint64(31))


@dataclass(frozen=True)
class Sketch:
    """The sketch of one parameter: `slot_L` gathers coordinates (P stands for padding), `weight_L` multiplies."""

    dim: int
    coordinates: int
    slot_L: Tensor  # int64, values in 0..P
    weight_L: Tensor  # float32: sign / sqrt(s), times the preconditioner where there is one; 0 for padding

    def apply(self, gradient_BP: Tensor) -> Tensor:
        """Sketch of a batch of flattened gradients: [B, P] to [B, D], in the gradient's dtype."""
        gathered_BL = gradient_BP.index_select(1, self.slot_L.clamp(max=self.coordinates - 1))
        return (gathered_BL * self.weight_L.to(gradient_BP.dtype)).view(gradient_BP.shape[0], -1, self.dim).sum(1)

    def preconditioned(self, scale_P: Tensor) -> Sketch:
        """The sketch of `scale_P * gradient`, at no extra cost: the scale is folded into the weights."""
        scale_L = scale_P[self.slot_L.clamp(max=self.coordinates - 1)]
        return Sketch(self.dim, self.coordinates, self.slot_L, self.weight_L * scale_L)

    def matrix(self) -> Tensor:
        """The explicit [D, P] matrix, float64: for tests."""
        matrix = torch.zeros(self.dim, self.coordinates, dtype=torch.float64)
        used = self.slot_L < self.coordinates
        bucket_L = torch.arange(len(self.slot_L)) % self.dim
        index = (bucket_L[used], self.slot_L[used])
        return matrix.index_put(index, self.weight_L[used].double(), accumulate=True)


def make_sketch(name: str, coordinates: int, dim: int, seed: int, nonzeros: int = 1) -> Sketch:
    """The sketch of the parameter `name` with `coordinates` entries into `dim` buckets.

    nonzeros: buckets that each coordinate is added to (s of the sparse JL literature).
    """
    padded = -(-coordinates // dim) * dim
    slots, weights = [], []
    for copy in range(nonzeros):
        place_L = np.argsort(counter_hash(stable_key(seed, f"{name}#place{copy}"), padded), kind="stable")
        sign_P = 1.0 - 2.0 * (counter_hash(stable_key(seed, f"{name}#sign{copy}"), padded) >> np.uint64(63)).astype(
            np.float32
        )
        used_L = place_L < coordinates
        slots.append(np.where(used_L, place_L, coordinates))
        weights.append(np.where(used_L, sign_P[place_L], 0.0) / np.sqrt(nonzeros))
    slot_L = torch.from_numpy(np.concatenate(slots).astype(np.int64))
    weight_L = torch.from_numpy(np.concatenate(weights).astype(np.float32))
    return Sketch(dim, coordinates, slot_L, weight_L)
