from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evoray.engine import curves
from evoray.engine.curves import read_series, training_curves
from evoray.engine.trackers import TENSORBOARD, tracking
from evoray.storage import Storage


def train(storage: Storage, job: str, steps: range, before: int = 0, **measured: Any) -> None:
    """What the trackers write of a training that goes on from step `before`."""
    with tracking(storage, {job: before}) as track:
        for step in steps:
            track.scalars(job, step, {"loss": 10.0 - step, "learning_rate": 0.1})
            if measured and step % 2 == 0:
                track.scalars(job, step, measured)
        assert track.problems == []


def test_what_was_measured_is_read_back(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    train(storage, "round 1", range(1, 5), validate_loss=3.25)
    assert read_series(storage, "round 1") == {
        "loss": ((1, 2, 3, 4), (9.0, 8.0, 7.0, 6.0)),
        "validate_loss": ((2, 4), (3.25, 3.25)),
    }
    assert read_series(storage, "round 2") == {}


def test_what_came_after_the_checkpoint_that_a_training_went_on_from_is_void(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    train(storage, "round 1", range(1, 9))
    train(storage, "round 1", range(5, 7), before=4)
    assert read_series(storage, "round 1")["loss"] == ((1, 2, 3, 4, 5, 6), (9.0, 8.0, 7.0, 6.0, 5.0, 4.0))


def test_a_file_that_was_cut_short_gives_what_is_whole(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    train(storage, "round 1", range(1, 4))
    (path,) = (tmp_path / TENSORBOARD / "round-1").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert read_series(storage, "round 1")["loss"][0] == (1, 2, 3)
    path.write_bytes(whole[: len(whole) // 2])
    assert len(read_series(storage, "round 1").get("loss", ((), ()))[0]) < 3
    path.write_bytes(whole[:-40] + b"\xff" * 40)
    read_series(storage, "round 1")
    path.write_bytes(b"no records at all, and long enough for a length")
    assert read_series(storage, "round 1") == {}


def test_a_long_curve_is_thinned_and_keeps_its_ends(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    train(storage, "round 1", range(1, 1001))
    steps, values = read_series(storage, "round 1")["loss"]
    assert (steps[0], steps[-1], len(steps)) == (1, 1000, curves._POINTS)
    assert list(steps) == sorted(set(steps))
    assert values[-1] == -990.0


def test_trainings_of_a_round_are_named_by_what_became_of_them(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for job in ("round 1", "random 1", "choice 0 of round 2", "choice 1 of round 2", "choice 10 of round 2"):
        train(storage, job, range(1, 3))
    storage.write("rounds/0001/aligned.json", b"{}")
    trials = {"kept": 1, "tried": [{}, {}]}
    storage.write("rounds/0002/aligned.json", json.dumps({"trials": trials}).encode())
    found = [(one.name, one.round, one.kind) for n in (1, 2) for one in training_curves(storage, n)]
    assert found == [
        ("round 1", 1, "chosen"),
        ("random 1", 1, "random"),
        ("round 2, choice 0", 2, "tried"),
        ("round 2", 2, "chosen"),
    ]
