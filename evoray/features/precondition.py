"""Preconditioning: what an optimiser would make of a gradient, elementwise and before the sketch.

`adam` divides both sides of the inner product by sqrt(sqrt(v_hat) + eps): <D^-1/2 g, D^-1/2 h> = g^T D^-1 h with
D = sqrt(v_hat) + eps is the first-order effect of an Adam step on sample g's gradient upon the loss of h. It is
symmetric: one feature space serves alignment and diversity alike.

`less` (Xia et al. 2024) replaces a candidate's gradient by the update that Adam would make of it, and leaves the
target's as it is: a bilinear score and no metric, so that it says nothing of how candidates differ from one another.
"""

from __future__ import annotations

from torch import Tensor

from evoray.models.moments import BETAS

EPSILON = 1e-8


def adam_scale(second: Tensor) -> Tensor:
    """1 / sqrt(sqrt(v_hat) + eps), elementwise; `second` is v_hat, bias-corrected."""
    return (second.float().sqrt() + EPSILON).rsqrt()


def less_update(gradient: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """(b1 m + (1 - b1) g) / sqrt(b2 v + (1 - b2) g^2 + eps), elementwise, without bias correction.

    gradient: [B, O, I] of B samples; first, second: [O, I], the optimiser's running averages as they are.
    """
    moved = BETAS[0] * first + (1 - BETAS[0]) * gradient
    return moved / (BETAS[1] * second + (1 - BETAS[1]) * gradient.square() + EPSILON).sqrt()
