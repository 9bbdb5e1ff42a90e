"""Settings of a selection."""

from __future__ import annotations

import difflib
import math
from typing import Any, Literal

from pydantic import Field, model_validator

from evoray.budget import Budget
from evoray.config.section import Computed, PassTokens, Precision, Section, names_own
from evoray.errors import ConfigError

SELECTORS = (
    *(
        "all",
        "deita",
        "doubly_greedy",
        "entropy",
        "evoselect",
        "k_center",
        "kmeans_iterative",
        "kmeans_quality",
        "kmeans_random",
    ),
    *("knn_kde", "knn_uniform", "least_confidence", "less", "margin", "qdit", "random", "round_robin", "uot"),
)


def check_selector(name: str) -> None:
    """Raise ConfigError for an unknown selector, with the nearest one."""
    if name not in SELECTORS and not names_own(name):
        near = difflib.get_close_matches(name, SELECTORS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of them"
        known = f"one of {', '.join(SELECTORS)}, or a class of yours as package.module:Class"
        raise ConfigError(f"selection.selector: {name!r}", known, hint)


class FeedbackConfig(Computed):
    """What later rounds learn from earlier ones, for selectors that ask: the model answers rows it was trained on."""

    auto_tokens = (2048, 32_768)

    scorer: str = "likelihood"  # of an answer: mean log-likelihood a token, or package.module:function
    max_new_tokens: int = Field(64, ge=1)  # of an answer
    batch_tokens: PassTokens = "auto"  # padded tokens of one batch; auto: 2048 on a CPU, 32768 on a GPU
    precision: Precision = "auto"  # of the passes

    @model_validator(mode="after")
    def _known_scorer(self) -> FeedbackConfig:
        if self.scorer != "likelihood" and not names_own(self.scorer):
            raise ConfigError(
                f"feedback.scorer: {self.scorer!r}",
                "likelihood, or a function of yours as package.module:function",
                "correct the name",
            )
        return self


class SelectionConfig(Section):
    """Which candidates are chosen."""

    selector: str = "evoselect"  # a name, or a class of yours as package.module:Class
    k: int | float | str = 96  # to choose in a round: rows (96), a share of the pool (0.2), or tokens (100000tok)
    options: dict[str, Any] = {}  # of the selector, for all but evoselect: its options are the keys below
    #: the diversity term that is added to alignment
    energy: Literal["none", "linear", "squared_cosine", "vendi", "log_det", "relative_vendi"] = "relative_vendi"
    lam: float | Literal["auto"] = Field("auto", alias="lambda")  # weight of the energy
    r: float | Literal["auto"] = "auto"  # eps over the standard deviation of the cost
    eps: float | None = Field(None, gt=0, allow_inf_nan=False)  # in units of cost; overrides r
    #: price of missing the target's weights, in units of cost; null: they are met
    rho: float | None = Field(None, gt=0, allow_inf_nan=False)
    solver: Literal["sinkhorn", "exact"] = "sinkhorn"  # exact: without eps and energy, for pools that fit
    eta: float = Field(0.3, gt=0, allow_inf_nan=False)  # step of the exponentiated gradient
    steps: int = Field(40, ge=1)  # of a descent
    tolerance: float = Field(1e-3, gt=0, allow_inf_nan=False)  # L1 error of the target marginal
    trials: int = Field(3, ge=1, le=16)  # choices by other lambda and r that are trained; the least validate loss stays
    shares: dict[str, tuple[float, float]] = {}  # least and largest share of the picks, by source
    max_share: float | None = Field(None, ge=0, le=1)  # largest share of every source that `shares` does not name
    shards: int | None = Field(None, ge=1)  # solver actors; null: one per CPU, at least two
    cache_mb: int = Field(3072, ge=0)  # each actor's memory for kernels; beyond it a pass computes them anew

    @property
    def has_shares(self) -> bool:
        """Whether sources matter."""
        return bool(self.shares) or self.max_share is not None

    @model_validator(mode="after")
    def _consistent(self) -> SelectionConfig:
        check_selector(self.selector)
        if (self.lam != "auto" and not 0 <= self.lam < math.inf) or (self.r != "auto" and not 0 < self.r < math.inf):
            raise ConfigError(
                f"selection.lambda: {self.lam}, r: {self.r}",
                "auto, or numbers: lambda of at least 0, r above 0",
                "correct them",
            )
        ranked = Budget.of(self.k).tokens is not None
        if ranked and (self.has_shares or self.solver == "exact"):
            raise ConfigError(
                f"selection.k = {self.k} with " + ("shares" if self.has_shares else "solver exact"),
                "a number of rows, or a share of the pool: the plan is made for as many",
                "set selection.k in rows",
            )
        if self.solver == "exact" and (self.lam not in ("auto", 0) or self.rho is not None):
            raise ConfigError(
                f"selection.lambda: {self.lam}, rho: {self.rho} with selection.solver: exact",
                "lambda 0 and no rho: the exact solver minimises the transport cost alone, and meets all weights",
                "set selection.lambda: 0 and leave rho out, or set selection.solver: sinkhorn",
            )
        if self.has_shares and (self.selector != "evoselect" or self.solver == "exact"):
            raise ConfigError(
                f"selection.shares or max_share with selector {self.selector}, solver {self.solver}",
                "evoselect with solver sinkhorn: only its weights obey shares",
                "leave selection.shares and selection.max_share out, or change selector or solver",
            )
        wrong = [f"{name}: {list(pair)}" for name, pair in self.shares.items() if not 0 <= pair[0] <= pair[1] <= 1]
        if wrong or math.fsum(low for low, _ in self.shares.values()) > 1 + 1e-13:
            raise ConfigError(
                f"selection.shares with {', '.join(wrong) or 'minima of more than 1 together'}",
                "[minimum, maximum] of each source, 0 <= minimum <= maximum <= 1, and minima of at most 1 together",
                "correct selection.shares",
            )
        return self
