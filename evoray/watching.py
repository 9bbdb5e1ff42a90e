"""What a run is doing, for whoever looks from elsewhere: out of its directory alone, on this machine or another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from evoray.engine.events import PROGRESS, Events, logged
from evoray.engine.feedback import ANSWERED
from evoray.engine.lock import KEY
from evoray.engine.round import STATES
from evoray.engine.rundir import CONFIG, Rounds, existing
from evoray.errors import ConfigError, StorageError
from evoray.reporting import SUMMARY
from evoray.storage import Storage


def status(out: str) -> dict[str, Any]:
    """What a run directory holds: the states done in each round, the running stage, the rows set aside, the holder of
    its lock, whether it is finished.

    Raises ConfigError where it is no run's.
    """
    storage = existing(out)
    if not storage.exists(CONFIG):
        raise ConfigError(f"{storage.uri} without {CONFIG}", "the directory of a run", "check the path")
    rounds = sorted({key.split("/")[1] for key in storage.keys("rounds")})
    records = Rounds(storage, Events(storage))
    lock = _read(storage, KEY)
    running = None if lock is None else _read(storage, PROGRESS)
    return {
        "out": storage.uri,
        "rounds": {int(name): records.states(int(name), (*STATES, ANSWERED)) for name in rounds},
        "running": running and _with_rates(running),
        "quarantined": _quarantined(storage, running),
        "finished": storage.exists(SUMMARY),
        "lock": lock,
    }


def watch(out: str, every: float, pause: Callable[[float], object] = time.sleep) -> Iterator[dict[str, Any]]:
    """The status of a run each time that it changes, until nobody drives it any more. every: seconds between looks."""
    shown = None
    while True:
        found = status(out)
        if found != shown:
            yield found
        shown = found
        if found["lock"] is None:
            return
        pause(every)


def _read(storage: Storage, key: str) -> dict[str, Any] | None:
    """A record that may be gone at any moment."""
    if not storage.exists(key):
        return None
    try:
        found: dict[str, Any] = storage.read_json(key)
    except StorageError:
        if storage.exists(key):
            raise
        return None
    return found


def _with_rates(progress: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's progress, with what it does in a second, and the seconds that are left at this rate."""
    done, total, seconds = progress["done"], progress["total"], progress["seconds"]
    now = progress.get("units", done)  # what earlier starts did took no part of these seconds
    left = round(seconds / now * (total - done), 1) if now and total else None
    rates = {
        f"{name}_per_second": round(progress[name] / seconds, 2)
        for name in ("rows", "tokens")
        if progress.get(name) and seconds
    }
    return {**progress, **rates, "seconds_left": left}


def _quarantined(storage: Storage, running: Mapping[str, Any] | None) -> int:
    """Rows that its stages set aside, as its log has them."""
    done = sum(int(event.get("quarantined", 0)) for event in logged(storage) if event["event"] == "stage")
    return done + int((running or {}).get("quarantined", 0))
