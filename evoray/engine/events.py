"""What a run tells the world while it works: stages with progress, and one JSON line an event."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, Protocol

from evoray.errors import StorageError
from evoray.storage import Storage


class Display(Protocol):
    """Shows stages to a person. The command line has a progress bar; the library is silent by default."""

    def begin(self, name: str, total: int) -> None:
        """A stage of `total` steps starts (0: unknown)."""

    def advance(self, steps: int) -> None:
        """The running stage went on by some steps."""

    def share(self, done: int, total: int) -> None:
        """The running stage did `done` of `total` parts, whatever was announced."""

    def end(self, seconds: float) -> None:
        """The running stage is finished."""

    def note(self, text: str) -> None:
        """One line for a person."""

    def event(self, facts: Mapping[str, Any]) -> None:
        """One line of `events.jsonl`, when it is written: time (seconds since 1970), event, and what belongs to it."""


class Silent:
    """A display that shows nothing."""

    def begin(self, name: str, total: int) -> None:
        """Nothing."""

    def advance(self, steps: int) -> None:
        """Nothing."""

    def share(self, done: int, total: int) -> None:
        """Nothing."""

    def end(self, seconds: float) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def event(self, facts: Mapping[str, Any]) -> None:
        """Nothing."""


#: What the running stage has done so far, for whoever looks from elsewhere; deleted when it is done.
PROGRESS = "progress.json"
#: Seconds between two writes of it at least: on a disk, and in a bucket.
_PUBLISHED_S, PUBLISHED_BUCKET_S = 1.0, 10.0


class Stage:
    """The running stage: `advance` as work is done."""

    def __init__(self, display: Display, events: Events | None = None, total: int = 0) -> None:
        self._display, self._events = display, events
        self._done, self._total = 0, total
        self._before: int | None = None  # what its first report says: an earlier start may have done that
        self._started = self._published = self._reported = time.monotonic()
        self.counts: dict[str, float] = {}  # for its line in the log

    def advance(self, steps: int = 1) -> None:
        """Some steps are done."""
        if steps:
            self._done += steps
            self._display.advance(steps)
            self._moved()

    def share(self, done: int, total: int) -> None:
        """`done` of `total` parts: for work whose length shows only when it has begun."""
        self._done, self._total = done, total
        self._display.share(done, total)
        self._moved()

    def count(self, **amounts: float) -> None:
        """What was done in it, added up for its line in the log: rows, tokens, seconds of all workers together."""
        for name, amount in amounts.items():
            self.counts[name] = self.counts.get(name, 0) + amount

    def highest(self, **amounts: float) -> None:
        """As `count`, of what does not add up: the memory of a process."""
        for name, amount in amounts.items():
            self.counts[name] = max(self.counts.get(name, 0), amount)

    def report(self, event: str, **facts: Any) -> None:
        """Something that happened in it, for the log."""
        if self._events is not None:
            self._events.write(event, **facts)

    def waits(self, seconds: float, waiting: str) -> None:
        """Nothing was done for so long. waiting: what is waited for, in words. Where that cannot be written, the work
        goes on: it may be the storage that is waited for.
        """
        try:
            self.report("waiting", seconds=round(seconds), waits_for=waiting)
        except (StorageError, OSError) as error:
            self._display.note(f"nothing done for {seconds:.0f} s; {waiting} (not in events.jsonl: {error})")

    def begin(self) -> None:
        """It has nothing done yet."""
        self._tell(self._started)

    def _moved(self) -> None:
        now = time.monotonic()
        if self._before is None:
            self._before, self._reported = self._done, now
        if self._events is not None and now - self._published >= self._events.pause:
            self._tell(now)

    def _tell(self, now: float) -> None:
        if self._events is None:
            return
        self._published = now
        new = self._done - (self._before or 0)  # since the first report: at this rate what is left will be done
        left = (now - self._reported) / new * (self._total - self._done) if new and self._total else None
        self._events.publish(
            done=self._done,
            total=self._total,
            seconds=round(now - self._started, 1),
            seconds_left=None if left is None else round(left, 1),
            **self.counted,
        )

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self._started

    @property
    def counted(self) -> dict[str, float]:
        """What was counted so far."""
        return {name: round(amount, 3) for name, amount in self.counts.items()}


def logged(storage: Storage) -> Iterator[dict[str, Any]]:
    """Every event of a run, over all processes that worked on it."""
    keys = ["events.jsonl"] if storage.is_local else list(storage.keys("events"))
    for key in filter(storage.exists, keys):
        for line in storage.read(key).split(b"\n"):
            try:
                yield json.loads(line)
            except ValueError:
                continue  # cut short, by a full disk or since it is being written: of a run's results it knows nothing


class Events:
    """Progress to a display and events to `events.jsonl` (in a bucket: one object a process).

    Each line says where it belongs: what `about` was given (run, round), and the running stage. `storage` is that of
    the run, whatever else it shares with others.
    """

    def __init__(self, storage: Storage, display: Display | None = None) -> None:
        self.display = display or Silent()
        self._heard = self.display.event
        self.storage = storage
        self._about: dict[str, Any] = {}
        self._lines: list[str] = []
        self._key = "events.jsonl" if storage.is_local else f"events/{time.time_ns()}.jsonl"
        self._public = True
        self.pause = _PUBLISHED_S if storage.is_local else PUBLISHED_BUCKET_S

    def about(self, **facts: Any) -> Events:
        """The same record, whose lines have these facts as well."""
        other = copy(self)
        other._about = {**self._about, **facts}
        return other

    def unseen(self) -> Events:
        """The same record without stages on the display and published progress: for work that goes on beside other
        work. Its events are shown.
        """
        other = copy(self)
        other.display, other._public = Silent(), False
        return other

    def write(self, event: str, **facts: Any) -> None:
        """Append one event; facts are JSON values."""
        whole = {"time": round(time.time(), 3), "event": event, **self._about, **facts}
        line = json.dumps(whole, ensure_ascii=False)
        if self.storage.is_local:
            with Path(self.storage.location(self._key)).open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        else:
            self._lines.append(line)
            self.storage.write(self._key, ("\n".join(self._lines) + "\n").encode())
        self._heard(whole)

    def publish(self, **facts: Any) -> None:
        """What the running stage has done so far. It is for people alone: where it cannot be written, nothing stops."""
        progress = {"time": round(time.time(), 3), **self._about, **facts}
        self._publicly(lambda: self.storage.write_json(PROGRESS, progress, sort_keys=False))

    def unpublish(self) -> None:
        """No stage is running."""
        self._publicly(lambda: self.storage.delete(PROGRESS))

    def _publicly(self, act: Callable[[], None]) -> None:
        if not self._public:
            return
        try:
            act()
        except StorageError as error:
            self._public = False
            self.display.note(f"`evoray status` will not see this stage: {error.received}")

    @contextmanager
    def stage(self, name: str, total: int, **facts: Any) -> Iterator[Stage]:
        """Show and time one stage; a stage that fails leaves an event too."""
        running, finished = Stage(self.display, self.about(stage=name), total), False
        self.display.begin(name, total)
        running.begin()
        try:
            yield running
            self.unpublish()
            finished = True
        finally:
            seconds = running.seconds
            self.display.end(seconds)
            self.write("stage", stage=name, seconds=round(seconds, 3), finished=finished, **running.counted, **facts)
