"""The sketch: an explicit linear map, unbiased, the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from evoray.features.sketch import make_sketch

_PRINT = (
    "from evoray.features.sketch import make_sketch; s = make_sketch('layers.0.q_proj.lora_A', 1000, 64, 5); "
    "import hashlib; print(hashlib.sha256(s.slot_L.numpy().tobytes() + s.weight_L.numpy().tobytes()).hexdigest())"
)


def test_the_sketch_is_its_explicit_matrix() -> None:
    sketch = make_sketch("p", 50, 16, seed=1, nonzeros=2)
    gradients = torch.randn(4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sketch.apply(gradients), gradients @ sketch.matrix().T)


def test_each_coordinate_lands_in_exactly_s_buckets_with_unit_norm() -> None:
    matrix = make_sketch("p", 100, 32, seed=1).matrix()
    assert ((matrix != 0).sum(0) == 1).all()
    assert (make_sketch("p", 100, 32, seed=1, nonzeros=4).matrix().square().sum(0) - 1).abs().max() < 0.8


@pytest.mark.parametrize("shape", [(3, 700), (40, 50), (1, 20)])
def test_inner_products_are_unbiased_with_the_variance_of_the_jl_law_whatever_the_shape(shape: tuple[int, int]) -> None:
    coordinates, dim, seeds = shape[0] * shape[1], 64, 400
    generator = torch.Generator().manual_seed(2)
    g = torch.randn(coordinates, dtype=torch.float64, generator=generator)
    h = g + torch.randn(coordinates, dtype=torch.float64, generator=generator)
    g, h = g / g.norm(), h / h.norm()
    errors = []
    for seed in range(seeds):
        pair = make_sketch("p", coordinates, dim, seed).apply(torch.stack([g, h]))
        errors.append(float(pair[0] @ pair[1] - g @ h))
    error = torch.tensor(errors)
    law = ((1 + float(g @ h) ** 2) / dim) ** 0.5
    assert abs(float(error.mean())) < 4 * law / seeds**0.5
    assert float(error.square().mean().sqrt()) < 1.15 * law


def test_the_sketch_is_the_same_in_processes_with_other_hash_seeds() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", _PRINT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "random")
    }
    assert len(digests) == 1


def test_names_and_seeds_give_unrelated_sketches() -> None:
    first = make_sketch("a", 4000, 8, 0).matrix()
    for other in (make_sketch("b", 4000, 8, 0).matrix(), make_sketch("a", 4000, 8, 1).matrix()):
        agreement = float((first * other).sum() / 4000)
        assert abs(agreement) < 0.05
