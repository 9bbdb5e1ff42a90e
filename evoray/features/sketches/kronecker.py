"""Factored projection P_out (x) P_in: a gradient [O, I] becomes P_out G P_in^T.

A linear layer's gradient is a sum of outer products over tokens, G = sum_t delta_t x_t^T: its projection is the sum of
(P_out delta_t)(P_in x_t)^T, so that G itself is never formed. That makes gradients of base weights affordable. The
price is accuracy: the errors of two small projections multiply. No elementwise preconditioner can be pulled through
the factors.

A side that is smaller than its share of D keeps all its coordinates, with random signs, and loses nothing. The products
of the two sides then go to random ones of the D dimensions, with signs of their own: parameters are added up, and would
otherwise meet in the same dimensions with the signs of their sides alone, which gradients of one structure sum up.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
from torch import Tensor

from evoray.features.sketches.counter import counter_hash, counter_signs, stable_key


@dataclass(frozen=True)
class KroneckerSketch:
    """The sketch of one parameter [O, I]: K = k_out * k_in of its D dimensions are used."""

    dim: int
    out_KO: Tensor  # float32
    in_KI: Tensor  # float32
    place_K: Tensor  # int64: the dimension of each product, all different
    sign_K: Tensor  # float32

    @classmethod
    def make(cls, name: str, shape: tuple[int, int], dim: int, seed: int) -> KroneckerSketch:
        """Of the parameter `name`."""
        low = min(*shape, isqrt(dim))
        high = min(max(shape), dim // low)
        k_out, k_in = (low, high) if shape[0] <= shape[1] else (high, low)
        order = np.argsort(counter_hash(stable_key(seed, f"{name}#place"), dim), kind="stable")
        return cls(
            dim,
            _projection(k_out, shape[0], stable_key(seed, f"{name}#out")),
            _projection(k_in, shape[1], stable_key(seed, f"{name}#in")),
            torch.from_numpy(order[: k_out * k_in]),
            torch.from_numpy(counter_signs(stable_key(seed, f"{name}#sign"), 1, k_out * k_in)[0]).float(),
        )

    def apply(self, gradient_BOI: Tensor) -> Tensor:
        """Sketch of a batch of gradients of the parameter: [B, O, I] to [B, D], in the gradient's dtype."""
        return self._spread(self.out_KO.to(gradient_BOI.dtype) @ gradient_BOI @ self.in_KI.to(gradient_BOI.dtype).T)

    def apply_factors(self, delta_BTO: Tensor, x_BTI: Tensor) -> Tensor:
        """Sketch of sum_t delta_t x_t^T of every sample, without forming it: [B, D]."""
        left_BTK = delta_BTO @ self.out_KO.to(delta_BTO.dtype).T
        right_BTK = x_BTI @ self.in_KI.to(x_BTI.dtype).T
        return self._spread(left_BTK.transpose(1, 2) @ right_BTK)

    def to(self, device: torch.device) -> KroneckerSketch:
        """The same sketch on a device."""
        moved = (part.to(device) for part in (self.out_KO, self.in_KI, self.place_K, self.sign_K))
        return KroneckerSketch(self.dim, *moved)

    def matrix(self) -> Tensor:
        """The explicit [D, P] matrix, float64: for tests."""
        product = torch.kron(self.out_KO.double(), self.in_KI.double()) * self.sign_K.double()[:, None]
        return product.new_zeros(self.dim, product.shape[1]).index_copy(0, self.place_K, product)

    def _spread(self, block_BKK: Tensor) -> Tensor:
        flat_BK = block_BKK.flatten(1) * self.sign_K.to(block_BKK.dtype)
        return flat_BK.new_zeros(len(flat_BK), self.dim).index_copy(1, self.place_K, flat_BK)


def _projection(rows: int, columns: int, key: int) -> Tensor:
    """Random signs / sqrt(rows); where nothing has to be left out, one sign a coordinate."""
    whole = rows == columns
    signs = torch.from_numpy(counter_signs(key, 1 if whole else rows, columns)).float()
    return torch.diag(signs[0]) if whole else signs.mul_(rows**-0.5)
