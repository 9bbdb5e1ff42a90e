"""EvoSelect's mirror descent for one (lambda, eps), driven over the shards.

Minimises J(w) = OT_eps(w, b) + lambda_eff R(w) over the capped simplex {sum w = 1, 0 <= w_i <= 1/K}, the
relaxation of "pick K". lambda_eff = lambda s_OT / s_R with the two gradients' weighted standard deviations at
the uniform start, frozen: one convex problem from beginning to end. A step moves log w by
-eta (f / s_OT + lambda dR / s_R) / max(1, lambda), centred, clipped, renormalised and projected onto the caps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evoray.alignment.reduction import Array
from evoray.alignment.sinkhorn import Potentials, solve
from evoray.diversity.energies import Energy, Memory, NoEnergy
from evoray.selection.capped import find_scale
from evoray.selection.protocol import Shards

#: Gradients that spread less than this are constant up to fp32 rounding, and are not blown up to spread 1.
MIN_SCALE = 1e-6
POOL = "pool"


@dataclass(frozen=True, kw_only=True)
class DescentOptions:
    """How the descent is run; units: eta per standard deviation of the gradient."""

    k: int
    eta: float  # length of a step; divided by lambda where that is above 1
    steps: int
    refresh_every: int
    sinkhorn_passes: int
    tolerance: float
    max_iterations: int
    rho: float | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One line of the trace, before the step is made (the last line: at the end)."""

    step: int
    marginal_error: float  # L1
    transport: float  # dual value of OT, cost units
    diversity: float  # lambda_eff R(w) at the last refresh of the moment, cost units
    effective: float  # exp of the entropy of w: number of candidates in play
    gap: float | None  # Frank-Wolfe gap, cost units; None where the diversity gradient is from an earlier step


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Where a descent ended. `top` has the K picks: (-log w, f, id, tile, row), best first."""

    potentials: Potentials
    top: tuple[tuple[float, float, str, int, int], ...]
    trace: tuple[Step, ...]
    lambda_eff: float
    scale_transport: float  # s_OT, cost units
    scale_diversity: float | None  # s_R; None where lambda is 0
    objective: float  # J(w), cost units
    gap: float  # Frank-Wolfe gap: J(w) - J* is at most this, up to the marginal error of the last solve

    @property
    def lower_bound(self) -> float:
        """A lower bound of J over the capped simplex, valid for any potentials and weights; cost units."""
        return self.objective - self.gap


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is minimised, on the open problem `POOL` of these shards."""

    shards: Shards
    weights_M: Array  # fp64 target weights b, sum 1
    energy: Energy
    memory: Memory | None
    options: DescentOptions


def descend(task: Task, lam: float, start: Potentials, progress: Callable[[], None]) -> Descent:
    """Run all steps from uniform weights and the potentials of that start, then solve to the tolerance.

    `progress` is called after each step. Raises SolverError where numbers stop being finite.
    """
    return _Run(task, lam, start).descend(progress)


class _Run:
    def __init__(self, task: Task, lam: float, start: Potentials) -> None:
        self.shards, self.b_M, self.options, self.memory = task.shards, task.weights_M, task.options, task.memory
        self.energy: Energy = task.energy if lam else NoEnergy()
        self.lam, self.potentials = lam, start
        self.log_cap = -float(np.log(task.options.k))
        self.scale_transport = self.scale_diversity = 1.0
        self.lambda_eff = self.energy_value = self.mean_gradient = 0.0
        self.trace: list[Step] = []

    def descend(self, progress: Callable[[], None]) -> Descent:
        self.shards.call("reset", POOL)
        for step in range(self.options.steps):
            fresh = step % self.options.refresh_every == 0
            self._look(step, fresh, exact=step == 0)
            self._move()
            progress()
        self._look(self.options.steps, True, exact=True)
        last = self.trace[-1]
        return Descent(
            potentials=self.potentials,
            top=merged_top(self.shards, POOL, self.options.k),
            trace=tuple(self.trace),
            lambda_eff=self.lambda_eff,
            scale_transport=self.scale_transport,
            scale_diversity=self.scale_diversity if self.lam else None,
            objective=last.transport + last.diversity,
            gap=float("nan") if last.gap is None else last.gap,
        )

    def _look(self, step: int, fresh: bool, exact: bool) -> None:
        """Potentials and gradients at the present weights, and a line of the trace."""
        options = self.options
        if fresh:
            self.energy_value = self._refresh()
        self.potentials = solve(
            self.shards,
            POOL,
            self.b_M,
            eps=self.potentials.eps,
            rho=options.rho,
            g_M=self.potentials.g_M,
            tolerance=options.tolerance,
            max_iterations=options.max_iterations if exact else options.sinkhorn_passes,
        )
        (sums,) = self.shards.reduce("gradient_sums", POOL)
        if not self.trace:
            self._freeze_scales(sums)
        self.mean_gradient = float(sums[0] + self.lambda_eff * sums[2])
        self.trace.append(
            Step(
                step=step,
                marginal_error=self.potentials.marginal_error,
                transport=self.potentials.objective,
                diversity=self.lambda_eff * self.energy_value,
                effective=float(np.exp(sums[4])),
                gap=self._gap() if fresh else None,
            )
        )

    def _refresh(self) -> float:
        """Diversity gradient rows from the moment at the present weights; R."""
        if self.energy.moment == "none":
            self.shards.call("set_diversity", POOL, None, 0.0)
            return 0.0
        (moment,) = self.shards.reduce("moment", POOL, self.energy.moment)
        factor = 1.0
        if self.memory is not None:
            moment = self.memory.total(moment, self.energy.moment, self.options.k)
            factor = self.memory.share(self.options.k)
        self.shards.call("set_diversity", POOL, self.energy.gradient(moment), factor)
        return self.energy.value(moment)

    def _freeze_scales(self, sums: Array) -> None:
        self.scale_transport = _spread(sums[0], sums[1])
        self.scale_diversity = _spread(sums[2], sums[3])
        self.lambda_eff = self.lam * self.scale_transport / self.scale_diversity

    def _gap(self) -> float:
        """Frank-Wolfe gap: the best vertex of the capped simplex puts 1/K on the K smallest gradients."""
        k = self.options.k
        parts = self.shards.call("smallest_gradients", POOL, self.lambda_eff, k)
        return self.mean_gradient - float(np.sort(np.concatenate(parts))[:k].mean())

    def _move(self) -> None:
        # Beyond lambda 1 the diversity gradient rules, and it bends faster than eta allows: full steps would swing.
        rate = self.options.eta / (self.scale_transport * max(1.0, self.lam))
        (log_total,) = self.shards.reduce("mirror_step", POOL, rate, self.lambda_eff, self.mean_gradient)

        def measure(log_scale: float) -> tuple[float, float]:
            count, log_free = self.shards.reduce("capped_mass", POOL, log_scale, self.log_cap)
            return float(count[0]), float(log_free[0])

        log_scale = find_scale(measure, -float(log_total[0]), 1.0 / self.options.k)
        self.shards.call("accept", POOL, log_scale, self.log_cap)


def merged_top(shards: Shards, problem: str, k: int) -> tuple[tuple[float, float, str, int, int], ...]:
    """The first k usable rows of all shards by (-w, f, id)."""
    return tuple(sorted(entry for part in shards.call("top", problem, k) for entry in part)[:k])


def _spread(mean: float, mean_square: float) -> float:
    deviation = float(np.sqrt(max(mean_square - mean * mean, 0.0)))
    return deviation if deviation > MIN_SCALE else 1.0
