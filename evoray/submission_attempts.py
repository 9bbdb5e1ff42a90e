"""The attempts at a submitted run: each is followed, and where it was lost, the next goes on from where the run was.

Ray runs a job once. What ends a driver without its own doing (its process was killed, its node or the whole cluster
went) is therefore made good here: the next attempt has the next number, and is told which earlier ones are over, so
that it may take the run directory from them (see `engine.lock`). A run that ended by itself has said why, and is left
alone.
"""

from __future__ import annotations

import re
import shlex
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from evoray.engine.lock import ENDED, LOST, SUBMISSION
from evoray.errors import ConfigError, LockError, StageError
from evoray.program import COMMAND
from evoray.submission_package import CONFIG

#: What Ray keeps with a job: which submission it is, and the run directory that it works in.
NAME, OUT = "evoray_submission", "evoray_out"

_POLL_S = 2.0
_ASK_AGAIN_S = 10.0
_SILENCE_S = 1800.0  # so long a cluster may take to come back
_LOG_S = 10.0  # for the last lines of a job that is over
#: Waits before an attempt, doubled each time. What Ray lost sight of may take a minute to notice, and to end itself.
_AFTER_DEATH_S, _AFTER_LOSS_S, _LONGEST_S = 15.0, 60.0, 600.0

_WRONG_INPUT = 2  # the exit code of a run whose input is wrong
_SIGNALS = 128  # a shell adds the number of the signal that ended a process

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What Ray knows of a job."""

    id: str
    status: str  # PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED
    exit_code: int | None  # of its driver, where it ended by itself
    error: str | None  # the kind of failure, in Ray's words
    name: str | None  # of the submission, in any cluster
    out: str | None

    @property
    def over(self) -> bool:
        """Whether it ended, however."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class Cluster(Protocol):
    """The jobs of a cluster. All may raise ConnectionError where it does not answer now, and EvorayError."""

    address: str

    def jobs(self) -> list[Job]:
        """All that were submitted to it."""

    def look(self, job_id: str) -> Job | None:
        """One of them; None where the cluster knows none of this id."""

    def submit(self, job_id: str, command: str, environment: Mapping[str, Any], about: Mapping[str, str]) -> None:
        """Hand a job over, with its runtime environment."""

    def read_log(self, job_id: str, write: Callable[[str], None]) -> None:
        """Its output from the beginning, as it comes, until the job is over."""


class Ending(Enum):
    """How an attempt ended."""

    DONE = "is done"
    STOPPED = "was stopped"
    WRONG_INPUT = "refused its input"
    FAILED = "could not finish"
    DIED = "lost its driver, which was killed"
    VANISHED = "was lost: Ray lost sight of its driver"


def ending_of(job: Job | None) -> Ending:
    """What became of a job that is over; None: of one that its cluster does not know any more."""
    if job is None:
        return Ending.VANISHED
    if job.status in ("SUCCEEDED", "STOPPED"):
        return Ending.DONE if job.status == "SUCCEEDED" else Ending.STOPPED
    if job.exit_code is None:  # no driver ran to its end
        return Ending.FAILED if job.error == "RUNTIME_ENV_SETUP_FAILURE" else Ending.VANISHED
    if job.exit_code < 0 or job.exit_code > _SIGNALS:
        return Ending.DIED
    return Ending.WRONG_INPUT if job.exit_code == _WRONG_INPUT else Ending.FAILED


def pause_after(ending: Ending, attempts: int) -> float | None:
    """Seconds until the next attempt, after so many; None: another one would end as this one."""
    first = {Ending.DIED: _AFTER_DEATH_S, Ending.VANISHED: _AFTER_LOSS_S}.get(ending)
    return None if first is None else min(_LONGEST_S, first * 2 ** (attempts - 1))


def next_id(out: str, known: Iterable[str]) -> str:
    """`evoray-<last part of the run directory>-<number>`, the first number after all that are known."""
    last = out.rstrip("/").rpartition("/")[2]
    stem = f"evoray-{re.sub('[^A-Za-z0-9_.-]+', '-', last).strip('-.') or 'run'}-"
    numbers = [one.removeprefix(stem) for one in known if one.startswith(stem)]
    return f"{stem}{max((int(one) for one in numbers if one.isdigit()), default=0) + 1}"


@dataclass(kw_only=True)
class Submission:
    """One run on its way, over all its attempts."""

    cluster: Cluster
    folder: Path  # what travels
    out: str
    keys: Mapping[str, str] = field(repr=False)  # environment variables with secrets
    retries: int
    again: str  # the command that does all this once more
    tell: Callable[[str], None]  # a line for a person
    write: Callable[[str], None]  # output of the run
    shown: Mapping[str, str] = field(default_factory=dict)  # variables that say how much that is
    sleep: Callable[[float], None] = time.sleep
    ended: set[str] = field(default_factory=set)  # names of submissions that Ray calls ended
    lost: set[str] = field(default_factory=set)  # and of those that their cluster forgot
    _submitted: str | None = field(init=False, default=None)  # the attempt that is under way

    def run(self, follow: bool) -> None:
        """Submit, and with `follow` see it through. Ctrl-C leaves the job alone.

        Raises LockError where another job drives this run, ConfigError where the run refused its input, StageError
        where it could not finish or was lost more often than `retries` allow.
        """
        try:
            self._attempts(follow)
        except KeyboardInterrupt:
            self.tell("detached" + (f"; {self._submitted} goes on" if self._submitted else ""))
            self._say_how()

    def _attempts(self, follow: bool) -> None:
        attempts = 0
        while True:
            name = uuid.uuid4().hex
            job_id = self._submitted = self._patiently(partial(self._start, name))
            attempts += 1
            self.tell(f"submitted {job_id} to {self.cluster.address}: {self.out}")
            if not follow:
                self._say_how()
                return
            job = self._follow(job_id)
            self._submitted = None
            (self.lost if job is None else self.ended).add(name)
            ending = ending_of(job)
            pause = pause_after(ending, attempts)
            if pause is None or attempts > self.retries:
                self._end(job_id, ending)
                return
            left = self.retries - attempts + 1
            self.tell(f"{job_id} {ending.value}; it is submitted again in {pause:.0f} s (retries left: {left})")
            self.sleep(pause)

    def _start(self, name: str) -> str:
        """Submit one attempt; its id. An attempt whose answer was lost on the way is found again by its name."""
        known = self.cluster.jobs()
        mine = [job for job in known if job.out == self.out]
        for job in mine:
            if job.name == name:
                return job.id
            if not job.over:
                raise LockError(
                    f"{self.out} is driven by {job.id}, which is {job.status.lower()}",
                    "a run that no other job drives",
                    f"follow it: {self._ray('logs --follow', job.id)}; or stop it: {self._ray('stop', job.id)}; then"
                    " submit again",
                )
        self.ended |= {job.name for job in mine if job.name is not None}
        job_id = next_id(self.out, (job.id for job in known))
        command = shlex.join(["python", "-m", "evoray.driver", "run", CONFIG])
        self.cluster.submit(job_id, command, self.environment(name), {NAME: name, OUT: self.out})
        return job_id

    def environment(self, name: str) -> dict[str, Any]:
        """Ray's runtime environment of an attempt."""
        told = {SUBMISSION: name, ENDED: ",".join(sorted(self.ended)), LOST: ",".join(sorted(self.lost))}
        return {"working_dir": str(self.folder), "env_vars": {**self.shown, **self.keys, **told, COMMAND: self.again}}

    def _follow(self, job_id: str) -> Job | None:
        """Pass its output on until it is over; None where its cluster knows it no more."""
        over = threading.Event()
        reader = threading.Thread(target=self._pass_on, args=(job_id, over), daemon=True)
        reader.start()
        try:
            while True:
                job = self._patiently(lambda: self.cluster.look(job_id))
                if job is None or job.over:
                    return job
                self.sleep(_POLL_S)
        finally:
            over.set()
            reader.join(_LOG_S)

    def _pass_on(self, job_id: str, over: threading.Event) -> None:
        """Output of a job, each part once, however often the connection breaks."""
        written = 0
        while not over.is_set():
            seen = 0

            def write(chunk: str) -> None:
                nonlocal seen, written
                fresh = chunk[max(0, written - seen) :]
                seen += len(chunk)
                if fresh:
                    written += len(fresh)
                    self.write(fresh)

            try:
                self.cluster.read_log(job_id, write)
                return
            except ConnectionError:
                over.wait(_ASK_AGAIN_S)

    def _patiently(self, ask: Callable[[], Result]) -> Result:
        """An answer of a cluster that may be away for a while. Raises StageError where it stays away."""
        silent = 0.0
        while True:
            try:
                found = ask()
            except ConnectionError as error:
                if not silent:
                    self.tell(f"{self.cluster.address} does not answer; it is asked again for half an hour")
                if silent >= _SILENCE_S:
                    raise StageError(
                        f"{self.cluster.address} did not answer for {_SILENCE_S / 60:.0f} minutes",
                        "a cluster that comes back",
                        "start it again; the run goes on where it was when it is submitted again",
                    ) from error
                self.sleep(_ASK_AGAIN_S)
                silent += _ASK_AGAIN_S
            else:
                if silent:
                    self.tell(f"{self.cluster.address} answers again")
                return found

    def _end(self, job_id: str, ending: Ending) -> None:
        if ending is Ending.DONE:
            self.tell(f"{job_id} is done. Results: {self.out} (evoray report {shlex.quote(self.out)})")
            return
        received, log = f"{job_id} {ending.value}", self._ray("logs", job_id)
        if ending is Ending.WRONG_INPUT:
            raise ConfigError(received, "input that the run accepts", f"correct what its output says ({log})")
        raise StageError(received, "a job that runs to its end", f"see its output ({log}), then submit it again")

    def _say_how(self) -> None:
        if self._submitted:
            self.tell(f"follow: {self._ray('logs --follow', self._submitted)}")
            self.tell(f"stop:   {self._ray('stop', self._submitted)}")
        self.tell(f"resume: {self.again}")

    def _ray(self, action: str, job_id: str) -> str:
        return f"ray job {action} --address {self.cluster.address} {job_id}"
