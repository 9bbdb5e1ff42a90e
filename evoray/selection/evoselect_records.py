"""What EvoSelect is told and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evoray.alignment.reduction import Array
from evoray.alignment.sinkhorn import Potentials
from evoray.diversity.energies import EnergyName, Memory
from evoray.errors import SelectionError
from evoray.selection.descent import DescentOptions, Step
from evoray.selection.picks import Pick
from evoray.selection.shares import Bounds, Shares


@dataclass(frozen=True, kw_only=True)
class EvoSelectParams:
    """Everything that decides the picks, beside the rows."""

    k: int  # picks
    rows: int | None = None  # to rank: those beyond the k-th follow the picks; None: k. Not with shares
    energy: EnergyName = "relative_vendi"
    lam: float | Literal["auto"] = "auto"  # weight of diversity, in spreads of the transport gradient
    r: float | Literal["auto"] = "auto"  # eps / std(C)
    eps: float | None = None  # cost units; overrides r
    eta: float = 0.3
    steps: int = 40
    refresh_every: int = 2  # steps between refreshes of the diversity gradient
    sinkhorn_passes: int = 5  # a step
    tolerance: float = 1e-3  # L1 marginal error of the first and the last solve
    max_iterations: int = 2000
    rho: float | None = None  # price of missing the target marginal, cost units; None: it is kept
    lambda_path: tuple[float, ...] = (0.0, 0.3, 1.0)
    r_path: tuple[float, ...] = (0.1, 0.5)
    validate_r: float = 0.1  # eps / std(C) of the held-out cost, for every point of the path
    diversity_dim: int = 512  # features are projected to this for the diversity term
    diversity_seed: int = 0
    delta: float | None = None  # smoothing of the energy; None: its default
    shares: Shares | None = None  # of the picks by source; None: any
    trials: int = 1  # choices of the path to return, the best by alignment and those that differ most from it

    def __post_init__(self) -> None:
        positive = {"k": self.k, "steps": self.steps, "refresh_every": self.refresh_every, "eta": self.eta}
        positive |= {
            "sinkhorn_passes": self.sinkhorn_passes,
            "tolerance": self.tolerance,
            "validate_r": self.validate_r,
        }
        positive |= {f"r_path[{index}]": r for index, r in enumerate(self.r_path)}
        positive |= {"r": self.r if self.r != "auto" else 1.0, "eps": 1.0 if self.eps is None else self.eps}
        positive |= {"rho": 1.0 if self.rho is None else self.rho, "max_iterations": self.max_iterations}
        positive |= {"trials": self.trials}
        wrong = [f"{name} = {value}" for name, value in positive.items() if not value > 0]
        lams = self.lambda_path if self.lam == "auto" else (self.lam,)
        wrong += [f"lambda = {lam}" for lam in lams if not lam >= 0]
        wrong += ["rows and shares"] if self.rows is not None and self.rows > self.k and self.shares else []
        if wrong or not self.lambda_path or not self.r_path:
            raise SelectionError(", ".join(wrong) or "an empty path", "positive numbers", "correct these settings")

    def descent(self) -> DescentOptions:
        """The part that a single descent needs."""
        return DescentOptions(
            k=self.k,
            rows=max(self.k, self.rows or 0),
            eta=self.eta,
            steps=self.steps,
            refresh_every=self.refresh_every,
            sinkhorn_passes=self.sinkhorn_passes,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            rho=self.rho,
        )


@dataclass(frozen=True, kw_only=True)
class PathPoint:
    """One (lambda, r) that was tried."""

    lam: float
    r: float | None  # None where eps was given absolutely
    eps: float  # cost units
    validate_cost: float | None  # <P, C> of the picks to the held-out rows; None without such rows
    gap: float  # Frank-Wolfe gap at the end, cost units
    marginal_error: float
    converged: bool
    vendi: float | None = None  # of the picks, in the diversity space; None without held-out rows


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """How far from the best possible: of the weights, and of the picked set itself. Cost units."""

    objective: float  # J(w)
    gap: float  # J(w) - J* is at most this
    picked_objective: float  # J(uniform on the picks)
    lower_bound: float  # J* is at least this
    picked_converged: bool  # whether OT of the picked set reached its tolerance

    @property
    def picked_excess(self) -> float:
        """Bound on J(picks) - J*."""
        return self.picked_objective - self.lower_bound


@dataclass(frozen=True, kw_only=True)
class EvoSelectResult:
    """The picks, and what led to them."""

    picks: tuple[Pick, ...]
    lam: float
    r: float | None
    eps: float
    cost_std: float  # std(C) over usable rows and the target, cost units
    lambda_eff: float
    scale_transport: float
    scale_diversity: float | None
    potentials: Potentials
    start_g_M: Array  # at uniform weights: where the solves of a later round, with like features, may start
    certificate: Certificate
    path: tuple[PathPoint, ...]
    trace: tuple[Step, ...]
    vendi_picks: float  # of uniform weights, full dimension, unsmoothed
    vendi_target: float
    memory: Memory  # earlier rounds and these picks, for the next round with the same features
    usable: int  # rows to choose from
    bounds: Bounds | None = None  # of each source, where shares were asked for
    others: tuple[EvoSelectResult, ...] = ()  # further choices of the path, where trials were asked for
