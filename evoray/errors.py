"""Every error that evoray raises on purpose: one tree, picklable (Ray carries errors between processes).

An error says what was received, what was expected and what to do about it. `UserError` and its
children are mistakes in the input: the command line prints them without a traceback and exits 2.
"""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """What another library's error says first; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class EvorayError(Exception):
    """Base of the tree: `received`, `expected` and `remedy` are sentences without a full stop."""

    exit_code = 1

    def __init__(self, received: str, expected: str, remedy: str) -> None:
        super().__init__(received, expected, remedy)
        self.received = received
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        return f"received: {self.received}\nexpected: {self.expected}\nto do: {self.remedy}"

    def __reduce__(self) -> tuple[type[EvorayError], tuple[str, str, str]]:
        return type(self), (self.received, self.expected, self.remedy)


class UserError(EvorayError):
    """The input is wrong, and nothing of it was used."""

    exit_code = 2


class ConfigError(UserError):
    """A config key or value is wrong, or the config changed under an existing run directory."""


class PoolError(UserError):
    """The pool cannot be read, is empty, or too much of it is unusable."""


class TargetError(UserError):
    """The target cannot be read or lacks a split that is needed."""


class ModelError(UserError):
    """A model, tokenizer or adapter cannot be loaded or is of a kind that is not supported."""


class SelectionError(UserError):
    """The selection that was asked for does not exist (K too large, unknown selector)."""


class LockError(UserError):
    """Another process drives this run directory."""


class StorageError(EvorayError):
    """Stored data is missing or does not match its commit record."""


class StageError(EvorayError):
    """A stage could not finish: a unit failed too often, or a training run diverged."""


class SolverError(EvorayError):
    """A solver did not converge or met numbers that it cannot work with."""
