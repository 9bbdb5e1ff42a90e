"""What a session decides once for all workers."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import ray
import torch
from ray._private.utils import set_visible_accelerator_ids

from evoray.config import (
    ClusterConfig,
    Computed,
    EvaluationConfig,
    FeatureConfig,
    FeedbackConfig,
    GenerationConfig,
    TrainingConfig,
)
from evoray.engine import session as session_module
from evoray.engine.session import Session, session, token_file, worker_environment
from evoray.errors import StageError


def of(precision: Literal["float32", "bfloat16"], gpus: float = 0) -> Session:
    return Session(workers=1, threads=1, gpus=gpus, attempts=1, stall=60.0, precision=precision, slots=None)


@pytest.mark.parametrize("section", [FeatureConfig, TrainingConfig, EvaluationConfig])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_auto_means_one_precision_for_all_workers(
    section: type[FeatureConfig] | type[TrainingConfig] | type[EvaluationConfig],
    precision: Literal["float32", "bfloat16"],
) -> None:
    settled = of(precision).settled(section())
    assert settled.precision == precision
    assert of(precision).settled(settled) == settled


@pytest.mark.parametrize("gpus", [0, 1, 0.25])
@pytest.mark.parametrize(
    ("section", "key"),
    [
        (FeatureConfig, "batch_tokens"), (TrainingConfig, "micro_batch_tokens"), (EvaluationConfig, "batch_tokens"),
        (FeedbackConfig, "batch_tokens"), (GenerationConfig, "batch_tokens"),
    ],
)  # fmt: skip
def test_passes_are_as_large_as_suits_the_device(section: type[Computed], key: str, gpus: float) -> None:
    settled = of("bfloat16", gpus).settled(section())
    assert getattr(settled, key) == settled.pass_tokens == section.auto_tokens[gpus > 0]
    assert section.auto_tokens[1] > 4 * section.auto_tokens[0]
    assert section().pass_tokens == section.auto_tokens[0]  # where nothing is decided, a CPU


def test_what_was_chosen_stays() -> None:
    chosen = FeatureConfig(precision="float32", batch_tokens=100)
    assert of("bfloat16", 1).settled(chosen) == chosen
    with pytest.raises(ValueError, match="greater than or equal to 8"):
        FeatureConfig(batch_tokens=7)


@pytest.mark.parametrize("given", [[], ["1"], ["0", "1"]])
def test_a_worker_sees_the_gpus_that_it_asked_for_and_no_other(
    given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the installed Ray does with a worker's environment before its work, whatever GPUs there are."""
    for name, value in {"CUDA_VISIBLE_DEVICES": "0,1,2", **worker_environment(1)}.items():
        monkeypatch.setenv(name, value)
    context = SimpleNamespace(get_accelerator_ids=lambda: {"GPU": given})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    set_visible_accelerator_ids()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(given)


@pytest.mark.ray
def test_workers_have_their_environment_and_the_driver_keeps_its_own(ray_session: Session) -> None:
    """Without a runtime environment, in which the workers that Ray starts ahead would be of no use."""
    wanted = worker_environment(ClusterConfig().threads)
    found = ray.get(ray.remote(lambda: {**os.environ}).remote())
    assert {name: found.get(name) for name in wanted} == wanted
    assert not ray.get_runtime_context().runtime_env
    assert "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO" not in os.environ


@pytest.mark.ray
def test_auto_follows_the_hardware(ray_session: Session) -> None:
    capability = torch.cpu.get_capabilities()
    supported = capability.get("amx_bf16") or capability.get("avx512_bf16")
    assert ray_session.precision == ("bfloat16" if supported else "float32")
    with session(ClusterConfig(gpus_per_worker=0.5)) as with_gpus:
        assert with_gpus.precision == "bfloat16"


@pytest.mark.parametrize(("gpus", "config"), [(0, {}), (2, {"gpus_per_worker": 1}), (2, {"address": "auto"})])
def test_gpus_that_nobody_asked_for_are_told_of_on_this_machine_alone(
    gpus: int, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a machine without GPUs it is Ray's list of nodes that has to be made up."""
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": gpus}}])
    session_module._check_supply(ClusterConfig.model_validate(config))
    assert caplog.messages == []
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}}])
    session_module._check_supply(ClusterConfig())
    assert "2 GPUs are here: set cluster.gpus_per_worker: 1" in caplog.text


@pytest.mark.ray
def test_an_embedded_ray_takes_nobody_without_its_token(ray_session: Session) -> None:
    address = ray.get_runtime_context().gcs_address
    join = f"import ray; ray.init(address={address!r}, logging_level='ERROR'); print(ray.nodes())"

    def joined(token: str | None) -> subprocess.CompletedProcess[str]:
        others = {} if token is None else {"RAY_AUTH_TOKEN": token}
        environment = {**os.environ, "RAY_AUTH_MODE": "token", **others}
        return subprocess.run(
            [sys.executable, "-c", join], env=environment, capture_output=True, text=True, timeout=300
        )

    assert joined(None).returncode == 0
    stranger = joined("0" * 32)
    assert stranger.returncode != 0 and "uthentication" in stranger.stderr
    assert not stat.S_IMODE(token_file().stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO)


@pytest.mark.parametrize("order", ["limit_threads(1); import torch", "import torch; limit_threads(1)"])
def test_threads_are_limited_before_and_after_torch_is_loaded(order: str) -> None:
    code = f"from evoray.engine.session import limit_threads; {order}; print(torch.get_num_threads())"
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "1"


@pytest.mark.parametrize("failures", [2, 9])
def test_a_ray_that_starts_too_slowly_is_started_again(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[dict[str, object]] = []

    def init(**options: object) -> None:
        starts.append(options)
        if len(starts) <= failures:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if failures == 2:
        session_module._start_here(address="local")
        assert len(starts) == 3
        return
    with pytest.raises(StageError, match="did not start on this machine at 4 attempts"):
        session_module._start_here(address="local")
