"""Times of a run from those of its rehearsal, against sums made by hand."""

from __future__ import annotations

import pytest

from evoray.engine.extrapolation import (
    Growth,
    Probe,
    Rehearsed,
    by_kind,
    seconds_of,
    selection_peak_mb,
    selection_seconds,
)

GROWTH = Growth(
    read=100.0, warm_up=1.0, featurise=50.0, train=4.0, evaluate={"validate": 2.0, "test": 10.0}, tested=3.0,
    rounds=5, workers=2,
)  # fmt: skip


def test_work_grows_and_a_start_does_not() -> None:
    # 10 s of work and 2 s of loading models over two workers are 6 s of the 8; the other 2 s are the start.
    stage = Rehearsed(name="featurise pool, align", seconds=8.0, worker_seconds=10.0, load_seconds=2.0, units=16)
    assert seconds_of(stage, GROWTH) == pytest.approx(2 + 1 + 10 * 50 / 2)


def test_one_unit_had_one_worker_and_many_have_both() -> None:
    stage = Rehearsed(name="read pool", seconds=5.0, worker_seconds=4.0, units=1)
    assert seconds_of(stage, GROWTH) == pytest.approx(1 + 4 * 100 / 2)


def test_units_that_stay_few_have_few_workers() -> None:
    many = Growth(**{**vars(GROWTH), "workers": 64})
    stage = Rehearsed(name="evaluate round 1 on validate", seconds=5.0, worker_seconds=4.0, units=1)
    assert seconds_of(stage, many) == pytest.approx(1 + 4 * 2 / 2)


def test_units_of_the_run_are_larger_than_those_of_a_rehearsal_for_many_workers() -> None:
    many = Growth(**{**vars(GROWTH), "workers": 64, "unit": 4 / 64})
    stage = Rehearsed(name="read pool", seconds=5.0, worker_seconds=16.0, units=16)
    # 16 units of 4 rows, a hundred times as many rows: 100 units of 64 rows for 64 workers.
    assert seconds_of(stage, many) == pytest.approx(4 + 16 * 100 / 64)
    few = Growth(**{**vars(many), "read": 8.0})
    assert seconds_of(stage, few) == pytest.approx(4 + 16 * 8 / 8), "and eight units for eight of them"


def test_files_of_the_pool_are_read_beside_what_a_rehearsal_reads() -> None:
    files = Growth(**{**vars(GROWTH), "files": 30.0})
    assert seconds_of(Rehearsed(name="read pool", seconds=5.0, worker_seconds=4.0, units=1), files) == pytest.approx(
        1 + 4 * 100 / 2 + 30
    )
    other = Rehearsed(name="featurise pool", seconds=5.0, worker_seconds=4.0, units=1)
    assert seconds_of(other, files) == seconds_of(other, GROWTH)


def test_a_training_has_its_ranks_to_itself() -> None:
    stage = Rehearsed(name="train round 1", seconds=30.0, worker_seconds=10.0)
    assert seconds_of(stage, GROWTH) == pytest.approx(20 + 10 * 4)


def test_a_warm_up_is_one_process_that_says_nothing_of_its_start() -> None:
    warmed = Growth(**{**vars(GROWTH), "warm_up": 3.0})
    assert seconds_of(Rehearsed(name="warm up proxy", seconds=7.0), warmed) == pytest.approx(21.0)


@pytest.mark.parametrize(("split", "growth"), [("validate", 2.0), ("elsewhere", 1.0)])
def test_scoring_grows_with_its_split(split: str, growth: float) -> None:
    stage = Rehearsed(name=f"evaluate round 1 on {split}", seconds=4.0, worker_seconds=6.0, units=8)
    assert seconds_of(stage, GROWTH) == pytest.approx(1 + 6 * growth / 2)


def test_models_of_all_rounds_are_loaded_and_scored_on_test_rows_at_once() -> None:
    # 3 s of work, 2 s of loading and 1 s of start of each worker; three times more models, on ten times more rows.
    stage = Rehearsed(name="evaluate 3 models on test", seconds=6.0, worker_seconds=6.0, load_seconds=4.0, units=8)
    assert seconds_of(stage, GROWTH) == pytest.approx(1 + 2 * 3 + 3 * 3 * 10)


def test_what_no_row_matters_for_stays_as_it_is() -> None:
    assert seconds_of(Rehearsed(name="prepare model x", seconds=7.0), GROWTH) == pytest.approx(7.0)


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


def test_from_the_base_each_round_trains_on_the_rows_of_all_before_it() -> None:
    cumulative = Growth(**{**vars(GROWTH), "cumulative": True, "train": 1.0})
    stages = [
        Rehearsed(name="train round 1", seconds=13.0, worker_seconds=10.0, round=1),
        Rehearsed(name="train round 2", seconds=23.0, worker_seconds=20.0, round=2),
    ]
    assert by_kind(stages, cumulative)["train"] == (5 * 3 + 10 + 20 + 30 + 40 + 50, None)


def test_a_run_of_one_round_has_no_later_ones() -> None:
    growth = Growth(**{**vars(GROWTH), "rounds": 1})
    found = by_kind([Rehearsed(name="train round 1", seconds=10.0, round=1)], growth)
    assert found == {"train": (10.0, None)}


def probes(seconds: dict[tuple[int, int], float]) -> list[Probe]:
    return [Probe(rows=rows, k=k, seconds=took, peak_mb=10 * took) for (rows, k), took in seconds.items()]


def test_a_selection_is_a_sum_of_terms_in_rows_and_picks() -> None:
    def law(rows: int, k: int) -> float:
        return 2 + 3e-3 * rows + 5e-2 * k + 7e-5 * rows * k

    measured = probes({(rows, k): law(rows, k) for rows in (512, 2048) for k in (16, 128)})
    assert selection_seconds(measured, 50_000, 1000) == pytest.approx(law(50_000, 1000))
    assert selection_peak_mb(measured, 50_000, 1000) == pytest.approx(10 * law(50_000, 1000))


def test_of_a_few_picks_only_rows_are_seen_to_matter() -> None:
    assert selection_seconds(probes({(512, 4): 2.0, (2048, 4): 5.0}), 8192, 4) == pytest.approx(17.0)


def test_noise_makes_no_selection_of_more_rows_cheaper() -> None:
    assert selection_seconds(probes({(512, 4): 3.0, (2048, 4): 2.0}), 10**6, 4) == pytest.approx(2.5)


def test_an_event_of_the_log_is_taken_as_it_is() -> None:
    event = {"event": "stage", "stage": "read pool", "seconds": 1.5, "units": 3, "worker_seconds": 2.0, "rows": 9}
    assert Rehearsed.of(event) == Rehearsed(name="read pool", seconds=1.5, units=3, worker_seconds=2.0)
