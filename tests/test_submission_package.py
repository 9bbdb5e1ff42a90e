"""What travels with a submitted run, and places that a job cannot leave results in."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from evoray.cli import main
from evoray.config_file import load_config
from evoray.errors import ConfigError
from evoray.submission_package import CONFIG, Package, keys_of
from tests.commands import Answer, assert_refusal

SHARED = "/shared/runs/first"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a config, its data, and much that has no part in the run."""
    place = tmp_path / "mine"
    for name in (
        *("pool/a.jsonl", "pool/b.jsonl", "pool/b.txt", "task/dev.jsonl", "task/.cache/x", "other/big.bin"),
        *("model/config.json", "ranked.py", "helpers/__init__.py", "helpers/deep.py", "unused.py", ".env"),
        "helpers/__pycache__/deep.pyc",
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("")
    (tmp_path / "beyond.jsonl").write_text("")
    (place / "ranked.py").write_text("import json\nfrom evoray import Selector\nfrom helpers.deep import x\n")
    (place / "helpers/deep.py").write_text("from . import y\nimport numpy\n")
    return place


def write(folder: Path, **settings: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"pool": "pool/*.jsonl", "target": "task", "out": SHARED, **settings}))
    return path


def test_the_config_the_files_that_it_names_and_modules_of_the_user_travel(folder: Path) -> None:
    own = {"selector": "ranked:Longest"}
    config = write(folder, pool=["pool/*.jsonl", "../beyond.jsonl", "s3://b/c"], model="model", selection=own)
    package = Package.of(config, ["rounds=3"], folder)
    assert set(package.files) == {
        *("pool/a.jsonl", "pool/b.jsonl", "up/beyond.jsonl", "task/dev.jsonl", "model/config.json"),
        *("ranked.py", "helpers/__init__.py", "helpers/deep.py"),
    }
    settings = package.settings
    assert settings["pool"] == ["pool/*.jsonl", "up/beyond.jsonl", "s3://b/c"]
    assert (settings["target"], settings["model"], settings["rounds"]) == ("task", "model", 3)


def test_what_is_no_file_stays_behind_and_what_cannot_be_read_is_said(folder: Path, tmp_path: Path) -> None:
    (folder / "task" / "gone").symlink_to(tmp_path / "nowhere")
    (folder / "task" / "round").symlink_to(folder / "task")
    (folder / "pool" / "pipe.jsonl").mkdir()
    os.mkfifo(folder / "task" / "pipe")
    package = Package.of(write(folder), [], folder)
    assert set(package.files) == {"pool/a.jsonl", "pool/b.jsonl", "task/dev.jsonl"}
    (folder / "task" / "dev.jsonl").unlink()  # as one that another user may read
    with pytest.raises(ConfigError, match=r"task/dev.jsonl: No such file"):
        package.write(tmp_path)


def test_a_package_is_read_on_the_cluster_as_the_config_was_here(folder: Path, tmp_path: Path) -> None:
    package = Package.of(write(folder, model="model"), [], folder)
    place = tmp_path / "unpacked"
    place.mkdir()
    package.write(place)
    config = load_config(place / CONFIG)
    assert (config.pool, config.target) == (f"{place}/pool/*.jsonl", f"{place}/task")
    assert config.model == str(place / "model")
    assert sorted(path.name for path in place.glob("pool/*")) == ["a.jsonl", "b.jsonl"]


def test_paths_of_set_start_from_the_current_folder_and_do_not_mix_with_those_of_the_config(
    folder: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    (here / "task").mkdir(parents=True)
    (here / "task" / "dev.jsonl").write_text("another")
    (here / "adapter").mkdir()
    (here / "adapter" / "adapter_config.json").write_text("{}")
    package = Package.of(write(folder), ["target=task", "features.adapter=adapter"], here)
    assert package.settings["target"] == "here/task"
    assert package.settings["features"]["adapter"] == "here/adapter"
    assert package.files["here/task/dev.jsonl"] == here / "task" / "dev.jsonl"
    assert "task/dev.jsonl" not in package.files


def test_names_on_the_hub_and_what_the_cluster_has_to_reach_do_not_travel(folder: Path) -> None:
    names = {"model": "org/model", "features": {"model": "smollm2"}, "evaluation": {"scorer": "numpy:mean"}}
    package = Package.of(write(folder, pool="/data/pool", target="s3://b/task", **names), [], folder)
    assert package.files == {}


def test_of_a_task_of_the_harness_its_folder_travels(folder: Path) -> None:
    package = Package.of(write(folder, pool="/data/pool", target="lm-eval:arc"), [], folder)
    assert (package.settings["target"], package.files) == ("lm-eval:arc", {})
    package = Package.of(write(folder, pool="/data/pool", target="lm-eval:mine@task"), [], folder)
    assert package.settings["target"] == "lm-eval:mine@task"
    assert set(package.files) == {"task/dev.jsonl"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pool": "pool/*.parquet"}, "pool = 'pool/\\*.parquet', which is not in"),
        ({"target": "tsk"}, "target = 'tsk', which is not in"),
        ({"pool": ["up/beyond.jsonl", "../beyond.jsonl"]}, "both called up/beyond.jsonl on the cluster"),
    ],
)
def test_files_that_cannot_travel_are_refused(settings: dict[str, Any], said: str, folder: Path) -> None:
    (folder / "up").mkdir()
    (folder / "up" / "beyond.jsonl").write_text("")
    with pytest.raises(ConfigError, match=said):
        Package.of(write(folder, **settings), [], folder)


def test_what_is_too_large_to_travel_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evoray.submission_package._LARGEST", 10)
    (folder / "pool" / "a.jsonl").write_text("x" * 11)
    with pytest.raises(ConfigError, match="put them on storage that every node reaches"):
        Package.of(write(folder), [], folder)


def test_keys_are_those_that_the_config_names_and_that_are_set(folder: Path) -> None:
    there = {"source": "endpoint", "url": "http://127.0.0.1:1/v1", "model": "writer"}
    environment = {"ENDPOINT_KEY": "secret", "HF_TOKEN": "another"}
    named = load_config(write(folder, generation={**there, "key_env": "ENDPOINT_KEY"}))
    assert keys_of(named, environment) == {"ENDPOINT_KEY": "secret"}
    assert keys_of(named, {"HF_TOKEN": "another"}) == {}
    assert keys_of(load_config(write(folder)), environment) == {}


@pytest.mark.parametrize(
    "arguments", [["--out", "results"], ["--set", "out=results"], ["--set", "store=features"]], ids=" ".join
)
def test_a_place_that_workers_would_not_share_is_refused(
    arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evoray", "submit", str(write(folder)), *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capsys.readouterr()
    assert_refusal(Answer(code=int(stopped.value.code or 0), out=shown.out, err=shown.err))
    assert "an absolute path on storage that every node reaches" in shown.err
