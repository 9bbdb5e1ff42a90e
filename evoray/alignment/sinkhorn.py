"""Entropic optimal transport between a sharded weighted pool and a small target.

OT_eps(w, b) = min_P <P, C> + eps KL(P || w b^T), rows of P summing to w and columns to b (or, relaxed,
close to b at price rho KL). A pass over the shards costs one reduction of an M-vector, and only the target
potentials g are global: they are the checkpoint, extend to unseen rows, and warm-start the next solve.

An iteration is one pass and one update of g on the driver, by Anderson acceleration of Sinkhorn's own step (see
`acceleration`). A small eps is reached in a few coarse solves at larger ones; where it is no less than a twentieth of
the spread that annealing starts from, acceleration alone is as fast.

Which arithmetic: a pass runs in the kernel domain; where one of its column masses falls below 1e-20 (an
underflowed kernel entry loses at most e^-87 of a row), the pass is repeated in the log domain and the
potentials are absorbed anew; after four such passes the solve stays in the log domain. The relaxed update
shrinks the whole potential by rho/(rho + eps) and then moves it by the constant that is optimal in closed
form, without which a large rho would converge at rate rho/(rho + eps).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from evoray.alignment.acceleration import Anderson
from evoray.alignment.potentials import dual_objective, target_mass
from evoray.alignment.reduction import Array, Reducer
from evoray.errors import SolverError

MASS_FLOOR = 1e-20
LOG_PASSES = 4
#: From one eps to the next, the tolerance of the coarse solves over that of the last, and their passes at most.
ANNEAL_FACTOR = 20.0
ANNEAL_TOLERANCE = 30.0
ANNEAL_ITERATIONS = 100


@dataclass(frozen=True, kw_only=True)
class Potentials:
    """A solve's end. `g_M` is the vector that the last pass used, so f on the shards belongs to it."""

    g_M: Array  # fp64, cost units; <b, g> = 0 unless the target is relaxed
    eps: float  # cost units
    marginal_error: float  # L1 distance of the column masses from those wanted
    iterations: int  # passes over the pool, annealing included
    converged: bool
    domain: Literal["kernel", "mixed", "log"]
    objective: float  # dual value, cost units


def solve(
    shards: Reducer,
    problem: str,
    weights_M: Array,
    *,
    eps: float,
    rho: float | None = None,
    g_M: Array | None = None,
    anneal_from: float | None = None,
    tolerance: float = 1e-3,
    max_iterations: int = 2000,
    accelerate: bool = True,
) -> Potentials:
    """Potentials of an open problem of the shards at its current weights w.

    `weights_M`: fp64 target weights b, positive, sum 1. `g_M`: warm start; without it the hard c-transform
    min_i C_ij. `anneal_from`: eps (cost units) that coarse solves stay below; leave it out when warm.
    `accelerate`: False makes every pass a plain step: for warm starts in a descent whose weights move.
    Not to converge is recorded, not raised. Raises SolverError for non-finite numbers or eps <= 0.
    """
    if not eps > 0.0 or max_iterations < 1:
        raise SolverError(f"eps {eps}, {max_iterations} iterations", "eps > 0 and at least one iteration", "raise them")
    (start_M,) = (g_M,) if g_M is not None else shards.reduce("column_minimum", problem)
    run = _Run(shards, problem, weights_M, rho, _settle(start_M, weights_M, rho), accelerate)
    for stage in _schedule(eps, anneal_from):
        run.iterate(stage, ANNEAL_TOLERANCE * tolerance, min(ANNEAL_ITERATIONS, max_iterations))
    error = run.iterate(eps, tolerance, max_iterations)
    (weighted_f,) = shards.reduce("weighted_potential", problem)
    return Potentials(
        g_M=run.g_M,
        eps=eps,
        marginal_error=error,
        iterations=run.iterations,
        converged=error <= tolerance,
        domain="kernel" if not run.log_passes else "log" if run.log_passes == run.iterations else "mixed",
        objective=dual_objective(float(weighted_f[0]), run.g_M, weights_M, rho),
    )


class _Run:
    """The moving parts of one solve."""

    def __init__(
        self, shards: Reducer, problem: str, weights_M: Array, rho: float | None, g_M: Array, accelerate: bool
    ) -> None:
        self.shards, self.problem, self.b_M, self.rho, self.g_M = shards, problem, weights_M, rho, g_M
        self.accelerate = accelerate
        self.log_b_M: Array = np.log(weights_M)
        self.iterations = 0
        self.log_passes = 0

    def iterate(self, eps: float, tolerance: float, limit: int) -> float:
        """Passes until the tolerance or the limit; the L1 marginal error. g is not moved after the last pass."""
        history = Anderson(self.b_M)
        for count in range(1, limit + 1):
            log_c_M = self._pass(eps)
            self.iterations += 1
            error = float(np.abs(np.exp(log_c_M) - target_mass(self.g_M, self.b_M, self.rho)).sum())
            if not np.isfinite(error) or not np.isfinite(log_c_M).all():
                raise SolverError(
                    f"non-finite column masses at eps {eps:g} after {self.iterations} passes",
                    "finite features and a row of positive weight in reach of every target",
                    "check the features for non-finite rows, or raise eps",
                )
            if error <= tolerance or count == limit:
                break
            moved_M = self.g_M + eps * (self.log_b_M - log_c_M)
            if self.rho is not None:
                moved_M = moved_M * (self.rho / (self.rho + eps))
            image_M = _settle(moved_M, self.b_M, self.rho)
            next_M = history.step(self.g_M, image_M, error) if self.accelerate else image_M
            self.g_M = _settle(next_M, self.b_M, self.rho)
        return error

    def _pass(self, eps: float) -> Array:
        """log c [M]; f stays with the rows."""
        if self.log_passes < LOG_PASSES:
            (c_M,) = self.shards.reduce("sinkhorn_kernel", self.problem, self.g_M, eps)
            if (c_M >= MASS_FLOOR).all():
                return np.log(c_M)
        self.log_passes += 1
        (log_c_M,) = self.shards.reduce("sinkhorn_log", self.problem, self.g_M, eps)
        return log_c_M


def _settle(g_M: Array, weights_M: Array, rho: float | None) -> Array:
    """Fix the constant of g: <b, g> = 0, or the best constant of the relaxed dual, where <b, exp(-g/rho)> = 1."""
    if rho is None:
        return g_M - float(weights_M @ g_M)
    log_mass = np.log(weights_M) - g_M / rho
    return g_M + rho * float(np.logaddexp.reduce(log_mass))


def _schedule(eps: float, anneal_from: float | None) -> list[float]:
    """Coarse eps, from the largest down: ANNEAL_FACTOR times each other and eps, all below `anneal_from`."""
    stages: list[float] = []
    stage = eps * ANNEAL_FACTOR
    while stage < (anneal_from or 0.0):
        stages.insert(0, stage)
        stage *= ANNEAL_FACTOR
    return stages
