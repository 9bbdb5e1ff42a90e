"""The sketches: explicit linear maps, unbiased, the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import get_args

import pytest
import torch
from torch import Tensor

from evoray.config import SketchKind
from evoray.features.sketches import KroneckerSketch, RademacherSketch, SparseSketch, make_sketch

KINDS = get_args(SketchKind)

_PRINT = """
from evoray.features.sketches import make_sketch
import hashlib
for kind in ("sparse", "rademacher", "kronecker"):
    matrix = make_sketch(kind, "layers.0.q_proj.lora_A", (8, 125), 64, 5).matrix()
    print(hashlib.sha256(matrix.numpy().tobytes()).hexdigest())
"""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5, 10), (3, 700), (700, 3), (1, 20), (40, 40)])
def test_a_sketch_is_its_explicit_matrix(kind: SketchKind, shape: tuple[int, int]) -> None:
    sketch = make_sketch(kind, "p", shape, 48, seed=1)
    gradients = normal(4, *shape)
    assert sketch.matrix().shape == (48, shape[0] * shape[1])
    torch.testing.assert_close(sketch.apply(gradients), gradients.flatten(1) @ sketch.matrix().T)


@pytest.mark.parametrize("kind", ["sparse", "rademacher"])
def test_a_preconditioned_sketch_is_the_sketch_of_the_scaled_gradient(kind: SketchKind) -> None:
    sketch = make_sketch(kind, "p", (6, 50), 32, seed=1)
    assert isinstance(sketch, SparseSketch | RademacherSketch)
    gradients, scale = normal(4, 6, 50), normal(6, 50, seed=1).abs()
    scaled = sketch.preconditioned(scale)
    torch.testing.assert_close(scaled.apply(gradients), sketch.apply(gradients * scale))
    torch.testing.assert_close(scaled.matrix(), sketch.matrix() * scale.flatten())


def test_a_sparse_sketch_puts_each_coordinate_into_s_buckets_with_unit_norm() -> None:
    matrix = SparseSketch.make("p", (10, 10), 32, seed=1).matrix()
    assert ((matrix != 0).sum(0) == 1).all()
    several = SparseSketch.make("p", (10, 10), 32, seed=1, nonzeros=4)
    assert (several.matrix().square().sum(0) - 1).abs().max() < 0.8
    gradients = normal(2, 10, 10)
    torch.testing.assert_close(several.apply(gradients), gradients.flatten(1) @ several.matrix().T)


def test_blocks_of_the_dense_matrix_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sketch = make_sketch("rademacher", "p", (7, 9), 70, seed=1)
    whole = sketch.apply(normal(3, 7, 9))
    monkeypatch.setattr("evoray.features.sketches.rademacher._BLOCK_BYTES", 70 * 10)
    torch.testing.assert_close(sketch.apply(normal(3, 7, 9)), whole)


def test_factors_are_sketched_as_the_sum_of_their_outer_products() -> None:
    sketch = KroneckerSketch.make("p", (30, 20), 64, seed=1)
    delta, x = normal(4, 11, 30), normal(4, 11, 20, seed=1)
    torch.testing.assert_close(sketch.apply_factors(delta, x), sketch.apply(delta.transpose(1, 2) @ x))


def test_a_factored_sketch_keeps_a_short_side_whole() -> None:
    gradients = torch.zeros(2, 4, 500, dtype=torch.float64)
    gradients[0, 1], gradients[1, 2] = normal(500), normal(500, seed=1)  # different rows of a rank-4 gradient
    pair = make_sketch("kronecker", "p", (4, 500), 64, seed=1).apply(gradients)
    assert float(pair[0] @ pair[1]) == 0


@pytest.mark.parametrize("kind", ["sparse", "rademacher"])
@pytest.mark.parametrize("shape", [(3, 700), (40, 50), (1, 20)])
def test_inner_products_are_unbiased_with_the_variance_of_the_jl_law_whatever_the_shape(
    kind: SketchKind, shape: tuple[int, int]
) -> None:
    errors, law = errors_of(kind, shape, dim=64, seeds=400)
    assert abs(float(errors.mean())) < 4 * law / len(errors) ** 0.5
    assert float(errors.square().mean().sqrt()) < 1.15 * law


@pytest.mark.parametrize("shape", [(3, 700), (40, 50), (1, 20)])
def test_factored_inner_products_are_unbiased(shape: tuple[int, int]) -> None:
    errors, _ = errors_of("kronecker", shape, dim=64, seeds=400)
    assert abs(float(errors.mean())) < 4 * float(errors.std()) / len(errors) ** 0.5 + 1e-12


@pytest.mark.parametrize("kind", ["sparse", "kronecker"])
def test_gradients_of_one_structure_in_many_parameters_keep_the_variance_of_the_jl_law(kind: SketchKind) -> None:
    names = [f"layer {number}" for number in range(12)]
    g, h = (torch.outer(normal(8, seed=seed), normal(60, seed=seed + 1)) for seed in (2, 4))
    pair = torch.stack([g / g.norm(), h / h.norm()]) / len(names) ** 0.5
    cosine = len(names) * float((pair[0] * pair[1]).sum())
    errors = []
    for seed in range(200):
        sketched = torch.stack([make_sketch(kind, name, (8, 60), 512, seed).apply(pair) for name in names]).sum(0)
        errors.append(float(sketched[0] @ sketched[1]) - cosine)
    law = ((1 + cosine**2) / 512) ** 0.5
    assert torch.tensor(errors).square().mean().sqrt() < 1.15 * law


def errors_of(kind: SketchKind, shape: tuple[int, int], dim: int, seeds: int) -> tuple[Tensor, float]:
    """Errors of an inner product over seeds, and the root mean square that the JL law gives it."""
    g = normal(*shape, seed=2)
    h = g + normal(*shape, seed=3)
    pair = torch.stack([g / g.norm(), h / h.norm()])
    cosine = float((pair[0] * pair[1]).sum())
    found = [make_sketch(kind, "p", shape, dim, seed).apply(pair) for seed in range(seeds)]
    errors = torch.stack([sketched[0] @ sketched[1] for sketched in found]) - cosine
    return errors, ((1 + cosine**2) / dim) ** 0.5


def test_a_sketch_is_the_same_in_processes_with_other_hash_seeds() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", _PRINT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "random")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_seeds_give_unrelated_sketches(kind: SketchKind) -> None:
    first = make_sketch(kind, "a", (40, 100), 8, 0).matrix()
    for name, seed in (("b", 0), ("a", 1)):
        other = make_sketch(kind, name, (40, 100), 8, seed).matrix()
        assert abs(float((first * other).sum() / 4000)) < 0.07
