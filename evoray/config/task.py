"""How a target is named: by a path, or as a task of EleutherAI's LM Evaluation Harness.

`lm-eval:NAME` is a task, group or tag that comes with the harness, `lm-eval:NAME@FOLDER` one that a YAML file in a
folder of the user's defines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evoray.errors import TargetError

PREFIX = "lm-eval:"


@dataclass(frozen=True, kw_only=True)
class TaskName:
    """The name of a task, and the folder that it is defined in; None: it comes with the harness."""

    name: str
    folder: str | None = None

    @classmethod
    def of(cls, target: str) -> TaskName | None:
        """The task that a target names; None where it is a path. Raises TargetError where the name is empty."""
        if not target.startswith(PREFIX):
            return None
        name, separator, folder = target.removeprefix(PREFIX).partition("@")
        if not name or (separator and not folder):
            raise TargetError(
                f"the target {target!r}",
                f"{PREFIX}NAME, or {PREFIX}NAME@FOLDER for a task of your own",
                "name a task: `lm-eval ls tasks` lists those of the harness",
            )
        return cls(name=name, folder=folder or None)

    def __str__(self) -> str:
        return PREFIX + self.name + (f"@{self.folder}" if self.folder else "")


def with_path(target: str, change: Callable[[str], str]) -> str:
    """A target with its path changed: the path that it is, or the folder of a task. Raises as `TaskName.of`."""
    task = TaskName.of(target)
    if task is None:
        return change(target)
    return str(task if task.folder is None else TaskName(name=task.name, folder=change(task.folder)))
