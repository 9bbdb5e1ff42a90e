"""A transport problem on one shard: rows against one target, with weights, potentials and cached kernels.

The pool against the target is one problem; the picked rows alone are another, in fp64. Everything here works
tile by tile, so that a tile's numbers are the same on whichever shard it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from evoray.alignment import kernels
from evoray.alignment.reduction import Array, Op, Partials, partial_sums

#: The kernel is rebuilt when potentials have moved this far (in units of eps) since they were absorbed.
ABSORB_NATS = 30.0


@dataclass(kw_only=True)
class Rows:
    """The rows of one tile that take part, and what the solver knows of them."""

    features_ND: torch.Tensor
    position_N: torch.Tensor  # int64, row in the stored tile
    usable_N: torch.Tensor  # bool; the others have weight 0
    log_w_N: torch.Tensor  # fp64
    f_N: torch.Tensor = field(init=False)  # fp64, cost units
    diversity_N: torch.Tensor = field(init=False)  # fp64, dR/dw_i
    projected_NP: torch.Tensor | None = None
    similarity_NM: torch.Tensor | None = None  # kept only while the log domain is in use
    kernel: kernels.TileKernel | None = None

    def __post_init__(self) -> None:
        self.f_N = torch.zeros_like(self.log_w_N)
        self.diversity_N = torch.zeros_like(self.log_w_N)


class Problem:
    """Rows of this shard's tiles against one target [M, D] with weights b [M] (fp64, positive, sum 1)."""

    def __init__(
        self, rows: Mapping[int, Rows], n_tiles: int, target_MD: Array, weights_M: Array, *, log_weight: float
    ) -> None:
        self.rows = rows
        self.n_tiles = n_tiles
        self.target_MD = torch.from_numpy(np.ascontiguousarray(target_MD))
        self.log_b_M = torch.from_numpy(np.log(weights_M))
        self._absorbed: tuple[torch.Tensor, float] | None = None
        self._log_weight = log_weight
        self.reset()

    def fold(self, ops: tuple[Op, ...], values: Callable[[Rows], tuple[Array, ...]]) -> Partials:
        """Partial sums of a per-tile function."""
        return partial_sums({tile: values(rows) for tile, rows in self.rows.items()}, self.n_tiles, ops)

    def similarity(self, rows: Rows) -> torch.Tensor:
        """S [N, M] of one tile, computed afresh unless the log domain keeps it."""
        if rows.similarity_NM is not None:
            return rows.similarity_NM
        return kernels.similarity(rows.features_ND, self.target_MD.to(rows.features_ND.dtype))

    def reset(self) -> None:
        """Every usable row back to the weight it was opened with; what follows is as on a fresh problem."""
        self._absorbed = None
        for rows in self.rows.values():
            rows.log_w_N = torch.full_like(rows.log_w_N, self._log_weight).masked_fill(~rows.usable_N, -torch.inf)

    def column_minimum(self) -> Partials:
        """min_i C_ij [M] over usable rows."""

        def minimum(rows: Rows) -> tuple[Array, ...]:
            usable_NM = self.similarity(rows)[rows.usable_N]
            if not len(usable_NM):
                return (np.full(len(self.log_b_M), np.inf),)
            return (1.0 - usable_NM.amax(dim=0).double().numpy(),)

        return self.fold(("min",), minimum)

    def cost_moments(self) -> Partials:
        """[number of entries, sum C, sum C^2] over usable rows."""

        def moments(rows: Rows) -> tuple[Array, ...]:
            cost_NM = 1.0 - self.similarity(rows)[rows.usable_N].double()
            return (np.array([cost_NM.numel(), float(cost_NM.sum()), float((cost_NM**2).sum())]),)

        return self.fold(("sum",), moments)

    def sinkhorn_kernel(self, g_M: Array, eps: float) -> Partials:
        """One kernel-domain pass: (column masses [M], [<w, f>]); f is kept on the rows."""
        g = torch.from_numpy(g_M)
        if self._absorbed is None or self._absorbed[1] != eps or _far(g, self._absorbed[0], eps):
            for rows in self.rows.values():
                rows.kernel = None  # freed before its successor is built
                rows.kernel = kernels.stabilised_kernel(self.similarity(rows), self.log_b_M, g, eps)
                rows.similarity_NM = None
            self._absorbed = (g, eps)
        log_u_M = (g - self._absorbed[0]) / eps

        def one(rows: Rows) -> tuple[Array, ...]:
            w_N = rows.log_w_N.exp()
            if rows.kernel is None:
                raise RuntimeError("a kernel pass before its kernel was built")
            rows.f_N, c_M = kernels.kernel_pass(rows.kernel, log_u_M, w_N, eps)
            return c_M.numpy(), np.array([float(w_N @ rows.f_N)])

        return self.fold(("sum", "sum"), one)

    def sinkhorn_log(self, g_M: Array, eps: float) -> Partials:
        """One log-domain pass in fp64: (log column masses [M], [<w, f>]); drops the kernel and keeps S."""
        g = torch.from_numpy(g_M)
        self._absorbed = None

        def one(rows: Rows) -> tuple[Array, ...]:
            rows.kernel = None
            rows.similarity_NM = self.similarity(rows)
            rows.f_N, log_c_M = kernels.log_pass(rows.similarity_NM, self.log_b_M, g, rows.log_w_N, eps)
            return log_c_M.numpy(), np.array([float(rows.log_w_N.exp() @ rows.f_N)])

        return self.fold(("logaddexp", "sum"), one)

    def transport_cost(self, g_M: Array, eps: float) -> Partials:
        """[<P, C>] of the plan at potentials g."""
        g = torch.from_numpy(g_M)
        return self.fold(
            ("sum",),
            lambda rows: (
                np.array([kernels.transport_cost(self.similarity(rows), self.log_b_M, g, rows.log_w_N.exp(), eps)]),
            ),
        )


def _far(g_M: torch.Tensor, absorbed_M: torch.Tensor, eps: float) -> bool:
    return bool((g_M - absorbed_M).abs().max() > ABSORB_NATS * eps)
