"""Alignment of a pool with a target by entropic optimal transport."""

from evoray.alignment.potentials import dual_objective, extend
from evoray.alignment.reduction import Partials, Reducer, merge, partial_sums
from evoray.alignment.sinkhorn import Potentials, solve

__all__ = ["Partials", "Potentials", "Reducer", "dual_objective", "extend", "merge", "partial_sums", "solve"]
