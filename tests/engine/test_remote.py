"""Work in a process of its own: a lost process is made up for, and its own errors come back as they are."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from evoray.engine.remote import in_process
from evoray.engine.session import Session
from evoray.errors import ModelError, StageError

pytestmark = pytest.mark.ray


def dies(folder: Path, times: int) -> int:
    """Ends its process so many times, as the kernel does where memory is short; then its number of tries."""
    tries = len(list(folder.iterdir()))
    (folder / str(tries)).touch()
    if tries < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return tries + 1


def refuses() -> None:
    raise ModelError("a model", "another", "name it")


def test_a_lost_process_is_made_up_for(ray_session: Session, tmp_path: Path) -> None:
    assert in_process(dies, tmp_path, 2) == 3


def test_processes_that_are_lost_again_and_again_end_the_stage(ray_session: Session, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="3 processes in a row that were lost"):
        in_process(dies, tmp_path, 9)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_error_of_the_work_is_raised_as_it_is_and_not_tried_again(ray_session: Session) -> None:
    with pytest.raises(ModelError, match="name it"):
        in_process(refuses)
