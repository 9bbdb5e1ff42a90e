"""Trainings are spread over launches so that none of those that run side by side is left alone for long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evoray.engine.cell_models import launches


@given(jobs=st.integers(1, 200), size=st.integers(1, 12), parallel=st.integers(1, 6))
def test_every_job_is_in_one_launch_and_all_launches_have_work(jobs: int, size: int, parallel: int) -> None:
    found = launches(range(jobs), size, parallel)
    assert sorted(job for launch in found for job in launch) == list(range(jobs))
    lengths = {len(launch) for launch in found}
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert len(found) % parallel == 0 or len(found) == jobs


def test_twelve_jobs_of_which_eight_fit_into_a_launch_are_six_on_each_side() -> None:
    assert [len(launch) for launch in launches(range(12), 8, 2)] == [6, 6]
    assert [len(launch) for launch in launches(range(3), 8, 1)] == [3]
