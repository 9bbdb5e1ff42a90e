"""A cluster's Jobs API behind the seam that `submission_attempts` works with.

What Ray raises becomes one of three things: a `ConfigError` where the address or the token is wrong, a
`ConnectionError` where nobody answers (who asks again may get an answer), and a `StageError` for all else. Ray's own
client reads the token, and sets no limit to how long it waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as Expired
from contextlib import contextmanager
from typing import Any, TypeVar

from evoray.engine.session import token_file
from evoray.engine.watchdog import beside
from evoray.errors import ConfigError, EvorayError, StageError, first_line
from evoray.submission_attempts import NAME, OUT, Job

_ANSWER_S = 60.0
_UPLOAD_S = 900.0  # a package of some hundred megabytes through a tunnel
_STATUS = re.compile(r"status code (\d+)")
#: Ray's client follows these rather than the address that it is given.
_OVERRIDING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")

Result = TypeVar("Result")


class RayCluster:
    """The jobs of the cluster whose Jobs API is at an address. Raises ConfigError where it is not to be had."""

    def __init__(self, address: str) -> None:
        if not re.match(r"https?://[^/@\s]+/?$", address):
            raise ConfigError(
                f"--address {address}",
                "the jobs address of a cluster, http://HEAD:8265, as `ray start --head` shows it",
                "correct it; where the head is behind a tunnel, http://127.0.0.1:8265",
            )
        self.address = address.rstrip("/")
        from ray.job_submission import JobSubmissionClient

        for name in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they tell of every upload
        try:
            with _without(*_OVERRIDING):
                self._client = self._ask(lambda: JobSubmissionClient(self.address))
        except ConnectionError as error:
            raise ConfigError(
                f"--address {self.address}: {error}",
                "the jobs address of a running Ray cluster, reachable from here",
                "start the cluster, open the tunnel to its head, or correct the address",
            ) from error

    def jobs(self) -> list[Job]:
        """All that were submitted to it."""
        found = self._ask(self._client.list_jobs)
        return [_job(details) for details in found if details.submission_id is not None]

    def look(self, job_id: str) -> Job | None:
        """One of them; None where the cluster knows none of this id."""
        details = self._ask(lambda: self._client.get_job_info(job_id), unknown=True)
        return None if details is None else _job(details)

    def submit(self, job_id: str, command: str, environment: Mapping[str, Any], about: Mapping[str, str]) -> None:
        """Hand a job over, with its runtime environment. What is refused is told without the values of variables."""
        try:
            self._ask(
                lambda: self._client.submit_job(
                    entrypoint=command, submission_id=job_id, runtime_env=dict(environment), metadata=dict(about)
                ),
                seconds=_UPLOAD_S,
                once=True,
            )
        except StageError as error:
            told = error.received
            for name, value in environment.get("env_vars", {}).items():
                told = told.replace(value, f"[{name}]") if value else told
            raise StageError(told, error.expected, error.remedy) from None  # its cause holds the values

    def read_log(self, job_id: str, write: Callable[[str], None]) -> None:
        """Its output from the beginning, as it comes, until the job is over. Raises ConnectionError where it breaks."""
        import aiohttp

        async def read() -> None:
            async for chunk in self._client.tail_job_logs(job_id):
                write(chunk)

        try:
            asyncio.run(read())
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            raise ConnectionError(first_line(error)) from error

    def _ask(
        self, question: Callable[[], Result], *, seconds: float = _ANSWER_S, unknown: bool = False, once: bool = False
    ) -> Any:
        """The answer. unknown: None is one, of what is not there. once: a head that fails over it fails again."""
        from ray.exceptions import AuthenticationError

        try:
            return beside(question).result(seconds)  # a lost host never closes its connections
        except AuthenticationError as error:
            raise _refused(self.address, error) from error
        except (OSError, Expired) as error:  # whatever `requests` raises is one of the first
            raise ConnectionError(first_line(error)) from error
        except RuntimeError as error:
            status = _STATUS.search(str(error))
            if status and unknown and status[1] == "404":
                return None
            if status and status[1].startswith("5") and not (once and "Traceback" in str(error)):
                raise ConnectionError(first_line(error)) from error
            raise StageError(
                f"the jobs of {self.address}: {error}", "a job that Ray takes", "see the message; then submit again"
            ) from error


def _job(details: Any) -> Job:
    about = details.metadata or {}
    return Job(
        id=str(details.submission_id),
        status=str(details.status),
        exit_code=details.driver_exit_code,
        error=details.error_type,
        name=about.get(NAME),
        out=about.get(OUT),
    )


def _refused(address: str, error: BaseException) -> EvorayError:
    sent = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    return ConfigError(
        f"{address} refuses " + ("this token" if sent else "who comes without a token") + f" ({first_line(error)})",
        "the token that the cluster was started with",
        f"export RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or the file {token_file()} with that token",
    )


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """The environment without some variables for the time of the block."""
    held = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)
