"""What Prometheus is told to ask, and that the dashboard shows metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import ray.dashboard.modules.metrics.dashboards as rays_dashboards
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

from evoray.engine import metrics
from tests.cluster_configs.files import FOLDER, documents, mappings
from tests.cluster_configs.test_kubernetes import RAY_RESOURCES, cluster_spec

#: evoray's own, as ray.util.metrics exports them: under ray_, counters with _total.
COUNTERS = {f"ray_{name}_total" for name in metrics.COUNTERS}
GAUGES = {f"ray_{name}" for name in metrics.GAUGES}

_METRIC = re.compile(r"\b(?:ray|autoscaler)_[a-z0-9_]+")


@cache
def rays_metrics() -> frozenset[str]:
    """The metrics that the dashboards of the installed Ray show."""
    (folder,) = rays_dashboards.__path__
    return frozenset(name for path in Path(folder).glob("*.py") for name in _METRIC.findall(path.read_text()))


@cache
def dashboard() -> dict[str, Any]:
    """The dashboard of Grafana."""
    made: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text(encoding="utf-8"))
    return made


def charts() -> list[dict[str, Any]]:
    """Its panels, without the headings of rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """All that it asks Prometheus."""
    return [target["expr"] for panel in charts() for target in panel["targets"]]


def unknown(expression: str) -> set[str]:
    """Metrics of an expression that neither evoray nor Ray has."""
    return set(_METRIC.findall(expression)) - COUNTERS - GAUGES - rays_metrics()


def test_every_expression_asks_for_metrics_of_evoray_or_ray() -> None:
    assert [unknown(expression) for expression in expressions()] == [set()] * len(expressions())
    assert all(_METRIC.search(expression) for expression in expressions())


@pytest.mark.parametrize("name", ["ray_evoray_rows", "ray_evoray_mfu_total", "ray_node_cpu_utilisation"])
def test_a_metric_that_nobody_exports_is_noticed(name: str) -> None:
    assert unknown(f"sum(rate({name}[5m]))") == {name}


def test_every_metric_of_evoray_is_shown() -> None:
    shown = {name for expression in expressions() for name in _METRIC.findall(expression)}
    assert (COUNTERS | GAUGES) - shown == set()


def test_counters_are_shown_as_rates() -> None:
    bare = [e for e in expressions() for name in COUNTERS & set(_METRIC.findall(e)) if f"rate({name}{{" not in e]
    assert bare == []


def test_expressions_are_whole_and_of_the_chosen_cluster() -> None:
    for expression in expressions():
        assert all(expression.count(a) == expression.count(b) for a, b in ("()", "[]", "{}")), expression
        selected = re.findall(rf"{_METRIC.pattern}(\{{[^}}]*\}})?", expression)
        assert set(selected) == {'{SessionName=~"$session"}'}, expression


def test_the_data_source_is_chosen_by_who_looks() -> None:
    chosen = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert (chosen["datasource"]["type"], chosen["datasource"]["query"]) == ("datasource", "prometheus")
    sources = [part["datasource"] for part in mappings(dashboard()) if "datasource" in part]
    assert sources
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert "session" in chosen


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells


def scrape(name: str) -> dict[str, Any]:
    """The only job of a Prometheus config."""
    (config,) = documents(name)
    assert set(config) == {"global", "scrape_configs"}
    (job,) = config["scrape_configs"]
    found: dict[str, Any] = job
    return found


def test_prometheus_reads_the_file_that_ray_keeps_up_to_date() -> None:
    job = scrape("prometheus.yml")
    assert set(job) == {"job_name", "file_sd_configs"}
    assert [place["files"] for place in job["file_sd_configs"]] == [[f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]]


def test_on_kubernetes_prometheus_keeps_the_ports_of_metrics_and_no_others() -> None:
    job = scrape("prometheus-kuberay.yml")
    assert job["kubernetes_sd_configs"] == [{"role": "pod"}]
    (ports,) = [
        r for r in job["relabel_configs"] if r["source_labels"] == ["__meta_kubernetes_pod_container_port_name"]
    ]
    for kind in RAY_RESOURCES:
        (container,) = cluster_spec(kind)["headGroupSpec"]["template"]["spec"]["containers"]
        kept = [port["containerPort"] for port in container["ports"] if re.fullmatch(ports["regex"], port["name"])]
        assert kept == [8080, 44217, 44227]  # of the node, the autoscaler, the dashboard


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-kuberay.yml"])
def test_prometheus_takes_its_config(name: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: only the structure of the config was looked at")
    done = subprocess.run([promtool, "check", "config", FOLDER / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
