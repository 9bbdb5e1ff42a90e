"""What monitoring sees of the work, as a node of Ray exports it, and that nothing is needed where there is no Ray."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from evoray.alignment.reduction import partial_sums
from evoray.engine import metrics
from evoray.engine.events import Silent, Stage
from evoray.engine.session import Session
from evoray.engine.units import UnitResult, Work, run_units
from evoray.models.flops import FORWARD, flops_per_token, peak_of
from evoray.storage import Storage, UnitStore
from tests.engine.unit_workers import Job

_LINE = re.compile(r"^ray_(evoray_\w+?)(?:_total)?\{(.*)\} (\S+)$")
_TAG = re.compile(r'(\w+)="([^"]*)"')
_EXPORT = 12.0  # seconds in which Ray has exported what there is: it does so every ten
_SECONDS = 120.0  # for all that is waited for
#: What other tests of this Ray count too.
_COUNTED = ((metrics.REDUCED, ""), (metrics.ROWS, "train"), (metrics.TOKENS, "train"))


def exported() -> dict[tuple[str, str], float]:
    """By name and tag (stage or series), over all processes of all nodes."""
    found: dict[tuple[str, str], float] = {}
    for node in ray.nodes():
        place = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(place, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        for line in lines:
            if match := _LINE.match(line):
                tags = dict(_TAG.findall(match[2]))
                key = (match[1], tags.get("stage") or tags.get("series") or "")
                found[key] = found.get(key, 0.0) + float(match[3])
    return found


def settled() -> dict[tuple[str, str], float]:
    """What was exported of all that tests before this one did, when nothing is added to it any more."""
    found, deadline = exported(), time.monotonic() + _SECONDS
    while True:
        assert time.monotonic() < deadline, found
        time.sleep(_EXPORT)
        before, found = found, exported()
        if {key: found.get(key) for key in _COUNTED} == {key: before.get(key) for key in _COUNTED}:
            return found


def wait_for(wanted: Mapping[tuple[str, str], float], seen: Callable[[], Mapping[tuple[str, str], float]]) -> None:
    """Until each of these was exported: Ray drops a gauge some 20 seconds after it was last set. Fails where they are
    not in time.
    """
    deadline = time.monotonic() + _SECONDS
    missing, found = dict(wanted), dict[tuple[str, str], float]()
    while missing:
        assert time.monotonic() < deadline, (missing, found)
        time.sleep(1)
        found = dict(seen())
        missing = {key: value for key, value in missing.items() if found.get(key) != value}


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_exports_what_its_workers_and_the_driver_did(tmp_path: Path, ray_session: Session) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    before = settled()
    store = UnitStore(Storage(tmp_path / "run"), "squares/abc")
    job = Job(folder=marks, quarantines=(1, 4), tokens=7)
    run_units(
        [Work(stage="square", units=range(6), factory=job, store=store, quarantine="quarantine/squares")],
        replace(ray_session, workers=2),
        Stage(Silent()),
    )
    metrics.reduced([partial_sums([(0, (np.zeros(5), np.zeros(3)))], 2, ("sum", "sum"))])
    metrics.sinkhorn_error(0.25)
    metrics.trained("round 1", {"loss": 1.5, "tokens_per_second": 9.0}, 4, 20, 1e9)
    metrics.trained("round 1", {"validate_loss": 1.0}, 0, 0, 1e9)
    wanted = {
        (metrics.UNITS, "square"): 6.0,
        (metrics.ROWS, "square"): 6.0,
        (metrics.TOKENS, "square"): 42.0,
        (metrics.QUARANTINED, "square"): 2.0,
        (metrics.REDUCED, ""): 64.0,
        (metrics.SINKHORN, ""): 0.25,
        (metrics.LOSS, "round 1"): 1.5,
        (metrics.ROWS, "train"): 4.0,
        (metrics.TOKENS, "train"): 20.0,
    }
    wait_for(
        {key: value + (before.get(key, 0.0) if key in _COUNTED else 0.0) for key, value in wanted.items()}, exported
    )
    assert metrics.UTILISATION not in {name for name, _ in exported()}, "of a processor no peak is known"


def test_without_ray_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    metrics.count("read", units=1, rows=2, tokens=3, quarantined=4)
    metrics.sinkhorn_error(0.1)
    metrics.trained("round 1", {"loss": 1.0, "tokens_per_second": 2.0}, 1, 2, 1e9)
    metrics.utilised("train", 1e12, 1.0)


def test_tokens_are_those_that_were_read_or_written_and_none_where_a_unit_was_taken_over() -> None:
    assert UnitResult(table=None, facts={"prompt_tokens": 5, "completion_tokens": 2, "samples": 9}).tokens == 7
    assert UnitResult(table=None, facts={"tokens": 5, "reused": "features/abc"}).tokens == 0
    assert UnitResult(table=None, facts={"tokens": 5}, by_model=False).tokens == 0


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("Tesla V100-SXM2-16GB", None),
        ("NVIDIA H1000", None),
    ],
)
def test_a_peak_is_known_by_the_name_of_a_whole_device_or_not_at_all(device: str, peak: float | None) -> None:
    assert peak_of(device) == peak


def test_utilisation_is_said_where_the_peak_is_known_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[float] = []
    monkeypatch.setattr(metrics, "_set", lambda name, value, **tags: said.append(value))
    metrics.utilised("train", 1e12, 1.0)
    assert said == []
    monkeypatch.setattr(metrics, "_peak", lambda: 4e12)
    metrics.utilised("train", 2e12, 0.5)
    metrics.utilised("train", None, 0.5)
    assert said == [1.0]


def test_a_pass_forward_costs_two_operations_a_parameter() -> None:
    import torch

    assert flops_per_token(torch.nn.Linear(3, 4), FORWARD) == 2 * (3 * 4 + 4)
