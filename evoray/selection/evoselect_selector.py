"""`evoselect` as a selector: its options, and its results as facts for the record."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar, Literal

from pydantic import Field

from evoray.selection.evoselect import EvoSelectParams, EvoSelectResult, evoselect
from evoray.selection.exact import exact
from evoray.selection.protocol import Shards
from evoray.selection.selector import Choice, Needs, Request, Selector
from evoray.selection.shares import Shares


class EvoSelect(Selector):
    """Optimal transport to the target and diversity together, over the capped simplex; see `evoselect.py`.

    Its options stand in the section `selection` itself.
    """

    needs: ClassVar[Needs] = Needs()

    energy: Literal["none", "linear", "squared_cosine", "vendi", "log_det", "relative_vendi"] = "relative_vendi"
    lam: float | Literal["auto"] = "auto"
    r: float | Literal["auto"] = "auto"
    eps: float | None = None
    rho: float | None = None
    solver: Literal["sinkhorn", "exact"] = "sinkhorn"
    eta: float = Field(0.3, gt=0)
    steps: int = Field(40, ge=1)
    tolerance: float = Field(1e-3, gt=0)
    shares: dict[str, tuple[float, float]] = {}
    max_share: float | None = None
    trials: int = Field(1, ge=1)

    def select(self, shards: Shards, request: Request) -> Choice:
        """Run the descent, or the exact solver."""
        goal = request.target
        if self.solver == "exact":
            return _exact(shards, request)
        bounded = bool(self.shares) or self.max_share is not None
        largest = 1.0 if self.max_share is None else self.max_share
        params = EvoSelectParams(
            k=request.k,
            rows=request.rows,
            energy=self.energy,
            lam=self.lam,
            r=self.r,
            eps=self.eps,
            rho=self.rho,
            eta=self.eta,
            steps=self.steps,
            tolerance=self.tolerance,
            diversity_seed=request.seed,
            shares=Shares(bounds=self.shares, max_share=largest) if bounded else None,
            trials=self.trials,
        )
        result = evoselect(
            shards, goal.align_MD, goal.weights_M, goal.validate_MD, params, progress=request.progress,
            memory=request.memory, start_g_M=request.start_g_M, journal=request.journal,
        )  # fmt: skip
        others = tuple(Choice(picks=one.picks, facts=_facts(one, self.rho)) for one in result.others)
        return Choice(picks=result.picks, facts=_facts(result, self.rho), others=others)


def _facts(result: EvoSelectResult, rho: float | None) -> dict[str, Any]:
    potentials = result.potentials
    return {
        "solver": "sinkhorn",
        "lambda": result.lam,
        "r": result.r,
        "eps": result.eps,
        "rho": rho,
        "cost_std": result.cost_std,
        "lambda_eff": result.lambda_eff,
        "scale_transport": result.scale_transport,
        "scale_diversity": result.scale_diversity,
        "vendi_picks": result.vendi_picks,
        "vendi_target": result.vendi_target,
        "certificate": {**asdict(result.certificate), "picked_excess": result.certificate.picked_excess},
        "path": [asdict(point) for point in result.path],
        "trace": [asdict(step) for step in result.trace],
        "shares": None if result.bounds is None else result.bounds.by_source(),
        "potentials": {**asdict(potentials), "g_M": potentials.g_M.tolist(), "start_g_M": result.start_g_M.tolist()},
    }


def _exact(shards: Shards, request: Request) -> Choice:
    result = exact(shards, request.target.align_MD, request.target.weights_M, request.rows)
    facts = {
        "solver": "exact",
        "lambda": 0.0,
        "eps": 0.0,
        "objective": result.objective,
        "dual": result.dual,
        "gap": result.gap,
        "fractional": result.fractional,
        "vendi_picks": result.vendi_picks,
        "vendi_target": result.vendi_target,
        "potentials": {"g_M": result.g_M.tolist()},
    }
    return Choice(picks=result.picks, facts=facts)
