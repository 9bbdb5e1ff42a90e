"""Submitted runs without a cluster: how attempts are numbered, and which endings lead to another one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from evoray.engine.lock import ENDED, LOST, SUBMISSION
from evoray.errors import ConfigError, LockError, StageError
from evoray.submission_attempts import NAME, OUT, Ending, Job, Submission, ending_of, next_id, pause_after
from evoray.submission_client import RayCluster
from evoray.submission_package import CONFIG
from tests.processes import free_ports

KEY = "sk-canary-of-this-test"
SHARED = "/shared/runs/first"


def ended(status: str = "FAILED", exit_code: int | None = None, error: str | None = None) -> Job:
    return Job(id="evoray-first-1", status=status, exit_code=exit_code, error=error, name="n", out=SHARED)


@pytest.mark.parametrize(
    ("known", "number"),
    [
        ([], 1),
        (["evoray-first-1", "evoray-first-3", "evoray-first-two", "evoray-other-7", "raysubmit_x"], 4),
        (["evoray-first-more-9"], 1),
    ],
)
def test_an_attempt_has_the_first_number_after_all_that_are_known(known: list[str], number: int) -> None:
    assert next_id(SHARED, known) == f"evoray-first-{number}"


@pytest.mark.parametrize(
    ("out", "name"),
    [("s3://bucket/my runs/täsk 1/", "t-sk-1"), ("s3://bucket", "bucket"), ("/", "run"), ("/a/..", "run")],
)
def test_an_id_is_made_of_plain_characters(out: str, name: str) -> None:
    assert next_id(out, []) == f"evoray-{name}-1"


@pytest.mark.parametrize(
    ("job", "ending"),
    [
        (ended("SUCCEEDED", 0), Ending.DONE),
        (ended("STOPPED"), Ending.STOPPED),
        (ended(exit_code=2, error="JOB_ENTRYPOINT_COMMAND_ERROR"), Ending.WRONG_INPUT),
        (ended(exit_code=1, error="JOB_ENTRYPOINT_COMMAND_ERROR"), Ending.FAILED),
        (ended(exit_code=127, error="JOB_ENTRYPOINT_COMMAND_ERROR"), Ending.FAILED),
        (ended(exit_code=137, error="JOB_ENTRYPOINT_COMMAND_ERROR"), Ending.DIED),
        (ended(exit_code=-9, error="JOB_ENTRYPOINT_COMMAND_ERROR"), Ending.DIED),
        (ended(error="JOB_SUPERVISOR_ACTOR_DIED"), Ending.VANISHED),
        (ended(error="JOB_SUPERVISOR_ACTOR_START_TIMEOUT"), Ending.VANISHED),
        (ended(error="RUNTIME_ENV_SETUP_FAILURE"), Ending.FAILED),
        (None, Ending.VANISHED),
    ],
)
def test_how_an_attempt_ended_is_told_by_what_ray_knows(job: Job | None, ending: Ending) -> None:
    assert ending_of(job) is ending


def test_what_was_lost_is_tried_again_after_growing_waits_and_what_ended_by_itself_is_not() -> None:
    assert [pause_after(Ending.DIED, attempts) for attempts in (1, 2, 3, 9)] == [15, 30, 60, 600]
    assert pause_after(Ending.VANISHED, 1) == 60
    others = (Ending.DONE, Ending.STOPPED, Ending.WRONG_INPUT, Ending.FAILED)
    assert [pause_after(ending, 1) for ending in others] == [None] * 4


@dataclass
class FakeCluster:
    """A cluster on which each attempt ends as it is told, or that is away."""

    endings: Sequence[Any]  # a Job, None (the cluster forgot it), or "running"
    address: str = "http://head:8265"
    known: list[Job] = field(default_factory=list)
    away: int = 0  # answers that do not come
    submitted: list[tuple[str, Mapping[str, Any], Mapping[str, str]]] = field(default_factory=list)
    log: Callable[[], Iterator[str]] = lambda: iter(("some output\n",))

    def jobs(self) -> list[Job]:
        self._answer()
        return self.known

    def look(self, job_id: str) -> Job | None:
        self._answer()
        ending = self.endings[len(self.submitted) - 1]
        if ending == "running":
            raise KeyboardInterrupt
        if ending is None:
            self.known.clear()
            return None
        job = replace(ending, id=job_id, name=self.submitted[-1][2][NAME])
        self.known[-1] = job
        return job

    def submit(self, job_id: str, command: str, environment: Mapping[str, Any], about: Mapping[str, str]) -> None:
        assert command == f"python -m evoray.driver run {CONFIG}"
        self.submitted.append((job_id, environment, about))
        self.known.append(replace(ended("RUNNING"), id=job_id, name=about[NAME]))

    def read_log(self, job_id: str, write: Callable[[str], None]) -> None:
        for chunk in self.log():
            write(chunk)

    def _answer(self) -> None:
        if self.away:
            self.away -= 1
            raise ConnectionError("refused")

    def told(self, attempt: int) -> dict[str, str]:
        """Environment variables of an attempt."""
        variables: dict[str, str] = self.submitted[attempt][1]["env_vars"]
        return variables


@dataclass
class Run:
    """A submission to a fake cluster, and what it said and waited."""

    cluster: FakeCluster
    retries: int = 3
    said: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    def go(self, follow: bool = True) -> Run:
        Submission(
            cluster=self.cluster, folder=Path("/package"), out=SHARED, keys={"ENDPOINT_KEY": KEY}, retries=self.retries,
            again="evoray submit config.yaml", tell=self.said.append, write=self.output.append,
            sleep=self.waited.append, shown={"EVORAY_QUIET": "1"},
        ).run(follow)  # fmt: skip
        return self


DONE, KILLED = ended("SUCCEEDED", 0), ended(exit_code=137)


def test_a_run_whose_driver_was_killed_is_submitted_again_with_the_next_number() -> None:
    run = Run(FakeCluster([KILLED, DONE])).go()
    first, second = run.cluster.submitted
    assert [first[0], second[0]] == ["evoray-first-1", "evoray-first-2"]
    assert first[2][OUT] == second[2][OUT] == SHARED
    assert first[2][NAME] != second[2][NAME]
    assert run.waited == [15.0]
    assert "evoray-first-2 is done" in run.said[-1]
    assert run.output == ["some output\n"] * 2
    assert run.cluster.told(1)["EVORAY_COMMAND"] == "evoray submit config.yaml"


def test_the_next_attempt_is_told_that_ray_called_the_earlier_ones_ended() -> None:
    before = replace(ended("FAILED", 1), id="evoray-first-1", name="of yesterday")
    elsewhere = replace(before, id="evoray-other-1", name="of another run", out="/shared/other")
    run = Run(FakeCluster([KILLED, DONE], known=[before, elsewhere])).go()
    names = [about[NAME] for _, _, about in run.cluster.submitted]
    assert (run.cluster.told(0)[SUBMISSION], run.cluster.told(0)[ENDED]) == (names[0], "of yesterday")
    assert set(run.cluster.told(1)[ENDED].split(",")) == {"of yesterday", names[0]}
    assert run.cluster.told(1)[LOST] == ""


def test_an_attempt_that_its_cluster_forgot_is_called_lost_and_not_ended() -> None:
    run = Run(FakeCluster([None, DONE])).go()
    first = run.cluster.submitted[0][2][NAME]
    assert (run.cluster.told(1)[LOST], run.cluster.told(1)[ENDED]) == (first, "")
    assert run.waited == [60.0]
    assert [job_id for job_id, *_ in run.cluster.submitted] == ["evoray-first-1"] * 2, "a new cluster counts from 1"


def test_a_cluster_that_is_away_for_a_while_costs_no_attempt() -> None:
    run = Run(FakeCluster([DONE], away=3), retries=0).go()
    assert len(run.cluster.submitted) == 1
    assert run.waited == [10.0] * 3
    assert any("does not answer" in line for line in run.said)
    assert any("answers again" in line for line in run.said)


def test_a_cluster_that_stays_away_is_given_up() -> None:
    with pytest.raises(StageError, match="did not answer for 30 minutes"):
        Run(FakeCluster([DONE], away=10_000)).go()


def test_retries_are_bounded() -> None:
    run = Run(FakeCluster([KILLED] * 9), retries=2)
    with pytest.raises(StageError, match="evoray-first-3 lost its driver, which was killed"):
        run.go()
    assert run.waited == [15.0, 30.0]


@pytest.mark.parametrize(
    ("job", "kind", "code"),
    [(ended(exit_code=2), ConfigError, 2), (ended(exit_code=1), StageError, 1), (ended("STOPPED"), StageError, 1)],
)
def test_a_run_that_ended_by_itself_or_was_stopped_is_left_alone(job: Job, kind: type[StageError], code: int) -> None:
    run = Run(FakeCluster([job]))
    with pytest.raises(kind, match="ray job logs --address http://head:8265 evoray-first-1") as caught:
        run.go()
    assert caught.value.exit_code == code
    assert (len(run.cluster.submitted), run.waited) == (1, [])


def test_a_run_that_another_job_drives_is_not_submitted() -> None:
    cluster = FakeCluster([DONE], known=[ended("RUNNING")])
    with pytest.raises(LockError, match="driven by evoray-first-1, which is running"):
        Run(cluster).go()
    assert cluster.submitted == []


def test_a_submission_whose_answer_was_lost_is_found_again() -> None:
    class Deaf(FakeCluster):
        def submit(self, *given: Any) -> None:
            super().submit(*given)
            raise ConnectionError("reset")

    run = Run(Deaf([DONE])).go()
    assert len(run.cluster.submitted) == 1
    assert "evoray-first-1 is done" in run.said[-1]


def test_ctrl_c_leaves_the_job_there_and_says_how_to_follow_stop_and_resume() -> None:
    run = Run(FakeCluster(["running"])).go()
    assert run.said[1:] == [
        "detached; evoray-first-1 goes on",
        "follow: ray job logs --follow --address http://head:8265 evoray-first-1",
        "stop:   ray job stop --address http://head:8265 evoray-first-1",
        "resume: evoray submit config.yaml",
    ]


def test_without_following_a_job_is_submitted_and_left() -> None:
    run = Run(FakeCluster(["running"])).go(follow=False)
    assert run.said[1].startswith("follow: ")
    assert run.output == []


def test_output_comes_once_however_often_the_connection_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evoray.submission_attempts._ASK_AGAIN_S", 0.0)
    logs = iter([["one ", "two ", None], ["one two ", "three", None], ["one ", "two three ", "four"]])

    def log() -> Iterator[str]:
        for chunk in next(logs):
            if chunk is None:
                raise ConnectionError("broke")
            yield chunk

    written: list[str] = []
    Submission(
        cluster=FakeCluster([], log=log), folder=Path(), out=SHARED, keys={}, retries=0, again="", tell=print,
        write=written.append,
    )._pass_on("evoray-first-1", threading.Event())  # fmt: skip
    assert "".join(written) == "one two three four"


def test_keys_and_how_much_is_shown_are_in_the_environment_of_the_job_and_keys_in_nothing_that_is_said() -> None:
    run = Run(FakeCluster([KILLED, ended(exit_code=2)]))
    with pytest.raises(ConfigError) as caught:
        run.go()
    assert run.cluster.told(0)["ENDPOINT_KEY"] == KEY
    assert run.cluster.told(0)["EVORAY_QUIET"] == "1"
    assert KEY not in f"{run.said} {run.output} {caught.value} {run.cluster.submitted[0][2]}"
    kept = Submission(
        cluster=FakeCluster([]), folder=Path(), out="", keys={"K": KEY}, retries=0, again="", tell=print, write=print
    )
    assert KEY not in repr(kept)


@pytest.mark.parametrize(
    "address", ["head:8265", "auto", "http://", "http://user:secret@head:8265", "ray://head:10001"]
)
def test_an_address_that_is_none_of_the_jobs_api_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="http://HEAD:8265"):
        RayCluster(address)


def test_an_address_where_nobody_answers_is_refused_whatever_ray_s_variables_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match=f"--address http://127.0.0.1:{port}: Failed to connect"):
        RayCluster(f"http://127.0.0.1:{port}")
