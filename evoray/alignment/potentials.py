"""What the target potentials g are good for once solved: unseen rows, and the value of the objective.

With the plan's entropy measured against w b^T (the KL form), dOT/dw_i = f_i exactly, and
OT = <w, f> + <b, g>; the potentials of other libraries that follow the entropy form -eps H(P) contain
eps log w and eps log b instead.
"""

from __future__ import annotations

import numpy as np
import torch

from evoray.alignment.kernels import similarity
from evoray.alignment.reduction import Array


def extend(features_ND: torch.Tensor, target_MD: torch.Tensor, weights_M: Array, g_M: Array, eps: float) -> Array:
    """Potentials f [N] (fp64, cost units; high = badly aligned) of any unit rows, seen in the solve or not.

    eps 0: the limit min_j (C_ij - g_j), which belongs to potentials of the exact problem.
    """
    reduced_NM = similarity(features_ND, target_MD).double() - 1.0 + torch.from_numpy(g_M)
    if eps == 0.0:
        return (-reduced_NM.amax(dim=1)).numpy()
    scores_NM = reduced_NM / eps + torch.from_numpy(np.log(weights_M))
    f_N: Array = (-eps * torch.logsumexp(scores_NM, dim=1)).numpy()
    return f_N


def target_term(g_M: Array, weights_M: Array, rho: float | None) -> float:
    """The target's part of the dual: <b, g>, or -rho <b, exp(-g/rho) - 1> with the target marginal relaxed by rho."""
    if rho is None:
        return float(weights_M @ g_M)
    return float(-rho * (weights_M @ np.expm1(-g_M / rho)))


def target_mass(g_M: Array, weights_M: Array, rho: float | None) -> Array:
    """Column masses that the optimum has at g: b, or b exp(-g/rho) with the target marginal relaxed by rho."""
    return weights_M if rho is None else weights_M * np.exp(-g_M / rho)


def dual_objective(weighted_f: float, g_M: Array, weights_M: Array, rho: float | None) -> float:
    """A lower bound of OT for any g, tight at the optimum; `weighted_f` is <w, f(g)>."""
    return weighted_f + target_term(g_M, weights_M, rho)
