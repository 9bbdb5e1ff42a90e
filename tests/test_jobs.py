"""The entry points of jobs, and the example configs."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evoray.comparison_config import ComparisonConfig, EntryConfig, load_comparison
from evoray.config import check_metric
from evoray.config_file import load_config
from evoray.driver import stages
from evoray.engine.bench import entries_of
from evoray.engine.cell_loops import check_loops
from evoray.engine.selectors import check_proxy, with_representation
from evoray.errors import StageError
from tests.source_tree import ROOT

EXAMPLE = ROOT / "jobs" / "examples" / "mixed_pool.yaml"


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Starts `python FILE ARGUMENTS` in a working directory of the project; exit code, and what it wrote."""

    def start(folder: str, file: str, *arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(ROOT / folder)
        monkeypatch.setattr(sys, "argv", [file, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(file, run_name="__main__")
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out + shown.err

    return start


def test_the_example_configs_are_valid() -> None:
    config = load_config(EXAMPLE)
    assert (config.rounds, config.selection.k) == (2, 1000)
    smaller = load_config(EXAMPLE.with_name("small_proxy.yaml"))
    assert smaller.proxy_model != smaller.model
    loops = {name: load_config(EXAMPLE.with_name(f"{name}.yaml")) for name in ("generated_rounds", "evoselect_paper")}
    assert all(loop.pool is None and loop.generation is not None for loop in loops.values())
    for name, selector in (("diverse_evol", "k_center"), ("kmq", "kmeans_iterative")):
        loop = load_config(EXAMPLE.with_name(f"{name}.yaml"))
        assert (loop.selection.selector, loop.training.start_from) == (selector, "base")
    comparison = load_comparison(EXAMPLE.with_name("comparison.yaml"))
    assert [entry.shown for entry in entries_with_tokens(comparison)] == ["random-tokens"]


def entries_with_tokens(config: ComparisonConfig) -> list[EntryConfig]:
    return [entry for entry in config.selectors if entry.tokens_of is not None]


#: A way to start each kind of job, with a place for results that would be deleted with it.
LOST = {
    "run_loop": ("examples/mixed_pool.yaml", "--out", "results"),
    "run_comparison": ("examples/comparison.yaml", "--set", "out=results"),
    "run_stage run": ("examples/mixed_pool.yaml", "--set", "out=results"),
    "run_stage plan": ("examples/mixed_pool.yaml", "--out", "results"),
    "run_stage generate": ("examples/generated_rounds.yaml", "--out=results"),
    "run_stage compare": ("examples/comparison.yaml", "--out", "results"),
    "run_stage featurize": ("--pool", "/pool", "--model", "smollm2", "--out", "results"),
    "run_stage select": ("--k", "5", "--pool", "/pool", "--target", "/task", "--model", "m", "--out", "results"),
    "run_stage score": ("--potentials", "/run", "--pool", "/pool", "--out", "results"),
    "run_stage train": ("--data", "/rows", "--model", "m", "--out", "results"),
    "run_stage evaluate": ("--model", "m", "--target", "/task", "--scores", "results"),
}


@pytest.mark.parametrize("folder", [".", "jobs"])
@pytest.mark.parametrize("name", LOST)
def test_a_job_refuses_a_place_that_would_be_deleted_with_it(
    folder: str, name: str, job: Callable[..., tuple[int, str]]
) -> None:
    file, *stage = name.split()
    above = "" if folder == "jobs" else "jobs/"
    arguments = [f"{above}{part}" if part.startswith("examples/") else part for part in LOST[name]]
    code, said = job(folder, f"{above}{file}.py", *stage, *arguments)
    assert code == 2, said
    assert "'results', relative to a folder that is deleted with the job" in said
    assert "an absolute path on storage that every node reaches" in said


def test_every_stage_that_a_cluster_can_run_is_one_of_the_jobs() -> None:
    assert {name.partition(" ")[2] for name in LOST if " " in name} == set(stages())


@pytest.mark.parametrize("arguments", [(), ("report", "/run"), ("selct",)])
def test_what_is_no_stage_is_refused(arguments: tuple[str, ...], job: Callable[..., tuple[int, str]]) -> None:
    code, said = job(".", "jobs/run_stage.py", *arguments)
    assert code == 2
    assert "one of run, plan, generate, featurize, select, score, train, evaluate, compare" in said


@pytest.mark.parametrize("option", ["--no-such-option", "--k"])
def test_wrong_options_are_told_by_the_stage_itself(option: str, job: Callable[..., tuple[int, str]]) -> None:
    code, said = job("jobs", "run_stage.py", "select", "--out", "/shared/choice", option)
    assert code == 2
    assert option in said


def test_a_job_names_the_nearest_key_to_an_unknown_one(job: Callable[..., tuple[int, str]]) -> None:
    code, said = job("jobs", "run_loop.py", "examples/mixed_pool.yaml", "--set", "selection.kk=3")
    assert code == 2
    assert "did you mean 'k'" in said


def test_a_job_joins_the_cluster_whatever_address_the_config_has(
    job: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def fails(config: Any, **_options: Any) -> None:
        asked.append(config.cluster.address)
        raise StageError("a lost disk", "a disk", "find it")

    monkeypatch.setattr("evoray.pipeline.run", fails)
    code, said = job("jobs", "run_loop.py", "examples/mixed_pool.yaml", "--set", "cluster.address=elsewhere:1")
    assert (code, asked) == (1, ["auto"])
    assert "to go on from here: python run_loop.py examples/mixed_pool.yaml" in said


def test_no_job_shadows_a_module_of_python() -> None:
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} & sys.stdlib_module_names == set()


@pytest.mark.parametrize("path", sorted((ROOT / "jobs" / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_a_config_that_would_be_taken(path: Path) -> None:
    if "selectors:" in path.read_text():
        config = load_comparison(path)
        check_loops(config, entries_of(config))
        return
    run_config = load_config(path)
    features = with_representation(run_config.features, run_config.selection)
    check_metric(features, run_config.selection)
    check_proxy(run_config.model_copy(update={"features": features}))
