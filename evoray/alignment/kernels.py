"""What one Sinkhorn pass does on one tile, in the kernel domain and in the log domain.

Pure functions on tensors. A pass turns target potentials g into row potentials
f_i = -eps LSE_j[log b_j + (g_j - C_ij)/eps] and adds up the column masses c_j = sum_i w_i Q_ij of the plan
w_i Q_ij, Q the row softmax. C = 1 - S, S the inner products of unit rows.

The kernel domain keeps E_ij = b_j exp((g0_j - C_ij)/eps - rowmax_i), so a pass at g = g0 + eps log u is two
matrix-vector products, on a tile that is read once; the log domain computes everything in fp64 and cannot underflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class TileKernel:
    """A tile's stabilised kernel: `kernel_NM` in the features' dtype, largest entry of a row 1; `rowmax_N` fp64."""

    kernel_NM: torch.Tensor
    rowmax_N: torch.Tensor


def similarity(features_ND: torch.Tensor, target_MD: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Inner products S [N, M] of unit rows, in the features' dtype; in `out`, if that is given."""
    return torch.mm(features_ND, target_MD.T, out=out)


def stabilised_kernel(
    similarity_NM: torch.Tensor,
    log_b_M: torch.Tensor,
    g_M: torch.Tensor,
    eps: float,
    *,
    out: torch.Tensor | None = None,
) -> TileKernel:
    """Absorb the potentials g (fp64, cost units) into a kernel with unit row maxima; in `out`, which S may be itself.

    Sums are formed in cost units and divided by eps last: the rounding then stays that of S itself.
    """
    scores_NM = torch.add(similarity_NM, (g_M - 1.0 + eps * log_b_M).to(similarity_NM.dtype), out=out)
    rowmax_N = scores_NM.amax(dim=1)
    scores_NM.sub_(rowmax_N[:, None]).div_(eps).exp_()
    return TileKernel(kernel_NM=scores_NM, rowmax_N=rowmax_N.double() / eps)


def kernel_pass(kernel: TileKernel, u_M: torch.Tensor, w_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(row sums [N] in the kernel's dtype, c / u [M] fp64) at g = g0 + eps log u, u in the kernel's dtype, w fp64.

    Products within the tile are in the kernel's dtype (all terms are positive, so the relative error stays at
    rounding level); sums over tiles are the caller's, in fp64, and so is the factor u.
    """
    kernel_NM = kernel.kernel_NM
    if kernel_NM.device.type == "cpu" and kernel_NM.dtype == torch.float32:
        from evoray.alignment.fused import fused_pass  # the compiler is for those who hold tiles: 60 MB

        sums_N, c_M = torch.empty(len(kernel_NM)), torch.empty(kernel_NM.shape[1], dtype=torch.float64)
        fused_pass(kernel_NM.numpy(), u_M.numpy(), w_N.numpy(), sums_N.numpy(), c_M.numpy())
        return sums_N, c_M
    sums_N = torch.mv(kernel_NM, u_M)
    c_M = torch.mv(kernel_NM.T, (w_N / sums_N).to(kernel_NM.dtype))
    return sums_N, c_M.double()


def kernel_potential(rowmax_N: torch.Tensor, sums_N: torch.Tensor, eps: float) -> torch.Tensor:
    """f [N], fp64, cost units, of a kernel pass."""
    return -eps * (rowmax_N + sums_N.double().log())


def log_pass(
    similarity_NM: torch.Tensor, log_b_M: torch.Tensor, g_M: torch.Tensor, log_w_N: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(f_N, log c_M), both fp64; rows of weight zero have log_w = -inf, an empty tile gives log c = -inf."""
    scores_NM = (similarity_NM.double() - 1.0 + g_M) / eps + log_b_M
    lse_N = torch.logsumexp(scores_NM, dim=1)
    if not len(log_w_N):
        return lse_N, torch.full_like(g_M, -torch.inf)
    mass_NM = scores_NM - lse_N[:, None] + log_w_N[:, None]
    return -eps * lse_N, torch.logsumexp(mass_NM, dim=0)


def transport_cost(
    similarity_NM: torch.Tensor, log_b_M: torch.Tensor, g_M: torch.Tensor, w_N: torch.Tensor, eps: float
) -> float:
    """The tile's part of <P, C> for the plan P = w_i Q_ij at potentials g; fp64, cost units."""
    cost_NM = 1.0 - similarity_NM.double()
    plan_NM = w_N[:, None] * torch.softmax((g_M - cost_NM) / eps + log_b_M, dim=1)
    return float((plan_NM * cost_NM).sum())
