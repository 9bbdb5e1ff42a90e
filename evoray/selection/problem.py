"""A transport problem on one shard: rows against one target, with weights, potentials and cached kernels.

The pool against the target is one problem; the picked rows alone are another, in fp64. Everything here works
tile by tile, so that a tile's numbers are the same on whichever shard it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from evoray.alignment import kernels
from evoray.alignment.reduction import Array, Op, Partials, partial_sums

#: The kernel is rebuilt when potentials have moved this far (in units of eps) since they were absorbed.
ABSORB_NATS = 30.0


@dataclass(frozen=True, kw_only=True)
class State:
    """A problem between two steps of a descent, on one shard."""

    log_w_N: Mapping[int, Array]  # of each tile
    absorbed: tuple[Array, float] | None  # g_M that kernels were built with, and eps


class Rows:
    """The rows of one tile that take part, and what the solver knows of them."""

    def __init__(
        self, *, features_ND: torch.Tensor, position_N: torch.Tensor, usable_N: torch.Tensor, log_w_N: torch.Tensor
    ) -> None:
        self.features_ND = features_ND
        self.position_N = position_N  # int64, row in the stored tile
        self.usable_N = usable_N  # bool; the others have weight 0
        self.source_N: torch.Tensor | None = None  # int64, number of the row's source; None: all are of one
        self.diversity_N = torch.zeros_like(log_w_N)  # fp64, dR/dw_i
        self.projected_NP: torch.Tensor | None = None
        self.kernel: kernels.TileKernel | None = None  # where there is memory for it
        self._matrix_NM: torch.Tensor | None = None  # that memory: the kernel's, or similarities
        self._holds_similarity = False
        self.minimum_M: Array | None = None  # least cost of each column over usable rows
        self._pass: tuple[torch.Tensor, torch.Tensor, float] | None = None  # row maxima and sums, eps
        self._f_N: torch.Tensor | None = torch.zeros_like(log_w_N)
        self.log_w_N = log_w_N

    @property
    def log_w_N(self) -> torch.Tensor:
        """Log weights, fp64."""
        return self._log_w_N

    @log_w_N.setter
    def log_w_N(self, log_w_N: torch.Tensor) -> None:
        self._log_w_N = log_w_N
        self._w_N: torch.Tensor | None = None

    @property
    def w_N(self) -> torch.Tensor:
        """Weights, fp64; every pass of a solve needs the same ones."""
        if self._w_N is None:
            self._w_N = self._log_w_N.exp()
        return self._w_N

    @property
    def f_N(self) -> torch.Tensor:
        """Potentials of the last pass, fp64, cost units. Of a kernel pass they are computed when asked for."""
        if self._f_N is None:
            if self._pass is None:
                raise RuntimeError("potentials before a pass")
            self._f_N = kernels.kernel_potential(*self._pass)
        return self._f_N

    @f_N.setter
    def f_N(self, f_N: torch.Tensor) -> None:
        self._f_N = f_N

    def similarity(self, target_MD: torch.Tensor, keep: bool) -> torch.Tensor:
        """S [N, M], not to be changed by the caller; kept on demand, unless a kernel is."""
        if self._holds_similarity and self._matrix_NM is not None:
            return self._matrix_NM
        target = target_MD.to(self.features_ND.dtype)
        if not keep or self.kernel is not None:
            return kernels.similarity(self.features_ND, target)
        # Into the same memory again: tiles are many and large, and what they leave behind would not fit together.
        self._matrix_NM = kernels.similarity(self.features_ND, target, out=self._matrix_NM)
        self._holds_similarity = True
        return self._matrix_NM

    def build_kernel(
        self, target_MD: torch.Tensor, log_b_M: torch.Tensor, g_M: torch.Tensor, eps: float, keep: bool
    ) -> kernels.TileKernel:
        """The kernel at potentials g, made of the similarities in their own memory."""
        similarity_NM = self.similarity(target_MD, keep)
        self._holds_similarity = False
        kernel = kernels.stabilised_kernel(similarity_NM, log_b_M, g_M, eps, out=similarity_NM)
        if keep:
            self.kernel = kernel
        return kernel

    def passed(self, rowmax_N: torch.Tensor, sums_N: torch.Tensor, eps: float) -> None:
        """Note what a kernel pass found."""
        self._pass, self._f_N = (rowmax_N, sums_N, eps), None


class Problem:
    """Rows of this shard's tiles against one target [M, D] with weights b [M] (fp64, positive, sum 1).

    cache_bytes: memory for one matrix [N, M], in which each tile has its kernel, or its similarities until there is a
    kernel. Where it does not fit, a pass computes them anew, tile by tile; what is kept changes no bit of any result.
    """

    def __init__(
        self,
        rows: Mapping[int, Rows],
        n_tiles: int,
        target_MD: Array,
        weights_M: Array,
        *,
        log_weight: float,
        cache_bytes: int,
    ) -> None:
        self.rows = rows
        self.n_tiles = n_tiles
        self.sources = 1  # that rows are told apart by
        self.target_MD = torch.from_numpy(np.ascontiguousarray(target_MD))
        self.log_b_M = torch.from_numpy(np.log(weights_M))
        size = sum(held.features_ND.element_size() * len(held.position_N) for held in rows.values()) * len(target_MD)
        self._keeps = size <= cache_bytes
        self._absorbed: tuple[Array, float] | None = None
        self._log_weight = log_weight
        self.reset()

    def fold(self, ops: tuple[Op, ...], values: Callable[[Rows], tuple[Array, ...]], threads: int = 1) -> Partials:
        """Partial sums of a per-tile function; threads: of tiles at a time, which changes no bit."""
        if threads > 1 and len(self.rows) > 1:
            with ThreadPoolExecutor(threads) as pool:
                return partial_sums(
                    zip(self.rows, pool.map(values, self.rows.values()), strict=True), self.n_tiles, ops
                )
        return partial_sums(((tile, values(rows)) for tile, rows in self.rows.items()), self.n_tiles, ops)

    def similarity(self, rows: Rows) -> torch.Tensor:
        """S [N, M] of one tile; not to be changed by the caller."""
        return rows.similarity(self.target_MD, self._keeps)

    def reset(self) -> None:
        """Every usable row back to the weight it was opened with; what follows is as on a fresh problem."""
        self._absorb(None)
        for rows in self.rows.values():
            rows.log_w_N = torch.full_like(rows.log_w_N, self._log_weight).masked_fill(~rows.usable_N, -torch.inf)

    def save(self) -> State:
        """What a resumed descent needs: weights, and the potentials that kernels were built with."""
        weights = {tile: rows.log_w_N.numpy() for tile, rows in self.rows.items()}
        return State(log_w_N=weights, absorbed=self._absorbed)

    def restore(self, state: State) -> None:
        """The weights and kernels of that moment; potentials and gradients are those of the next pass."""
        for tile, rows in self.rows.items():
            rows.log_w_N = torch.from_numpy(state.log_w_N[tile].copy())
        self._absorb(state.absorbed)

    def _absorb(self, at: tuple[Array, float] | None) -> None:
        self._absorbed = at
        for rows in self.rows.values():
            rows.kernel = None

    def column_minimum(self) -> Partials:
        """min_i C_ij [M] over usable rows."""

        def minimum(rows: Rows) -> tuple[Array, ...]:
            if rows.minimum_M is None:
                rows.minimum_M = self._minimum(self.similarity(rows)[rows.usable_N])
            return (rows.minimum_M,)

        return self.fold(("min",), minimum)

    def _minimum(self, usable_NM: torch.Tensor) -> Array:
        if not len(usable_NM):
            return np.full(len(self.log_b_M), np.inf)
        minimum_M: Array = 1.0 - usable_NM.amax(dim=0).double().numpy()
        return minimum_M

    def cost_moments(self) -> Partials:
        """[number of entries, sum C, sum C^2] over usable rows."""

        def moments(rows: Rows) -> tuple[Array, ...]:
            usable_NM = self.similarity(rows)
            if not bool(rows.usable_N.all()):
                usable_NM = usable_NM[rows.usable_N]
            rows.minimum_M = self._minimum(usable_NM)  # while S is at hand: it may not be kept
            count, total = float(usable_NM.numel()), float(usable_NM.sum(dtype=torch.float64))
            squares = float(torch.linalg.vector_norm(usable_NM, dtype=torch.float64)) ** 2
            return (np.array([count, count - total, count - 2.0 * total + squares]),)

        return self.fold(("sum",), moments)

    def sinkhorn_kernel(self, g_M: Array, eps: float) -> Partials:
        """One kernel-domain pass: (column masses [M]); f is kept on the rows."""
        if self._absorbed is None or self._absorbed[1] != eps or _far(g_M, self._absorbed[0], eps):
            self._absorb((g_M, eps))
        u_M = torch.from_numpy(np.exp((g_M - self._origin) / eps))

        def one(rows: Rows) -> tuple[Array, ...]:
            kernel = self._kernel(rows, eps)
            sums_N, c_M = kernels.kernel_pass(kernel, u_M.to(kernel.kernel_NM.dtype), rows.w_N)
            rows.passed(kernel.rowmax_N, sums_N, eps)
            return ((c_M * u_M).numpy(),)

        return self.fold(("sum",), one, threads=torch.get_num_threads())

    @property
    def _origin(self) -> Array:
        if self._absorbed is None:
            raise RuntimeError("a kernel before potentials were absorbed")
        return self._absorbed[0]

    def _kernel(self, rows: Rows, eps: float) -> kernels.TileKernel:
        """The tile's kernel at the absorbed potentials."""
        if rows.kernel is not None:
            return rows.kernel
        return rows.build_kernel(self.target_MD, self.log_b_M, torch.from_numpy(self._origin), eps, self._keeps)

    def sinkhorn_log(self, g_M: Array, eps: float) -> Partials:
        """One log-domain pass in fp64: (log column masses [M]); f is kept on the rows. Kernels are dropped."""
        g = torch.from_numpy(g_M)
        self._absorb(None)

        def one(rows: Rows) -> tuple[Array, ...]:
            rows.f_N, log_c_M = kernels.log_pass(self.similarity(rows), self.log_b_M, g, rows.log_w_N, eps)
            return (log_c_M.numpy(),)

        return self.fold(("logaddexp",), one)

    def weighted_potential(self) -> Partials:
        """[<w, f>], f of the last pass."""

        def one(rows: Rows) -> tuple[Array, ...]:
            return (np.array([float(rows.w_N @ rows.f_N)]),)

        return self.fold(("sum",), one)

    def transport_cost(self, g_M: Array, eps: float) -> Partials:
        """[<P, C>] of the plan at potentials g."""
        g = torch.from_numpy(g_M)
        return self.fold(
            ("sum",),
            lambda rows: (np.array([kernels.transport_cost(self.similarity(rows), self.log_b_M, g, rows.w_N, eps)]),),
        )


def _far(g_M: Array, absorbed_M: Array, eps: float) -> bool:
    return bool(np.abs(g_M - absorbed_M).max() > ABSORB_NATS * eps)
