"""Diversity energies R(w), all convex, minimised, and functions of one moment of the weighted rows.

| energy | R | gradient_i |
|---|---|---|
| `linear` | 1/2 |mu|^2, mu = sum w x | <x_i, mu> |
| `squared_cosine` | 1/2 tr Sigma^2, Sigma = sum w x x^T | x_i^T Sigma x_i |
| `vendi` | tr A log A | (1 - delta) x_i^T (log A + I) x_i |
| `log_det` | -log det(delta I + Sigma) | -x_i^T (delta I + Sigma)^-1 x_i |
| `relative_vendi` | tr A (log A - log A_b) | (1 - delta) x_i^T (log A - log A_b + I) x_i |

A = (1 - delta) Sigma + delta I / D is the smoothed moment, A_b that of the target. `vendi` is minus the log
of the Vendi score (Friedman and Dieng, arXiv 2210.02410); `relative_vendi` is the von Neumann relative
entropy to the target: it spreads the choice only as the target itself spreads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from evoray.errors import SelectionError, SolverError

Array = npt.NDArray[np.float64]
EnergyName = Literal["none", "linear", "squared_cosine", "vendi", "log_det", "relative_vendi"]
Moment = Literal["none", "mean", "second"]

#: Columns of a symmetric matrix that are computed at a time: fewer save more products, more make each of them faster.
_PART = 128
DELTA = {"vendi": 0.01, "relative_vendi": 0.1, "log_det": 1e-3}


class Energy(Protocol):
    """A convex function of a moment of the weighted rows."""

    @property
    def moment(self) -> Moment:
        """Which moment: the mean [D], the second moment [D, D], or none."""

    def value(self, moment: Array, /) -> float:
        """R at this moment; dimensionless."""

    def gradient(self, moment: Array, /) -> Array:
        """dR/dmoment: G [D, D] with gradient_i = x_i^T G x_i, or the vector with gradient_i = <x_i, G>."""


@dataclass(frozen=True, kw_only=True)
class NoEnergy:
    """No diversity term."""

    moment: Moment = "none"

    def value(self, _moment: Array, /) -> float:
        """Zero."""
        return 0.0

    def gradient(self, moment: Array) -> Array:
        """Zero."""
        return np.zeros_like(moment)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """1/2 |mu|^2: shrinks the mean, and so opposes alignment directly."""

    moment: Moment = "mean"

    def value(self, moment: Array) -> float:
        """R at the mean [D]."""
        return 0.5 * float(moment @ moment)

    def gradient(self, moment: Array) -> Array:
        """The mean itself."""
        return moment


@dataclass(frozen=True, kw_only=True)
class SquaredCosine:
    """1/2 tr Sigma^2: half the mean squared cosine between two rows drawn by w."""

    moment: Moment = "second"

    def value(self, moment: Array) -> float:
        """R at the second moment [D, D]."""
        return 0.5 * float((moment * moment).sum())

    def gradient(self, moment: Array) -> Array:
        """Sigma itself."""
        return moment


@dataclass(frozen=True, kw_only=True)
class LogDet:
    """-log det(delta I + Sigma): the D-optimal design criterion with a ridge."""

    delta: float = DELTA["log_det"]
    moment: Moment = "second"

    def value(self, moment: Array) -> float:
        """R at the second moment [D, D]."""
        values, _ = _eigh(moment)
        return -float(np.log(self.delta + values).sum())

    def gradient(self, moment: Array) -> Array:
        """-(delta I + Sigma)^-1."""
        values, vectors = _eigh(moment)
        return _compose(-1.0 / (self.delta + values), vectors)


@dataclass(frozen=True, kw_only=True)
class VonNeumann:
    """tr A (log A - log A_b): `vendi` without a reference, `relative_vendi` with the target's log A_b."""

    delta: float
    log_reference_DD: Array | None = None
    moment: Moment = "second"

    def value(self, moment: Array) -> float:
        """R at the second moment [D, D]."""
        values, _ = _eigh(moment)
        smoothed = (1.0 - self.delta) * values + self.delta / len(values)
        entropy = float(_xlogx(smoothed).sum())
        if self.log_reference_DD is None:
            return entropy
        return entropy - float((_smooth(moment, self.delta) * self.log_reference_DD).sum())

    def gradient(self, moment: Array) -> Array:
        """(1 - delta) (log A - log A_b + I); with delta 0 the moment must have full rank."""
        values, vectors = _eigh(moment)
        smoothed = (1.0 - self.delta) * values + self.delta / len(values)
        if smoothed.min() <= 0.0:
            raise SolverError("a singular second moment without smoothing", "delta > 0", "leave delta at its default")
        log_DD = _compose(np.log(smoothed) + 1.0, vectors)
        if self.log_reference_DD is not None:
            log_DD = log_DD - self.log_reference_DD
        return (1.0 - self.delta) * log_DD


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What earlier rounds used: `rows` samples with this mean [D] and second moment [D, D] (diversity space)."""

    mean_D: Array
    second_DD: Array
    rows: int

    @classmethod
    def of_rows(cls, features_ND: torch.Tensor) -> Memory:
        """The memory of rows given in the diversity space, each counted once."""
        uniform_N = torch.full((len(features_ND),), 1.0 / max(1, len(features_ND)), dtype=torch.float64)
        mean_D, second_DD = (moment_of(features_ND, uniform_N, kind) for kind in ("mean", "second"))
        return cls(mean_D=mean_D, second_DD=second_DD, rows=len(features_ND))

    def moment(self, kind: Moment) -> Array:
        """The stored moment of this kind."""
        return self.mean_D if kind == "mean" else self.second_DD

    def share(self, k: int) -> float:
        """The new rows' share K / (n_old + K) of the total: the factor of their gradient."""
        return k / (self.rows + k)

    def total(self, new: Array, kind: Moment, k: int) -> Array:
        """(n_old Sigma_old + K Sigma(w)) / (n_old + K)."""
        share = self.share(k)
        return share * new + (1.0 - share) * self.moment(kind)


def make_energy(name: EnergyName, reference_DD: Array | None = None, delta: float | None = None) -> Energy:
    """The energy of this name; `relative_vendi` needs the target's second moment [D, D]."""
    smoothing = DELTA.get(name, 0.0) if delta is None else delta
    match name:
        case "none":
            return NoEnergy()
        case "linear":
            return Linear()
        case "squared_cosine":
            return SquaredCosine()
        case "log_det":
            return LogDet(delta=smoothing)
        case "vendi":
            return VonNeumann(delta=smoothing)
        case "relative_vendi" if reference_DD is not None:
            values, vectors = _eigh(_smooth(reference_DD, smoothing))
            return VonNeumann(delta=smoothing, log_reference_DD=_compose(np.log(values), vectors))
    raise SelectionError(
        f"energy {name!r} with{'' if reference_DD is not None else 'out'} a target moment",
        f"one of {', '.join(EnergyName.__args__)}",  # type: ignore[attr-defined]
        "correct the name; relative_vendi also needs the target's second moment",
    )


def moment_of(features_ND: torch.Tensor, w_N: torch.Tensor, kind: Moment) -> Array:
    """sum w x [D] or sum w x x^T [D, D] of one tile: products in the features' dtype, result fp64."""
    weighted_ND = features_ND * w_N.to(features_ND.dtype)[:, None]
    if kind == "mean":
        mean_D: Array = weighted_ND.sum(dim=0).double().numpy()
        return mean_D
    second_DD = features_ND.new_zeros(features_ND.shape[1], features_ND.shape[1])
    for part in _parts(features_ND.shape[1]):
        second_DD[: part.stop, part] = features_ND[:, : part.stop].T @ weighted_ND[:, part]
    upper_DD = second_DD.double().triu()
    result: Array = (upper_DD + upper_DD.triu(1).T).numpy()
    return result


def rowwise_gradient(features_ND: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """gradient_i [N], fp64, of every row from dR/dmoment (a vector, or a symmetric matrix)."""
    if gradient.ndim == 1:
        return (features_ND @ gradient.to(features_ND.dtype)).double()
    # x^T G x for G without its lower triangle, which is added to the upper one.
    upper_DD = (gradient.triu() + gradient.tril(-1).T).to(features_ND.dtype)
    rows_N = torch.zeros(len(features_ND), dtype=torch.float64)
    for part in _parts(features_ND.shape[1]):
        products_NP = features_ND[:, : part.stop] @ upper_DD[: part.stop, part]
        rows_N += (products_NP * features_ND[:, part]).sum(dim=1)
    return rows_N


def _parts(dim: int) -> list[slice]:
    """Columns in parts: of a symmetric matrix, each part is needed down to the diagonal only. Five eighths of 512."""
    return [slice(start, min(start + _PART, dim)) for start in range(0, dim, _PART)]


def vendi_score(sigma_DD: Array) -> float:
    """exp(-tr Sigma log Sigma) of a second moment of unit rows: the effective number of distinct rows."""
    values, _ = _eigh(sigma_DD)
    return float(np.exp(-_xlogx(values).sum()))


def _smooth(moment_DD: Array, delta: float) -> Array:
    return (1.0 - delta) * moment_DD + (delta / len(moment_DD)) * np.eye(len(moment_DD))


def _eigh(matrix_DD: Array) -> tuple[Array, Array]:
    """Eigenvalues of a positive semi-definite matrix, rounding below zero cut off, and eigenvectors."""
    if not np.isfinite(matrix_DD).all():
        raise SolverError("a second moment with non-finite entries", "finite features", "check the feature rows")
    values, vectors = np.linalg.eigh(matrix_DD)
    return np.maximum(values, 0.0), vectors


def _compose(values: Array, vectors: Array) -> Array:
    result: Array = (vectors * values) @ vectors.T
    return result


def _xlogx(values: Array) -> Array:
    safe = np.where(values > 0.0, values, 1.0)
    return values * np.log(safe)
