"""A whole run whose workers have the GPU, and one beside the GPU whose workers have none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from evoray.config import ClusterConfig
from evoray.config_file import load_config
from evoray.engine.session import session
from evoray.pipeline import run
from tests.tiny_run import pool_features, write_flawed_task, write_run_config

pytestmark = [
    pytest.mark.gpu, pytest.mark.ray, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]  # fmt: skip


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flawed_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def on_cpu(task: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in float32 whose workers see no GPU."""
    out = tmp_path_factory.mktemp("runs") / "cpu"
    finish(task, tiny_model_dir, out, gpus=0)
    return out


def finish(task: Path, model: Path, out: Path, *, gpus: float, precision: str = "float32", **others: object) -> None:
    sections = {name: {"precision": precision} for name in ("features", "training", "evaluation")}
    sections["features"] |= {"dim": 64, "max_tokens": 96, "warmup": {"rows": 16, "threads": 1}}
    sections["training"] |= {"epochs": 1, "batch_size": 2, "checkpoint_steps": 1, "workers": 1}
    for name, more in others.items():
        sections[name] = {**sections.get(name, {}), **more}  # type: ignore[dict-item]
    config = write_run_config(task, model, out, cluster={"workers": 1, "gpus_per_worker": gpus}, **sections)
    run(load_config(config))


def test_workers_that_asked_for_no_gpu_see_none() -> None:
    with session(ClusterConfig(workers=1)):

        @ray.remote(num_cpus=1, num_gpus=0)
        def sees() -> bool:
            return torch.cuda.is_available()

        assert not ray.get(sees.remote())
        assert ray.get(sees.options(num_gpus=1).remote())


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_a_run_on_the_gpu_ends_where_that_of_the_cpu_ends(
    task: Path, tiny_model_dir: Path, on_cpu: Path, tmp_path: Path, zero_stage: int
) -> None:
    finish(task, tiny_model_dir, tmp_path / "gpu", gpus=1, training={"zero_stage": zero_stage})
    np.testing.assert_allclose(
        vectors(pool_features(tmp_path / "gpu", tmp_path / "gpu")), vectors(pool_features(on_cpu, on_cpu)), atol=1e-3
    )
    assert chosen(tmp_path / "gpu") == chosen(on_cpu)
    np.testing.assert_allclose(last_losses(tmp_path / "gpu"), last_losses(on_cpu), rtol=1e-3)


def test_bfloat16_is_what_a_gpu_computes_in_unless_told_otherwise(
    task: Path, tiny_model_dir: Path, on_cpu: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    finish(task, tiny_model_dir, out, gpus=1, precision="auto")
    cosine_N = (vectors(pool_features(out, out)) * vectors(pool_features(on_cpu, on_cpu))).sum(1)
    assert cosine_N.min() > 0.9
    np.testing.assert_allclose(last_losses(out), last_losses(on_cpu), rtol=0.05)


def test_two_workers_share_one_gpu(task: Path, tiny_model_dir: Path, on_cpu: Path, tmp_path: Path) -> None:
    finish(task, tiny_model_dir, tmp_path / "half", gpus=0.5)
    assert chosen(tmp_path / "half") == chosen(on_cpu)


def vectors(table: pa.Table) -> np.ndarray:
    return np.array(table.sort_by("id")["feature"].to_pylist())


def chosen(out: Path) -> set[str]:
    return set(pq.read_table(out / "rounds" / "0001" / "selected.parquet")["id"].to_pylist())


def last_losses(out: Path) -> list[float]:
    """The mean test losses of the arms, by name."""
    summary = json.loads((out / "summary.json").read_text())
    return [arm["loss"]["value"] for arm in sorted(summary["arms"], key=lambda arm: arm["name"])]


@pytest.fixture(autouse=True)
def without_ray() -> Iterator[None]:
    """Each run starts Ray for itself: of one that is there already it would use what that has."""
    yield
    ray.shutdown()
