"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch

from evoray.config import ClusterConfig
from evoray.config_file import load_config
from evoray.engine.session import Session, session
from evoray.pipeline import RunResult, run
from tests.commands import Command
from tests.file_watch import Opened
from tests.processes import marked
from tests.tiny import build_tiny_model
from tests.tiny_run import write_flawed_task, write_run_config
from tests.tiny_task import write_task

torch.set_num_threads(1)
# A machine that is busy with other things is no fault of what is tested.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


#: Costly fixtures that several files share.
_SHARED = {"finished_run", "cluster"}


@pytest.hookimpl(tryfirst=True)  # the distribution over processes reads the marks at its own turn
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of two test processes one gets all tests with the shared fixtures, and either gets whole files of the others."""
    for item in items:
        shared = _SHARED.intersection(getattr(item, "fixturenames", ()))
        item.add_marker(pytest.mark.xdist_group("shared" if shared else str(item.path)))


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama and its byte-level tokenizer, built once."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Session]:
    """One embedded Ray for all tests of this process: sessions that they open use it."""
    with session(ClusterConfig(workers=2)) as opened:
        yield opened


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run that was never interrupted."""

    task: Path  # folder of pool.jsonl and target/
    config: Path
    out: Path
    result: RunResult
    test_opened: list[float]  # times at which the file of test rows was opened


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, ray_session: Session) -> FinishedRun:
    """Two rounds on tiny data, made once."""
    task = write_flawed_task(tmp_path_factory.mktemp("task"))
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    config = write_run_config(task, tiny_model_dir, out)
    with Opened(task / "target" / "test.jsonl") as opened:
        result = run(load_config(config))
    return FinishedRun(task=task, config=config, out=out, result=result, test_opened=opened.times)


@pytest.fixture
def evoray(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], ray_session: Session) -> Command:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Command(monkeypatch, capfd)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write_task(tmp_path / "task")


@pytest.fixture
def config(task: Path, tiny_model_dir: Path, tmp_path: Path) -> Path:
    return write_run_config(task, tiny_model_dir, tmp_path / "run")


@pytest.fixture
def mark() -> Iterator[dict[str, str]]:
    """Environment of processes that are ended with the test, whatever they started."""
    with marked() as environment:
        yield environment
