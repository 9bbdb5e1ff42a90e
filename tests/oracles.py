"""Slow, obviously right references for the mathematics, in fp64 and without any code of the package."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def unit_rows(rng: np.random.Generator, rows: int, dim: int) -> Array:
    """Random unit rows."""
    x = rng.standard_normal((rows, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def clustered_rows(rng: np.random.Generator, rows: int, centres: Array, spread: float) -> Array:
    """Unit rows around the given centres, in turn."""
    x = centres[np.arange(rows) % len(centres)] + spread * rng.standard_normal((rows, centres.shape[1]))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def log_sum_exp(values: Array, axis: int) -> Array:
    """Stable log of a sum of exponentials."""
    top = values.max(axis=axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.exp(values - top).sum(axis=axis))


def dense_sinkhorn(
    cost_NM: Array, w_N: Array, b_M: Array, eps: float, *, rho: float | None = None, iterations: int = 20_000
) -> tuple[Array, Array, Array]:
    """(f, g, plan) in the log domain, alternating updates until nothing moves by 1e-13."""
    g_M = np.zeros_like(b_M)
    damping = 1.0 if rho is None else rho / (rho + eps)
    for _ in range(iterations):
        f_N = -eps * log_sum_exp(np.log(b_M) + (g_M - cost_NM) / eps, axis=1)
        moved_M = -damping * eps * log_sum_exp((np.log(w_N) + (f_N - cost_NM.T) / eps), axis=1)
        done = np.abs(moved_M - g_M).max() < 1e-13
        g_M = moved_M
        if done:
            break
    f_N = -eps * log_sum_exp(np.log(b_M) + (g_M - cost_NM) / eps, axis=1)
    return f_N, g_M, w_N[:, None] * b_M * np.exp((f_N[:, None] + g_M - cost_NM) / eps)


def entropic_value(
    plan_NM: Array, cost_NM: Array, w_N: Array, b_M: Array, eps: float, *, rho: float | None = None
) -> float:
    """<P, C> + eps KL(P || w b^T) + rho KL(P^T 1 | b)."""

    def divergence(p: Array, q: Array) -> float:
        return float((np.where(p > 0, p * np.log(np.where(p > 0, p / q, 1.0)), 0.0) - p + q).sum())

    value = float((plan_NM * cost_NM).sum()) + eps * divergence(plan_NM, np.outer(w_N, b_M))
    return value if rho is None else value + rho * divergence(plan_NM.sum(axis=0), b_M)


def capped_projection(v_N: Array, cap: float) -> Array:
    """min(cap, c v) with c by plain bisection."""
    low, high = 0.0, cap / v_N.min()
    for _ in range(400):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if np.minimum(cap, middle * v_N).sum() < 1.0 else (low, middle)
    return np.minimum(cap, high * v_N)


def mixture_likelihood_weights(cost_NM: Array, b_M: Array, eps: float, iterations: int) -> Array:
    """Maximum-likelihood mixture weights by expectation maximisation: the uncapped optimum without diversity."""
    kernel_NM = np.exp(-cost_NM / eps)
    w_N = np.full(len(cost_NM), 1.0 / len(cost_NM))
    for _ in range(iterations):
        w_N = w_N * (kernel_NM * (b_M / (w_N @ kernel_NM))).sum(axis=1)
    return w_N


def vendi_of_kernel(features_ND: Array) -> float:
    """exp of the entropy of the eigenvalues of the N x N kernel over N."""
    values = np.linalg.eigvalsh(features_ND @ features_ND.T / len(features_ND))
    positive = values[values > 1e-14]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def matrix_log(matrix_DD: Array) -> Array:
    """Logarithm of a positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix_DD)
    return vectors @ np.diag(np.log(values)) @ vectors.T


def subsets(n: int, k: int) -> list[tuple[int, ...]]:
    """All ways to pick k of n."""
    return list(itertools.combinations(range(n), k))
