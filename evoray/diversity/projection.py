"""A smaller feature space for the diversity term: its D x D matrices are decomposed every few steps."""

from __future__ import annotations

import numpy as np
import torch


def projection(dim_in: int, dim_out: int = 512, seed: int = 0) -> torch.Tensor | None:
    """Seeded dense Gaussian map [dim_in, dim_out], fp32; None where `dim_in` is small enough already.

    Entries have variance 1/dim_out, so inner products are kept in expectation.
    """
    if dim_in <= dim_out:
        return None
    draws = np.random.Generator(np.random.Philox(seed)).standard_normal((dim_in, dim_out))
    return torch.from_numpy((draws / np.sqrt(dim_out)).astype(np.float32))


def project_rows(features_ND: torch.Tensor, map_DP: torch.Tensor | None) -> torch.Tensor:
    """Rows in the smaller space, made unit again so that the trace of their second moment stays 1."""
    if map_DP is None:
        return features_ND
    return torch.nn.functional.normalize(features_ND @ map_DP.to(features_ND.dtype), dim=1)
