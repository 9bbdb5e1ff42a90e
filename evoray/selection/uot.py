"""`uot`: rows by the mass that unbalanced optimal transport gives them.

Targeted instruction selection, arXiv 2602.14696. The plan P minimises

    <P, C> + eps KL(P || w b^T) + rho KL(P 1 || w),  its column masses being b,

C = (1 - S) / 2, w uniform over the usable rows. A row's score is its mass (P 1)_i. As rho is far below eps, the pool's
side is almost free: each target takes its mass from the rows near it, softly, and rows near nothing get none.

With p = rho / (rho + eps) and r_i = sum_j b_j exp((g_j - C_ij) / eps), the potential of a row is p times the balanced
one, its mass is w_i r_i^(1 - p), spread over the targets by the row's softmax Q_ij. One pass over the pool gives the
column masses c_j = sum_i w_i r_i^(1 - p) Q_ij; then g_j <- g_j + eps log(b_j / c_j) - rho log(sum c), whose last term
moves all g to the constant that is best where they stand. The map shrinks errors of g by p or better: by 100 a pass at
the defaults. We work on 1 - S with twice eps and twice rho, which is the same plan.

Every pass forms the kernel anew, its row maxima taken out, in the features' dtype: with the start
g_j = min_i C_ij every column has an entry of 1 before maxima are taken out, and keeps a mass far from underflow.
Choices of ours: the start, the L1 tolerance, and which pass counts (masses are those of the last g that was passed).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from evoray.alignment.kernels import stabilised_kernel
from evoray.alignment.reduction import Array, Partials, Value, partial_sums
from evoray.errors import SolverError
from evoray.selection.picks import picks_of
from evoray.selection.protocol import Shards, usable_rows
from evoray.selection.ranking import Keyed, check_count, first_rows, similarity, with_nearest
from evoray.selection.selector import Choice, Needs, Request, Selector
from evoray.selection.shard import CACHE_BYTES, Shard, Tile
from evoray.selection.weights import target_weights

NAME = "uot"


class Uot(Selector):
    """Rows by their mass in a plan that must serve the target and need not use the pool evenly."""

    needs: ClassVar[Needs] = Needs()

    eps: float = Field(0.01, gt=0.0)  # entropic term, in units of the cost (1 - S) / 2
    rho: float = Field(1e-4, gt=0.0)  # price of leaving the uniform marginal of the pool, same units
    tolerance: float = Field(1e-3, gt=0.0)  # L1 distance of the column masses from the target weights
    max_iterations: int = Field(2000, ge=1)  # passes over the pool

    def select(self, shards: Shards, request: Request) -> Choice:
        """The rows of the largest mass."""
        check_count(shards, request.rows)
        usable = usable_rows(shards)
        goal = request.target
        weights_M = target_weights(goal.weights_M, len(goal.align_MD))
        keeps = 4 * shards.n_rows * len(weights_M) <= CACHE_BYTES  # on all shards together
        shards.call("begin", NAME)
        shards.call("tell", NAME, _hold, goal.align_MD, keeps)
        g_M, facts = self._solve(shards, weights_M, usable, request)
        ranked = first_rows(shards, request.rows, _by_mass, g_M, weights_M, 2.0 * self.eps, self._power)
        shards.call("close", NAME)
        mass = float(np.exp([-entry[0] for entry in ranked]).sum()) / usable
        picks = with_nearest(shards, picks_of(entry[1:] for entry in ranked), goal.align_MD)
        return Choice(picks=picks, facts={**facts, "picked_mass": mass})

    @property
    def _power(self) -> float:
        """1 - p."""
        return self.eps / (self.rho + self.eps)

    def _solve(self, shards: Shards, weights_M: Array, usable: int, request: Request) -> tuple[Array, dict[str, Any]]:
        """(g of the last pass in units of 1 - S, facts)."""
        eps, rho = 2.0 * self.eps, 2.0 * self.rho
        (g_M,) = shards.reduce("ask", _least_cost, len(weights_M))
        for iterations in range(1, self.max_iterations + 1):
            (c_M,) = shards.reduce("ask", _pass, g_M, weights_M, eps, self._power)
            c_M = c_M / usable
            if not (np.isfinite(c_M).all() and (c_M > 0.0).all()):
                raise SolverError(
                    f"a target row without mass at eps {self.eps:g} after {iterations} passes",
                    "finite features and a usable row in reach of every target row",
                    "check the features, or raise the selector's eps",
                )
            error = float(np.abs(c_M - weights_M).sum())
            request.progress(iterations, self.max_iterations)
            if error <= self.tolerance or iterations == self.max_iterations:
                break
            g_M = g_M + eps * np.log(weights_M / c_M) - rho * np.log(c_M.sum())
        converged = error <= self.tolerance
        return g_M, {"iterations": iterations, "marginal_error": error, "converged": converged}


def _hold(shard: Shard, state: dict[str, Any], target_MD: Any, keeps: bool) -> None:
    """Similarities of every tile, where there is memory for them, else the target."""
    state["target"], state["last"] = target_MD, (None, {})
    state["kept"] = {tile.index: similarity(tile, target_MD) for tile, _ in shard.tiles() if tile.ids} if keeps else {}


def _state(shard: Shard) -> dict[str, Any]:
    # For an `ask` that reads it: a `tell` would be called again on a shard that is lost, for nothing.
    state: dict[str, Any] = shard.tell(NAME, lambda _shard, held: held)
    return state


def _similarities(shard: Shard) -> list[tuple[Tile, torch.Tensor, Any]]:
    """(tile, mask of usable rows, function to its similarities) of every tile."""
    state = _state(shard)

    def of(tile: Tile) -> torch.Tensor:
        kept: torch.Tensor | None = state["kept"].get(tile.index)
        return similarity(tile, state["target"]) if kept is None else kept

    return [(tile, usable_N, of) for tile, usable_N in shard.tiles()]


def _least_cost(shard: Shard, columns: int) -> Partials:
    """(min_i 1 - S_ij [M]) over usable rows."""

    def values() -> Iterator[Value]:
        for tile, usable_N, similarity_of in _similarities(shard):
            least_M = np.full(columns, np.inf)
            if bool(usable_N.any()):
                similarity_NM = similarity_of(tile)
                usable_NM = similarity_NM if bool(usable_N.all()) else similarity_NM[usable_N]
                least_M = 1.0 - usable_NM.amax(dim=0).double().numpy()
            yield tile.index, (least_M,)

    return partial_sums(values(), shard.n_tiles, ("min",))


def _pass(shard: Shard, g_M: Array, weights_M: Array, eps: float, power: float) -> Partials:
    """(column masses [M] times the number of usable rows)."""
    # Kept for `_by_mass`, which asks at the g of the last pass; a shard that was lost since computes them again.
    log_r: dict[int, torch.Tensor] = {}
    _state(shard)["last"] = (g_M, log_r)

    def values() -> Iterator[Value]:
        for tile, usable_N, similarity_of in _similarities(shard):
            mass_M = np.zeros(len(g_M))
            if len(tile.ids):
                kernel_NM, sums_N, log_r_N = _kernel(similarity_of(tile), g_M, weights_M, eps)
                log_r[tile.index] = log_r_N
                mass_N = (power * log_r_N).exp().masked_fill(~usable_N, 0.0)
                mass_M = torch.mv(kernel_NM.T, (mass_N / sums_N).to(kernel_NM.dtype)).double().numpy()
            yield tile.index, (mass_M,)

    return partial_sums(values(), shard.n_tiles)


def _kernel(
    similarity_NM: torch.Tensor, g_M: Array, weights_M: Array, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(terms of r over their largest [N, M], their sums [N], log r [N] in fp64)."""
    held = stabilised_kernel(similarity_NM, torch.from_numpy(np.log(weights_M)), torch.from_numpy(g_M), eps)
    sums_N = held.kernel_NM.sum(dim=1)  # row by row: equal rows have equal sums, wherever they lie
    return held.kernel_NM, sums_N, held.rowmax_N + sums_N.double().log()


def _by_mass(shard: Shard, g_M: Array, weights_M: Array, eps: float, power: float) -> Iterator[Keyed]:
    """Keys: -log mass, without the constant weight."""
    last_M, log_r = _state(shard)["last"]
    kept = log_r if np.array_equal(last_M, g_M) else {}
    for tile, usable_N, similarity_of in _similarities(shard):
        if len(tile.ids):
            log_r_N = kept.get(tile.index)
            if log_r_N is None:
                log_r_N = _kernel(similarity_of(tile), g_M, weights_M, eps)[2]
            yield tile, usable_N, (-power * log_r_N).numpy()
