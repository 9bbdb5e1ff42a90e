"""Sketches: seeded linear maps of a parameter's gradient to D dimensions that keep inner products in expectation.

The sketch of a whole gradient is the sum of its parameters' sketches. All are pure functions of (seed, parameter name).
"""

from __future__ import annotations

from evoray.config import SketchKind
from evoray.features.sketches.kronecker import KroneckerSketch
from evoray.features.sketches.rademacher import RademacherSketch
from evoray.features.sketches.sparse import SparseSketch

Sketch = SparseSketch | RademacherSketch | KroneckerSketch

_KINDS: dict[SketchKind, type[Sketch]] = {
    "sparse": SparseSketch,
    "rademacher": RademacherSketch,
    "kronecker": KroneckerSketch,
}


def make_sketch(kind: SketchKind, name: str, shape: tuple[int, int], dim: int, seed: int) -> Sketch:
    """The sketch of the parameter `name` of a shape [O, I] into `dim` dimensions."""
    return _KINDS[kind].make(name, shape, dim, seed)


__all__ = ["KroneckerSketch", "RademacherSketch", "Sketch", "SparseSketch", "make_sketch"]
