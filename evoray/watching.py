"""What a run is doing, for whoever looks from elsewhere: out of its directory alone, on this machine or another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from evoray.engine.events import PROGRESS, PUBLISHED_BUCKET_S, logged
from evoray.engine.feedback import ANSWERED
from evoray.engine.lock import KEY, is_dead
from evoray.engine.round import STATES
from evoray.engine.rundir import CONFIG, existing
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
    lock = _read(storage, KEY)
    running = None if lock is None else _read(storage, PROGRESS)
    return {
        "out": storage.uri,
        "rounds": _rounds(storage),
        "running": running and _with_rates(running),
        "quarantined": _quarantined(storage, running),
        "finished": storage.exists(SUMMARY),
        "lock": lock,
        "abandoned": lock is not None and is_dead(lock),
    }


def _rounds(storage: Storage) -> dict[int, list[str]]:
    """The states that are done in each round, in their order."""
    places = [key.split("/") for key in storage.keys("rounds")]
    numbers = sorted({int(place[1]) for place in places})
    records = {(int(place[1]), place[2].removesuffix(".json")) for place in places if len(place) == 3}
    return {number: [state for state in (*STATES, ANSWERED) if (number, state) in records] for number in numbers}


def watch(out: str, every: float, pause: Callable[[float], object] = time.sleep) -> Iterator[dict[str, Any]]:
    """The status of a run each time that it changes, until nobody drives it any more.

    every: seconds between looks; into a bucket no fewer than pass between two writes of the run.
    """
    shown, every = None, every if existing(out).is_local else max(every, PUBLISHED_BUCKET_S)
    while True:
        found = status(out)
        if found != shown:
            yield found
        shown = found
        if found["lock"] is None or found["abandoned"]:
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
    """A stage's progress, with what it does in a second."""
    seconds = progress["seconds"]
    rates = {
        f"{name}_per_second": round(progress[name] / seconds, 2)
        for name in ("rows", "tokens")
        if progress.get(name) and seconds
    }
    return {**progress, **rates}


def _quarantined(storage: Storage, running: Mapping[str, Any] | None) -> int:
    """Rows that its stages set aside, as its log has them."""
    done = sum(int(event.get("quarantined", 0)) for event in logged(storage) if event["event"] == "stage")
    return done + int((running or {}).get("quarantined", 0))
