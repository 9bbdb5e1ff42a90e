"""EvoSelect's mirror descent for one (lambda, eps), driven over the shards.

Minimises J(w) = OT_eps(w, b) + lambda_eff R(w) over the capped simplex {sum w = 1, 0 <= w_i <= 1/K}, the
relaxation of "pick K"; with shares per source, over the part of it that obeys them. lambda_eff = lambda s_OT / s_R
with the two gradients' weighted standard deviations at the uniform start, frozen: one convex problem from beginning
to end. A step moves log w by -eta (f / s_OT + lambda dR / s_R) / max(1, lambda), centred, clipped, renormalised and
projected onto that set (the uniform start alone may lie outside it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evoray.alignment.reduction import Array
from evoray.alignment.sinkhorn import Potentials, solve
from evoray.diversity.energies import Energy, Memory, NoEnergy
from evoray.selection.capped import find_scales
from evoray.selection.heaviest import heaviest
from evoray.selection.journal import Journal, Note
from evoray.selection.protocol import Shards
from evoray.selection.shares import Bounds, Entry

#: Gradients that spread less than this are constant up to fp32 rounding, and are not blown up to spread 1.
MIN_SCALE = 1e-6
#: Steps between notes, rounded up to the next refresh of the diversity gradient: nothing else need be kept then.
NOTE_EVERY = 4
POOL = "pool"


@dataclass(frozen=True, kw_only=True)
class DescentOptions:
    """How the descent is run; units: eta per standard deviation of the gradient."""

    k: int
    rows: int  # to rank, at least k: those beyond the k-th are no part of the picks, and follow them
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
    """Where a descent ended. `top` has the K picks: (-log w, f, id, tile, row), best first; `more` what follows."""

    potentials: Potentials
    top: tuple[Entry, ...]
    more: tuple[Entry, ...]
    trace: tuple[Step, ...]
    lambda_eff: float
    scale_transport: float  # s_OT, cost units
    scale_diversity: float | None  # s_R; None where lambda is 0
    objective: float  # J(w), cost units
    gap: float  # Frank-Wolfe gap: J(w) - J* is at most this, up to the marginal error of the last solve

    @property
    def lower_bound(self) -> float:
        """A lower bound of J over all weights that are allowed, valid for any potentials and weights; cost units."""
        return self.objective - self.gap


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is minimised, on the open problem `POOL` of these shards."""

    shards: Shards
    weights_M: Array  # fp64 target weights b, sum 1
    energy: Energy
    memory: Memory | None
    options: DescentOptions
    bounds: Bounds | None = None  # of the sources that the shards are divided into; None: any shares


def descend(
    task: Task, lam: float, start: Potentials, progress: Callable[[], None], journal: Journal, place: int
) -> Descent:
    """Run all steps from uniform weights and the potentials of that start, then solve to the tolerance.

    `progress` is called after each step. `journal`: has notes of this descent under its `place` in the path, from
    where it goes on, and takes new ones. Raises SolverError where numbers stop being finite.
    """
    return _Run(task, lam, start).descend(progress, journal, place)


class _Run:
    def __init__(self, task: Task, lam: float, start: Potentials) -> None:
        self.shards, self.b_M, self.options, self.memory = task.shards, task.weights_M, task.options, task.memory
        self.energy: Energy = task.energy if lam else NoEnergy()
        self.bounds = task.bounds
        self.lam, self.potentials = lam, start
        self.log_cap = -float(np.log(task.options.k))
        self.scale_transport = self.scale_diversity = 1.0
        self.lambda_eff = self.energy_value = self.mean_gradient = 0.0
        self.trace: list[Step] = []

    def descend(self, progress: Callable[[], None], journal: Journal, place: int) -> Descent:
        done = noted = self._resume(journal.last(place))
        for step in range(self.options.steps):
            if step < done:
                progress()
                continue
            fresh = step % self.options.refresh_every == 0
            if fresh and step - noted >= NOTE_EVERY:
                noted = step
                journal.note(place, self._note(step))
            self._look(step, fresh, exact=step == 0)
            self._move()
            progress()
        self._look(self.options.steps, True, exact=True)
        last, ranked = self.trace[-1], self._ranked()
        return Descent(
            potentials=self.potentials,
            top=ranked[: self.options.k],
            more=ranked[self.options.k :],
            trace=tuple(self.trace),
            lambda_eff=self.lambda_eff,
            scale_transport=self.scale_transport,
            scale_diversity=self.scale_diversity if self.lam else None,
            objective=last.transport + last.diversity,
            gap=float("nan") if last.gap is None else last.gap,
        )

    def _note(self, step: int) -> Note:
        return Note(
            step=step,
            potentials=self.potentials,
            lambda_eff=self.lambda_eff,
            scale_transport=self.scale_transport,
            scale_diversity=self.scale_diversity,
            trace=tuple(self.trace),
        )

    def _resume(self, note: Note | None) -> int:
        """Take a note's place; the steps that are done. What a note leaves out is made anew by the next look."""
        if note is None:
            self.shards.call("reset", POOL)
            return 0
        self.potentials, self.lambda_eff, self.trace = note.potentials, note.lambda_eff, list(note.trace)
        self.scale_transport, self.scale_diversity = note.scale_transport, note.scale_diversity
        return note.step

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
            # Plain passes let f follow w slowly, which damps the descent: with potentials that are exact at every step
            # it swings where eps is small beside the spread of the cost. And they stay near the g they start from:
            # where w is concentrated g has flat directions, along which a long jump spoils f off the support.
            accelerate=False,
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
        """Frank-Wolfe gap: the best vertex puts 1/K on the K smallest gradients, as far as shares allow."""
        most_S = self._most_S()
        parts = self.shards.call("smallest_gradients", POOL, self.lambda_eff, most_S)
        smallest = [
            np.sort(np.concatenate(of_source))[:most]
            for most, of_source in zip(most_S, zip(*parts, strict=True), strict=True)
        ]
        least = float(smallest[0].mean()) if self.bounds is None else self.bounds.least_mean(smallest)
        return self.mean_gradient - least

    def _move(self) -> None:
        # Beyond lambda 1 the diversity gradient rules, and it bends faster than eta allows: full steps would swing.
        rate = self.options.eta / (self.scale_transport * max(1.0, self.lam))
        (log_total_S,) = self.shards.reduce("mirror_step", POOL, rate, self.lambda_eff, self.mean_gradient)

        def measure(log_scale_S: Array) -> tuple[Array, Array]:
            count_S, log_free_S = self.shards.reduce("capped_mass", POOL, log_scale_S, self.log_cap)
            return count_S, log_free_S

        limits = () if self.bounds is None else (self.bounds.low_S, self.bounds.high_S)
        log_scale_S = find_scales(measure, log_total_S, 1.0 / self.options.k, *limits)
        self.shards.call("accept", POOL, log_scale_S, self.log_cap)

    def _most_S(self) -> list[int]:
        """Rows of each source that matter: no choice holds more."""
        return [self.options.k] if self.bounds is None else self.bounds.most_S

    def _ranked(self) -> tuple[Entry, ...]:
        """The first usable rows of all shards by (-w, f, id), k of them where shares say how many of which source."""
        most_S = [self.options.rows] if self.bounds is None else self.bounds.most_S
        ranked = heaviest(self.shards, POOL, most_S)
        return tuple(ranked[0]) if self.bounds is None else self.bounds.pick(ranked)


def _spread(mean: float, mean_square: float) -> float:
    deviation = float(np.sqrt(max(mean_square - mean * mean, 0.0)))
    return deviation if deviation > MIN_SCALE else 1.0
