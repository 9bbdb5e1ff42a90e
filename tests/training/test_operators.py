"""Operators are loaded whatever a killed process left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from evoray.models.cache import operators_dir
from evoray.training import operators

LOAD = "from evoray.training.operators import load_operators; load_operators(); print('loaded')"


@pytest.fixture
def root() -> Path:
    """The compiled operators of this machine: one that is there already is loaded in a second."""
    return operators_dir()


def load(root: Path, text: str = LOAD) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(root), "DS_ACCELERATOR": "cpu"}
    return subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_the_guard_of_a_killed_process_is_not_waited_for(root: Path) -> None:
    assert load(root).stdout.endswith("loaded\n")
    (folder,) = root.glob("*shm_comm*")
    (folder / "lock").touch()
    done = load(root)
    assert done.stdout.endswith("loaded\n"), done.stderr
    assert not (folder / "lock").exists()


def test_who_loads_is_waited_for_and_who_was_killed_is_not(tmp_path: Path) -> None:
    """The lock is the kernel's: it ends with its process."""
    holding = (
        f"import time; from filelock import FileLock; lock = FileLock({str(tmp_path / operators._LOCK)!r});"
        "lock.acquire(); print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", holding], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(Timeout):
            FileLock(tmp_path / operators._LOCK).acquire(timeout=0.2)
    finally:
        process.kill()
        process.wait()
    with FileLock(tmp_path / operators._LOCK).acquire(timeout=10):
        pass
