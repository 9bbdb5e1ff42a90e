"""A comparison from config to report, on a tiny model: shared, resumable, and of one's own selectors too."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from evoray import ComparisonConfig, RunConfig, compare, run
from evoray.comparison_config import build_comparison, load_comparison
from evoray.config import FeatureConfig
from evoray.engine.bench import Bench, entries_of
from evoray.engine.events import Events
from evoray.engine.session import Session
from evoray.engine.site import Site
from evoray.errors import ConfigError
from evoray.storage import Storage
from tests.killed_run import Job
from tests.processes import alive, ended
from tests.tiny_task import write_task

K = 6
BOTH = 16  # rows of two rounds
OWN = """
from evoray import Choice, Needs, Selector
from evoray.selection.ranking import best


class Longest(Selector):
    needs = Needs(target=False, columns=("tokens",))

    sign: int = 1

    def select(self, shards, request):
        return Choice(picks=best(shards, request.rows, length, self.sign), facts={"sign": self.sign})


def length(tile, sign):
    return sign * tile.columns["tokens"]
"""


def settings(task: Path, model: Path, out: Path, **overrides: Any) -> dict[str, Any]:
    return {
        "pool": str(task / "pool.jsonl"),
        "targets": {"sums": str(task / "target")},
        "model": str(model),
        "out": str(out),
        "budgets": [K],
        "seeds": [0],
        "reading": {"unit_rows": 16},
        "lora": {"rank": 2, "alpha": 4},
        "features": {"dim": 64, "max_tokens": 96, "warmup": {"rows": 16, "threads": 1}},
        "selection": {"steps": 4, "lambda": 0.3, "r": 0.5},
        "training": {"epochs": 1, "batch_size": 2, "micro_batch_tokens": 512, "workers": 1},
        "cluster": {"workers": 1},
        **overrides,
    }


def cells(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    found = [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]
    return {(cell["selector"], cell["budget"]): cell for cell in found}


def finished(config: ComparisonConfig) -> dict[tuple[str, str], dict[str, Any]]:
    compare(config)
    return cells(Path(config.out))


@pytest.mark.ray
@pytest.mark.slow
def test_a_comparison_goes_on_with_more_selectors_and_does_nothing_twice(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, out = write_task(tmp_path / "task"), tmp_path / "out"
    (tmp_path / "mine_of_comparison.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    selectors: list[Any] = [
        "random",
        {"selector": "mine_of_comparison:Longest", "options": {"sign": -1}},
        {"selector": "random", "name": "random-tokens", "tokens_of": "Longest"},
    ]
    first = finished(build_comparison(settings(task, tiny_model_dir, out, selectors=selectors)))
    assert set(first) == {("untrained", None), *((name, str(K)) for name in ("random", "Longest", "random-tokens"))}
    check_what_was_chosen(first, task)

    trained = {path: path.stat().st_mtime_ns for path in out.glob("models/*/adapter_model.safetensors")}
    scored = {path: path.stat().st_mtime_ns for path in out.glob("scores/*/*.parquet")}
    again = settings(task, tiny_model_dir, out, selectors=[*selectors, "less", "evoselect"], deciles=False)
    second = finished(build_comparison(again))
    assert {key: second[key] for key in first} == first
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    assert {path: path.stat().st_mtime_ns for path in scored} == scored
    assert len(list(out.glob("models/*/adapter_model.safetensors"))) == len(trained) + 2

    report = (out / "report.md").read_text()
    assert all(f"plots/{path.name}" in report for path in (out / "plots").iterdir())
    assert all(name in report for name in ("evoselect", "less", "Longest", "random-tokens", "untrained"))
    assert (out / "report.html").read_text().count("<svg") == len(list((out / "plots").iterdir()))
    summary = json.loads((out / "summary.json").read_text())
    assert summary["config"] == (out / "config.json").read_text()


@pytest.mark.ray
@pytest.mark.soak  # three more trainings; that trials decide in a run is tested in engine/test_trials.py
def test_a_choice_that_training_decides_is_that_of_its_settings(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    task, out = write_task(tmp_path / "task"), tmp_path / "out"
    free = {"selector": "evoselect", "selection": {"lambda": "auto", "r": "auto", "trials": 2}}
    cell = finished(build_comparison(settings(task, tiny_model_dir, out, selectors=["random", free])))["evoselect", "6"]
    trials = cell["facts"]["trials"]
    losses = [one["loss"] for one in trials["tried"]]
    assert len(losses) == 2 and trials["kept"] == losses.index(min(losses))
    assert cell["seconds"]["train"] == pytest.approx(sum(one["seconds"] for one in trials["tried"]))

    kept = {name: trials["tried"][trials["kept"]][name] for name in ("lambda", "r")}
    fixed = {"selector": "evoselect", "name": "fixed", "selection": kept}
    models = len(list(out.glob("models/*")))
    again = finished(build_comparison(settings(task, tiny_model_dir, out, selectors=["random", free, fixed])))
    assert again["evoselect", "6"] == cell
    assert (again["fixed", "6"]["ids"], again["fixed", "6"]["losses"]) == (cell["ids"], cell["losses"])
    assert len(list(out.glob("models/*"))) == models, "the same training"


@pytest.mark.ray
@pytest.mark.soak  # five launches; loops are run in engine/test_loops.py, and comparisons above
def test_a_loop_is_the_run_of_the_same_settings(tmp_path: Path, tiny_model_dir: Path, ray_session: Session) -> None:
    task = write_task(tmp_path / "task")
    loops: list[Any] = [
        {"selector": "k_center", "rounds": 2, "training": {"from": "base"}},
        {"selector": "random", "name": "random-tokens", "tokens_of": "k_center"},
    ]
    given = settings(task, tiny_model_dir, tmp_path / "out", selectors=loops, budgets=[BOTH])
    found = finished(build_comparison(given))
    of_run = {key: given[key] for key in ("pool", "model", "reading", "lora", "cluster")}
    of_run |= {"target": str(task / "target"), "rounds": 2, "seed": 0, "evaluation": {"control": False}}
    alone = RunConfig.model_validate(
        {
            **of_run,
            "features": {**given["features"], "seed": 0},
            "selection": {**given["selection"], "selector": "k_center", "k": BOTH // 2},
            "training": {**given["training"], "from": "base"},
            "out": str(tmp_path / "alone"),
        }
    )
    run(alone)
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "alone/rounds").glob("*/selected.json"))]
    loop, matched = found["k_center", str(BOTH)], found["random-tokens", str(BOTH)]
    assert loop["ids"] == [row_id for record in records for row_id in record["ids"]]
    summary = json.loads((tmp_path / "alone/summary.json").read_text())
    assert loop["loss"] == summary["arms"][-1]["loss"]["value"]
    assert (loop["rows"], loop["facts"]["rounds"], loop["decile"]) == (BOTH, 2, None)
    first_round_steps = -(-BOTH // 2 // given["training"]["batch_size"])
    assert loop["steps"] == first_round_steps + matched["steps"]  # what is paid for; matched is the last training
    assert loop["distance"] > 0 and sum(loop["sources"].values()) == BOTH

    records_before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/loops").rglob("*.json")}
    assert finished(build_comparison(given)) == found
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/loops").rglob("*.json")} == records_before


def check_what_was_chosen(found: Mapping[tuple[Any, Any], Mapping[str, Any]], task: Path) -> None:
    """The own selector's picks by a sort of its own; equal tokens of the random rows; measures of all."""
    rows = [json.loads(line) for line in (task / "pool.jsonl").read_text().splitlines()]
    shortest = sorted(rows, key=lambda row: (len(row["instruction"]) + len(row["output"]), row["id"]))
    own = found["Longest", str(K)]
    assert own["ids"] == [row["id"] for row in shortest[:K]]
    assert own["facts"]["sign"] == -1
    matched = found["random-tokens", str(K)]
    assert abs(matched["tokens"] - own["tokens"]) <= max(len(row["instruction"]) for row in rows) + 20
    assert matched["steps"] == own["steps"]
    for (name, _), cell in found.items():
        assert len(cell["losses"]) == len(cell["correct"]) == 12
        if name != "untrained":
            assert cell["distance"] > 0
            assert 1.0 <= cell["vendi"] <= cell["rows"] + 1e-6
            assert sum(cell["sources"].values()) == cell["rows"] == len(cell["ids"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selectors": ["random", "evoslect"]}, "did you mean 'evoselect'"),
        ({"selectors": ["random", "random"]}, "twice"),
        ({"selectors": [{"selector": "less", "options": {"ovr": "mean"}}]}, "did you mean 'over'"),
        ({"selectors": [{"selector": "less", "option": {}}]}, "did you mean 'options'"),
        ({"selectors": [{"selector": "entropy", "features": {"representation": "rds"}}]}, "defined on it"),
        (
            {"selectors": ["random", "all", {"selector": "random", "name": "r", "tokens_of": "all"}]},
            "budget of its own",
        ),
        ({"selectors": ["random", {"selector": "random", "name": "r", "tokens_of": "less"}]}, "budget of its own"),
        ({"selectors": []}, "selectors"),
        ({"selectors": ["random"], "budgets": ["ten"]}, "100000tok"),
        ({"selectors": ["random"], "targets": ["a/x.jsonl", "b/x.jsonl"]}, "different names"),
        ({"selectors": ["random"], "sedes": [1]}, "did you mean 'seeds'"),
        ({"selectors": [{"selector": "less", "rounds": 4}]}, "6 rows over 4 rounds"),
        ({"selectors": [{"selector": "all", "rounds": 2}]}, "a budget of its own"),
        ({"selectors": [{"selector": "less", "training": {"workers": 2}}]}, "section training"),
        ({"selectors": [{"selector": "less", "training": {"epoch": 2}}]}, "did you mean 'epochs'"),
        ({"selectors": [{"selector": "less", "rounds": 2, "training": {"weights": "full"}}]}, "refresh"),
        ({"selectors": [{"selector": "less", "features": {"max_tokens": 64}}]}, "one length of rows"),
        (
            {
                "selectors": [{"selector": "evoselect", "rounds": 2, "selection": {"max_share": 0.5}}],
                "budgets": ["1000tok"],
            },
            "with shares",
        ),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(build_comparison({**settings(tmp_path, tmp_path, tmp_path / "out"), **changes}))
    assert not (tmp_path / "out").exists()


def test_an_entrys_sections_are_merged_and_its_other_mappings_replaced(tmp_path: Path) -> None:
    own = {"selector": "evoselect", "features": {"warmup": {"epochs": 3}}, "selection": {"shares": {"b": [0, 1]}}}
    common = settings(tmp_path, tmp_path, tmp_path / "out", selectors=["random", own])
    common["selection"] |= {"shares": {"a": [0, 0.3]}, "options": {}}
    common["features"]["warmup"] = {"rows": 16, "threads": 1}
    common["selectors"][0] = {"selector": "less", "selection": {"shares": {}}}
    less, evoselect = entries_of(build_comparison(common))
    assert (evoselect.features.warmup.rows, evoselect.features.warmup.epochs) == (16, 3)
    assert evoselect.selection.shares == {"b": (0.0, 1.0)}
    assert less.selection.shares == {}
    assert less.features.warmup.epochs == FeatureConfig().warmup.epochs


def test_paths_of_a_comparison_are_taken_from_the_folder_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "comparison.yaml"
    path.write_text("pool: p.jsonl\ntargets: [t/a, t/b.jsonl, lm-eval:c@t]\nselectors: [random, less]\n")
    config = load_comparison(path, ["budgets=[0.5, 1000tok]"], out="o")
    assert config.pool == str(tmp_path / "p.jsonl")
    files = {"a": str(tmp_path / "t/a"), "b": str(tmp_path / "t/b.jsonl")}
    assert config.targets == {**files, "c": f"lm-eval:c@{tmp_path}/t"}
    assert [entry.shown for entry in config.selectors] == ["random", "less"]
    assert (config.budgets, config.out, config.seeds) == ((0.5, "1000tok"), "o", (0, 1, 2))


@pytest.mark.ray
@pytest.mark.slow
def test_features_of_a_target_do_not_depend_on_which_seeds_are_compared(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    """Else a seed by itself would be selected and trained again beside others."""
    task, storage = write_task(tmp_path / "task"), Storage(tmp_path / "out")
    site = Site(storage=storage, session=ray_session, events=Events(storage))
    found = {}
    for seeds in ([1], [0, 1], [2, 1]):
        config = build_comparison(settings(task, tiny_model_dir, tmp_path / "out", selectors=["less"], seeds=seeds))
        bench = Bench.of(config, site)
        (entry,) = bench.entries
        goal, ids = bench.goal(entry, "sums", 1)
        found[tuple(seeds)] = (ids, goal.align_MD.tobytes(), goal.validate_MD.tobytes())  # type: ignore[union-attr]
    assert found[1,] == found[0, 1] == found[2, 1]


@pytest.mark.ray
@pytest.mark.slow
def test_an_interrupted_comparison_waits_for_no_training(
    tmp_path: Path, tiny_model_dir: Path, mark: dict[str, str]
) -> None:
    """Of the two launches at a time neither would end on its own in an hour. By SIGTERM, as a cloud ends it."""
    task, out = write_task(tmp_path / "task"), tmp_path / "out"
    training = {"epochs": 100_000, "batch_size": 2, "micro_batch_tokens": 512, "workers": 1, "checkpoint_steps": None}
    config = settings(
        task, tiny_model_dir, out, selectors=["random"], budgets=[K, K + 2], parallel=2, launch=1, training=training,
        cluster={"workers": 2},
    )  # fmt: skip
    path = tmp_path / "comparison.yaml"
    path.write_text(yaml.safe_dump(config))
    job = Job(arguments=("compare", str(path)), environment=mark, output=tmp_path / "output.txt")
    process = job.start()
    log = out / "events.jsonl"
    while not log.exists() or log.read_text().count('"first step"') < 2:
        assert process.poll() is None, job.said()
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    # Ray may abort a process whose threads still ask it something while Python ends: all is said and kept by then.
    assert process.wait(300) in (signal.SIGTERM, -signal.SIGABRT), job.said()
    assert "interrupted; to go on from here: evoray compare" in job.said()
    assert list(out.glob("models/*/training.json")) == []
    assert ended(mark, 60.0), [one.cmdline() for one in alive(mark)]
