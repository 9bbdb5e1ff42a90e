"""How far a chosen subset is from what it was chosen for: transport cost, mean cosine, and effective numbers of rows.

The transport cost is exact (POT's network simplex), between the subset, taken uniformly, and held-out rows of the
target, with cost 1 - cosine: the subset-to-target distance by which selections are compared in arXiv 2602.14696.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch

from evoray.diversity.energies import moment_of, vendi_score

#: Entries of the cost matrix up to which transport is solved exactly; beyond it there is no distance.
MAX_ENTRIES = 20_000_000
_MAX_PIVOTS = 100_000_000


class SubsetFacts(TypedDict):
    """None where it cannot be said."""

    distance: float | None  # least transport cost to the held-out rows
    cosine: float | None  # mean over all pairs of picks and held-out rows
    vendi: float  # of the subset, full dimension, unsmoothed
    vendi_target: float | None  # of the rows that were aimed at


def subset_facts(
    picked_KD: npt.NDArray[np.floating],
    aimed_MD: npt.NDArray[np.floating] | None,
    held_out_MD: npt.NDArray[np.floating] | None,
) -> SubsetFacts:
    """Facts of a subset from unit rows: its own, those of the target that it aimed at, and held-out ones."""
    distance = cosine = None
    if held_out_MD is not None and len(held_out_MD):
        similarity_KM = picked_KD.astype(np.float64) @ held_out_MD.astype(np.float64).T
        cosine = float(similarity_KM.mean())
        if similarity_KM.size <= MAX_ENTRIES:
            distance = _transport_cost(1.0 - similarity_KM)
    return SubsetFacts(
        distance=distance,
        cosine=cosine,
        vendi=_vendi(picked_KD),
        vendi_target=None if aimed_MD is None else _vendi(aimed_MD),
    )


def _transport_cost(cost_KM: npt.NDArray[np.float64]) -> float:
    import ot

    rows, columns = cost_KM.shape
    return float(ot.emd2(np.full(rows, 1 / rows), np.full(columns, 1 / columns), cost_KM, numItermax=_MAX_PIVOTS))


def _vendi(features_ND: npt.NDArray[np.floating]) -> float:
    rows = torch.from_numpy(features_ND.astype(np.float64))
    weight_N = torch.full((len(rows),), 1.0 / len(rows), dtype=torch.float64)
    if len(rows) < rows.shape[1]:  # the Gram matrix has the same spectrum, and is the smaller one
        rows = torch.linalg.cholesky_ex(rows @ rows.T + 1e-12 * torch.eye(len(rows), dtype=torch.float64)).L
    return vendi_score(moment_of(rows, weight_N, "second"))
