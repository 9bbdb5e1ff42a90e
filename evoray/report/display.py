"""Progress for a person: a bar with an ETA for each stage in a terminal, one line a stage elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from evoray.report.table import one_line

#: Without a terminal, a stage's progress is a line after each of these shares.
_SHARES = 4


class Display:
    """Shows the running stage on a console. verbose: also when a stage begins, and every event."""

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console, self._verbose = console, verbose
        self._progress: Progress | None = None
        self._name = ""
        self._total = 0
        self._done = 0
        self._started = 0.0
        self._shown = 0

    def begin(self, name: str, total: int) -> None:
        """A stage of `total` steps starts (0: unknown)."""
        self._name, self._total, self._done, self._shown = name, total, 0, 0
        self._started = time.monotonic()
        if self._verbose:
            self._print(f"{name}: begins" + (f", {total} steps" if total else ""))
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description:<32}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._progress.start()
            self._progress.add_task(name, total=total or None)

    def advance(self, steps: int) -> None:
        """The running stage went on by some steps."""
        self.share(self._done + steps, self._total)

    def share(self, done: int, total: int) -> None:
        """The running stage did `done` of `total` parts."""
        self._done, self._total = done, total
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done, total=total or None)
        elif total and done < total and done * _SHARES // total > self._shown:
            self._shown = done * _SHARES // total
            seconds = time.monotonic() - self._started
            self._console.print(f"{self._name}: {done}/{total}, ETA {seconds / done * (total - done):.0f} s")

    def end(self, seconds: float) -> None:
        """The running stage is finished."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self._console.print(f"{self._name}: done in {seconds:.1f} s")

    def note(self, text: str) -> None:
        """One line for a person."""
        self._console.print(text, markup=False)

    def event(self, facts: Mapping[str, Any]) -> None:
        """One line of the log, as it was written."""
        if self._verbose:
            self._print(event_line(facts))

    def _print(self, line: str) -> None:
        """A line as it is, however wide the terminal."""
        self._console.print(Text(line), soft_wrap=True)


def event_line(facts: Mapping[str, Any]) -> str:
    """An event for a person: local time, what happened, and its facts as name=value, of texts with a space in quotes.

    Where a run is, which every line of its log says, is left out.
    """
    said = time.strftime("%H:%M:%S", time.localtime(facts["time"]))
    shown = (f"{name}={_shown(value)}" for name, value in facts.items() if name not in ("time", "event", "run"))
    return one_line(" ".join([said, str(facts["event"]), *shown]))


def _shown(value: Any) -> str:
    if isinstance(value, str) and value and not any(letter.isspace() for letter in value):
        return value
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
