"""A plan of a tiny run: it rehearses, leaves nothing but itself, and the report sets it beside what the run took."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from evoray.config_file import load_config
from evoray.engine.session import Session
from evoray.errors import ConfigError
from evoray.pipeline import run
from evoray.planning import plan
from evoray.report.cost_tables import compared_grid, duration, forecast_grid, price_grid, size
from evoray.report.costs import Forecast, MachinePrice, StageCost, kind_of
from tests.conftest import FinishedRun
from tests.tiny_run import write_run_config

FORECAST = Forecast(
    config="abc",
    workers=2,
    pool_rows=1000,
    rehearsed_rows=100,
    rehearsal_seconds=30.0,
    stages=(
        StageCost(kind="featurise", seconds=100.0, rows=1000, bytes=8_000_000, peak_mb=700.4),
        StageCost(kind="train", seconds=50.0, rows=64, bytes=2_000_000, peak_mb=900.0),
    ),
    prices=(MachinePrice(name="small", machines=2, hours=0.08, least=0.01, most=0.03),),
)


@pytest.mark.ray
@pytest.mark.slow
def test_a_plan_stands_beside_the_run_that_it_is_of(
    task: Path, tiny_model_dir: Path, tmp_path: Path, ray_session: Session
) -> None:
    out = tmp_path / "run"
    machines = {"small": {"workers": 1, "hour": [0.5, 2.0]}}
    path = write_run_config(task, tiny_model_dir, out, rounds=1, machines=machines, evaluation={"control": False})
    config = load_config(path)
    found = plan(config, rows=48)
    assert {key.name for key in out.iterdir()} == {"plan.json"}, "the rehearsal is gone"
    costs = {one.kind: one for one in found.stages}
    assert list(costs) == ["prepare models", "read", "warm up", "featurise", "select", "train", "evaluate"]
    assert all(one.seconds > 0 for one in found.stages)
    assert not (out / "lock.json").exists()
    assert found.pool_rows > found.rehearsed_rows >= 48
    assert costs["train"].rows == 8
    assert 0 < costs["featurise"].peak_mb < 4000  # type: ignore[operator]
    (price,) = found.prices
    assert price.machines == 1
    assert price.hours == pytest.approx(found.seconds / 3600)
    assert (price.least, price.most) == (pytest.approx(price.hours * 0.5), pytest.approx(price.hours * 2))

    summary = run(config.model_copy(update={"machines": {}})).summary
    assert summary.forecast == found
    assert "Predicted by evoray plan for 1 workers, and taken" in (out / "report.md").read_text()
    assert "took / predicted" in (out / "report.html").read_text()
    features = sum(file.stat().st_size for file in (out / "features").rglob("*") if file.is_file())
    # Units of a rehearsal are small: each has a file of its own, whose footer weighs as much as rows of 64 numbers.
    assert features <= costs["featurise"].bytes < 3 * features  # type: ignore[operator]


@pytest.mark.ray
@pytest.mark.slow
def test_a_plan_that_cannot_be_read_ends_no_run(finished_run: FinishedRun, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished_run.out, out)
    (out / "plan.json").write_text('{"config": 3}')
    config = load_config(finished_run.config).model_copy(update={"out": str(out)})
    assert run(config).summary.forecast is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"generation": {"source": "model", "samples": 4}}, "generation"),
        ({"features": {"cascade": {}}}, "features.cascade"),
    ],
)
def test_what_a_rehearsal_says_nothing_of_is_refused(
    change: dict[str, Any], named: str, task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    config = load_config(write_run_config(task, tiny_model_dir, tmp_path / "run", **change))
    with pytest.raises(ConfigError, match=named):
        plan(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("hour", [[2, 1], [-1, 1], [1, float("inf")]])
def test_prices_that_are_none_are_refused(hour: list[float], task: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    path = write_run_config(task, tiny_model_dir, tmp_path / "run", machines={"a": {"hour": hour}})
    with pytest.raises(ConfigError, match="least, most"):
        load_config(path)
    assert yaml.safe_load(path.read_text())["machines"]


def test_the_plan_as_tables() -> None:
    grid = forecast_grid(FORECAST)
    assert grid.rows[0] == ("featurise", "1 min 40 s", "10.0", "8 MB", "700 MB")
    assert grid.total == ("all", "2 min 30 s", "", "10 MB", "900 MB")
    prices = price_grid(FORECAST.prices)
    assert prices is not None
    assert prices.rows == (("small", "2", "0.08", "0.01 to 0.03"),)
    assert price_grid(()) is None


def test_kinds_of_stages_are_set_beside_what_they_took() -> None:
    timings = {"featurise pool, align": 90.0, "featurise pool": 20.0, "evaluate round 1 on test": 5.0}
    grid = compared_grid(FORECAST, timings)
    assert grid is not None
    assert grid.rows == (
        ("featurise", "100.0 s", "110.0 s", "1.10"),
        ("train", "50.0 s", "0.0 s", "0.00"),
        ("evaluate", "0.0 s", "5.0 s", "-"),
    )
    assert grid.total == ("all", "150.0 s", "115.0 s", "0.77")
    assert compared_grid(None, timings) is None


def test_a_plan_survives_its_file() -> None:
    assert Forecast.from_json(json.loads(json.dumps(FORECAST.to_json()))) == FORECAST


def test_names_of_stages_are_known_by_their_first_word() -> None:
    assert [kind_of(name) for name in ("align and select 3", "estimate moments", "mine")] == [
        "select",
        "warm up",
        "other",
    ]


@pytest.mark.parametrize(
    ("amount", "shown"), [(0, "0 B"), (999, "999 B"), (999_999, "1 MB"), (8.2e9, "8.2 GB"), (3e15, "3 PB")]
)
def test_bytes(amount: float, shown: str) -> None:
    assert size(amount) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(0.2, "0 s"), (61, "1 min 1 s"), (7325, "2 h 2 min")])
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
