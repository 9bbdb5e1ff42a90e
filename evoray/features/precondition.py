"""Adam preconditioning of gradients: both sides of the inner product are divided by sqrt(sqrt(v) + eps).

<D^-1/2 g, D^-1/2 h> = g^T D^-1 h with D = sqrt(v_hat) + eps is the first-order effect of an Adam step on
sample g's gradient upon the loss of h, and it is symmetric: one feature space serves alignment and
diversity alike. v_hat is the bias-corrected second moment of the optimiser that made the adapter.
"""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-8


def adam_scale(second: Tensor) -> Tensor:
    """1 / sqrt(sqrt(v_hat) + eps), elementwise."""
    return (second.float().sqrt() + EPSILON).rsqrt()
