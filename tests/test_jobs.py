"""The job entry point and its example config."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evoray.comparison_config import ComparisonConfig, EntryConfig, load_comparison
from evoray.config import check_metric
from evoray.config_file import load_config
from evoray.engine.bench import entries_of
from evoray.engine.cell_loops import check_loops
from evoray.engine.selectors import check_proxy, with_representation
from evoray.errors import ConfigError
from tests.source_tree import ROOT

EXAMPLE = ROOT / "jobs" / "examples" / "mixed_pool.yaml"


def job(name: str, function: str) -> Callable[[Sequence[str]], None]:
    """A job's function, loaded from the file that is submitted."""
    loaded: dict[str, Any] = runpy.run_path(str(ROOT / "jobs" / f"{name}.py"), run_name=name)
    found: Callable[[Sequence[str]], None] = loaded[function]
    return found


@pytest.fixture
def loop() -> Callable[[Sequence[str]], None]:
    return job("run_loop", "loop")


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


def test_a_comparison_as_a_job_refuses_a_folder_that_would_be_deleted_with_it() -> None:
    with pytest.raises(ConfigError, match="an absolute path on storage that every node reaches"):
        job("run_comparison", "comparison")([str(EXAMPLE.with_name("comparison.yaml")), "--out", "results"])


def test_a_job_refuses_a_run_directory_that_would_be_deleted_with_it(loop: Callable[[Sequence[str]], None]) -> None:
    with pytest.raises(ConfigError, match="an absolute path on storage that every node reaches"):
        loop([str(EXAMPLE), "--out", "results"])


def test_a_job_names_the_nearest_key_to_an_unknown_one(loop: Callable[[Sequence[str]], None]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'k'"):
        loop([str(EXAMPLE), "--set", "selection.kk=3"])


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
