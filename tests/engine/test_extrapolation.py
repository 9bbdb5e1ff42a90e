"""Times of a run from those of its rehearsal, against sums made by hand."""

from __future__ import annotations

import pytest

from evoray.engine.extrapolation import Growth, Rehearsed, by_kind, on_a_line, seconds_of

GROWTH = Growth(read=100.0, featurise=50.0, train=4.0, evaluate={"validate": 2.0, "test": 10.0}, rounds=5, workers=2)


def test_work_grows_and_a_start_does_not() -> None:
    # 10 s of work over two workers are 5 s of the 8; the other 3 s are the start.
    stage = Rehearsed(name="featurise pool, align", seconds=8.0, worker_seconds=10.0, units=16)
    assert seconds_of(stage, GROWTH) == pytest.approx(3 + 10 * 50 / 2)


def test_one_unit_had_one_worker_and_many_have_both() -> None:
    stage = Rehearsed(name="read pool", seconds=5.0, worker_seconds=4.0, units=1)
    assert seconds_of(stage, GROWTH) == pytest.approx(1 + 4 * 100 / 2)


def test_a_training_has_its_ranks_to_itself() -> None:
    stage = Rehearsed(name="train round 1", seconds=30.0, worker_seconds=10.0)
    assert seconds_of(stage, GROWTH) == pytest.approx(20 + 10 * 4)


@pytest.mark.parametrize(("split", "growth"), [("validate", 2.0), ("test", 10.0), ("elsewhere", 1.0)])
def test_scoring_grows_with_its_split(split: str, growth: float) -> None:
    stage = Rehearsed(name=f"evaluate round 1 on {split}", seconds=4.0, worker_seconds=6.0, units=8)
    assert seconds_of(stage, GROWTH) == pytest.approx(1 + 6 * growth / 2)


def test_what_no_row_matters_for_stays_as_it_is() -> None:
    assert seconds_of(Rehearsed(name="warm up proxy", seconds=7.0), GROWTH) == pytest.approx(7.0)


def test_later_rounds_are_as_the_last_that_was_rehearsed_and_selections_are_left_out() -> None:
    stages = [
        Rehearsed(name="prepare model x", seconds=2.0),
        *(Rehearsed(name=f"align and select {n}", seconds=50.0, round=n) for n in (1, 2)),
        Rehearsed(name="train round 1", seconds=10.0, round=1, peak_mb=900.0),
        Rehearsed(name="train round 2", seconds=20.0, round=2, peak_mb=800.0),
        Rehearsed(name="something of yours", seconds=1.0),
    ]
    found = by_kind(stages, GROWTH)
    assert found == {"prepare models": (2.0, None), "train": (10 + 4 * 20, 900.0), "other": (1.0, None)}


def test_a_run_of_one_round_has_no_later_ones() -> None:
    growth = Growth(read=1, featurise=1, train=1, evaluate={}, rounds=1, workers=2)
    found = by_kind([Rehearsed(name="train round 1", seconds=10.0, round=1)], growth)
    assert found == {"train": (10.0, None)}


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(10, 3.0)], 3.0),
        ([(10, 3.0), (20, 5.0)], 1 + 0.2 * 100),
        ([(10, 5.0), (20, 3.0)], 4.0),  # noise: more rows do not cost less
    ],
)
def test_a_line_through_what_was_measured(points: list[tuple[float, float]], expected: float) -> None:
    assert on_a_line(points, 100) == pytest.approx(expected)


def test_an_event_of_the_log_is_taken_as_it_is() -> None:
    event = {"event": "stage", "stage": "read pool", "seconds": 1.5, "units": 3, "worker_seconds": 2.0, "rows": 9}
    assert Rehearsed.of(event) == Rehearsed(name="read pool", seconds=1.5, units=3, worker_seconds=2.0)
