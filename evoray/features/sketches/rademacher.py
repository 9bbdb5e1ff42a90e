"""Dense Rademacher projection, as LESS (Xia et al. 2024) uses it: every coordinate goes to all D dimensions.

The [P, D] matrix of signs is never stored (a LoRA adapter of SmolLM2-135M at D = 8192 would need 80 GB): blocks of it
are made anew from the counter for every batch. That makes it by far the slowest sketch, and no more accurate than the
sparse one (docs/methods.md): it is here for comparison with published results.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evoray.features.sketches.counter import counter_signs, stable_key

_BLOCK_BYTES = 2**26  # of signs made at a time


@dataclass(frozen=True)
class RademacherSketch:
    """The sketch of one parameter with P coordinates: a random sign / sqrt(D) for each (coordinate, dimension)."""

    dim: int
    coordinates: int
    key: int
    scale_P: Tensor | None = None  # the preconditioner, float32

    @classmethod
    def make(cls, name: str, shape: tuple[int, int], dim: int, seed: int) -> RademacherSketch:
        """Of the parameter `name`."""
        return cls(dim, shape[0] * shape[1], stable_key(seed, f"{name}#rademacher"))

    def apply(self, gradient_BOI: Tensor) -> Tensor:
        """Sketch of a batch of gradients of the parameter: [B, O, I] to [B, D], in the gradient's dtype."""
        gradient_BP = gradient_BOI.flatten(1)
        if self.scale_P is not None:
            gradient_BP = gradient_BP * self.scale_P
        sketch_BD = gradient_BP.new_zeros(len(gradient_BP), self.dim)
        height = max(1, _BLOCK_BYTES // self.dim)
        for start in range(0, self.coordinates, height):
            count = min(height, self.coordinates - start)
            signs_PD = self._signs(start, count).to(gradient_BP.device, gradient_BP.dtype)
            sketch_BD.addmm_(gradient_BP[:, start : start + count], signs_PD)
        return sketch_BD.mul_(self.dim**-0.5)

    def preconditioned(self, scale_OI: Tensor) -> RademacherSketch:
        """The sketch of `scale_OI * gradient`."""
        return replace(self, scale_P=scale_OI.flatten())

    def to(self, device: torch.device) -> RademacherSketch:
        """The same sketch on a device."""
        return self if self.scale_P is None else replace(self, scale_P=self.scale_P.to(device))

    def matrix(self) -> Tensor:
        """The explicit [D, P] matrix, float64: for tests."""
        matrix = self._signs(0, self.coordinates).double().T.mul(self.dim**-0.5)
        return matrix if self.scale_P is None else matrix * self.scale_P.double()

    def _signs(self, start: int, count: int) -> Tensor:
        return torch.from_numpy(counter_signs(self.key, count, self.dim, start))
