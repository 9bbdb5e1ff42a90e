"""Run a function elsewhere, and get its own error back rather than Ray's wrapping of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError
from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt

from evoray.engine.watchdog import stalled
from evoray.errors import EvorayError, StageError

Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)
_ATTEMPTS = 3
#: Of an actor, and of a task; or Ray ended it, for want of memory.
_LOST = (RayActorError, WorkerCrashedError, OutOfMemoryError)


def in_task(function: Callable[..., Result], *arguments: Any) -> Result:
    """The result of a Ray task. Raises the EvorayError that the function raised."""
    result: Result = fetch(ray.remote(num_cpus=1)(function).remote(*arguments))
    return result


def in_process(function: Callable[..., Result], *arguments: Any, cpus: float = 1, gpus: float = 0) -> Result:
    """As `in_task`, for long work: a process that is lost is made up for by another.

    One with a GPU is the work's own and ends with it; any other is one that Ray keeps for tasks, and what it imported
    is there for the next. Raises StageError where processes are lost again and again.
    """
    lost = Retrying(
        retry=retry_if_exception_type(_LOST),
        stop=stop_after_attempt(_ATTEMPTS),
        before_sleep=before_sleep_log(_LOG, logging.WARNING),
        reraise=True,
    )
    try:
        result: Result = lost(_once, function, arguments, cpus, gpus)
        return result
    except _LOST as error:
        raise StageError(
            f"{_ATTEMPTS} processes in a row that were lost: {error}",
            "a process that survives its work",
            "give it more memory (fewer cluster.workers, lower batch_tokens); the same command goes on",
        ) from error


def _once(function: Callable[..., Result], arguments: Sequence[Any], cpus: float, gpus: float) -> Result:
    if not gpus:
        task = ray.remote(num_cpus=cpus, max_retries=0)(function).options(name="in_process")
        found: Result = fetch(task.remote(*arguments))
        return found
    actor = ray.remote(num_cpus=cpus, num_gpus=gpus)(_Runner).remote()
    try:
        result: Result = fetch(actor.run.remote(function, *arguments))
        return result
    finally:
        ray.kill(actor)


def fetch(reference: Any, stall: float | None = None, waiting: str = "") -> Any:
    """`ray.get`, raising the cause of a failed task where it is an EvorayError.

    Raises StageError, which says what was waited for, where there is no answer after `stall` seconds.
    """
    try:
        return ray.get(reference, timeout=stall)
    except GetTimeoutError:
        raise stalled(stall or 0, f"waiting for {waiting}") from None
    except RayTaskError as error:
        raise evoray_cause(error) or error from error


def evoray_cause(error: BaseException | None) -> EvorayError | None:
    """The first EvorayError in a chain of Ray's and Python's causes."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        cause = getattr(error, "cause", None)
        for candidate in (cause, error):
            # Ray's wrapper also is an instance of its cause's class, without its fields.
            if isinstance(candidate, EvorayError) and not isinstance(candidate, RayTaskError):
                return candidate
        seen.append(error)
        failures: Sequence[BaseException] = list(getattr(error, "worker_failures", {}).values())
        inner = next((found for found in map(evoray_cause, failures) if found is not None), None)
        if inner is not None:
            return inner
        error = cause if isinstance(cause, BaseException) else error.__cause__
    return None


class _Runner:
    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)
