"""Only whole checkpoints of the same training exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from evoray.storage import Storage
from evoray.training.checkpoints import Checkpoints, Progress


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    found = Checkpoints(storage=Storage(tmp_path / "run"), prefix="checkpoints/adapter", identity="mine")
    for step in (3, 6):
        save(found, tmp_path / f"files-{step}", step)
    return found


def save(checkpoints: Checkpoints, files: Path, step: int) -> None:
    files.mkdir()
    (files / "adapter_model.safetensors").write_bytes(b"weights" * step)
    (files / "adapter_config.json").write_bytes(b"{}")
    checkpoints.save(files, Progress(step=step, first_loss=2.0, last_loss=1.0 / step, tokens=10 * step))


def at(checkpoints: Checkpoints, below: int | None = None) -> int | None:
    found = checkpoints.latest(below)
    return None if found is None else found.step


def test_the_newest_is_found_with_its_progress_and_files(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest() == Progress(step=6, first_loss=2.0, last_loss=1.0 / 6, tokens=60)
    assert checkpoints.folder(6).read("adapter_model.safetensors") == b"weights" * 6
    assert at(checkpoints, below=6) == 3


def test_one_without_its_record_does_not_exist(checkpoints: Checkpoints) -> None:
    checkpoints.storage.delete("checkpoints/adapter/step-000006.json")
    assert at(checkpoints) == 3


@pytest.mark.parametrize("harm", ["cut short", "gone", "changed"])
def test_one_with_a_damaged_file_does_not_exist(checkpoints: Checkpoints, harm: str) -> None:
    key = "checkpoints/adapter/step-000006/adapter_model.safetensors"
    whole = checkpoints.storage.read(key)
    checkpoints.storage.delete(key)
    if harm != "gone":
        checkpoints.storage.write(key, whole[:-1] if harm == "cut short" else b"W" + whole[1:])
    assert at(checkpoints) == 3


def test_those_of_another_training_are_not_seen(checkpoints: Checkpoints) -> None:
    other = Checkpoints(storage=checkpoints.storage, prefix=checkpoints.prefix, identity="another")
    assert at(other) is None


def test_those_that_are_not_kept_leave_no_file(checkpoints: Checkpoints) -> None:
    checkpoints.keep({6})
    assert at(checkpoints, below=6) is None
    assert at(checkpoints) == 6
    checkpoints.keep(set())
    assert list(checkpoints.storage.keys("checkpoints")) == []
