"""Progress for a person: a bar with an ETA for each stage in a terminal, one line a stage elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

#: Without a terminal, a stage's progress is a line after each of these shares.
_SHARES = 4


class Display:
    """Shows the running stage on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
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
