"""The run directory: config and manifest, and one atomic record for every transition of a round."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from evoray.config import RunConfig
from evoray.config_file import difference
from evoray.engine.events import PROGRESS, Events
from evoray.engine.site import fingerprint
from evoray.errors import ConfigError
from evoray.storage import Storage

CONFIG = "config.yaml"
MANIFEST = "manifest.json"
PLAN = "plan.json"
REHEARSAL = ".evoray-rehearsal"  # until the plan is made: a name that no folder of the user's has
SELECTED = "selected.parquet"  # of a round, or of a selection alone

#: Settings that may differ when a run goes on: where it runs, not what it computes. `threads` is not one of them.
_MAY_CHANGE = {
    "cluster": {"address", "workers", "gpus_per_worker", "unit_attempts", "stall_minutes", "object_store_mb"},
    "training": {"workers", "zero_stage", "offload", "checkpoint_steps"},
    "generation": {
        *("url", "key_env", "concurrency", "requests_per_minute", "timeout", "attempts", "max_requests", "max_tokens"),
    },
}

#: By all these the config of a run is known: no one writes them all. Less what was added since the first version.
_KEYS = set(RunConfig.model_fields) - {"machines"}

#: Where Ray unpacks the files that came with a job: another folder for each cluster and each change of any of them.
#: What is in them is compared by the manifest.
_UNPACKED = re.compile(r"^.*/working_dir_files/_ray_pkg_\w+/")

#: First parts of the keys that a run writes. Not of them: the lock, which is held while they are deleted, and the plan.
OF_A_RUN = (
    CONFIG, MANIFEST, "events", "events.jsonl", "hub-models", "pool", "warmup", "features", "known", "kept", "scores",
    "quarantine", "feedback", "rounds", "generated", "checkpoints", "tensorboard", "best", "ray-train", "summary.json",
    "report.md", "report.html", "lock-stale", REHEARSAL, PROGRESS,
)  # fmt: skip

#: Of those, folders that a user may have, too: in them a run writes below fingerprints alone.
_OF_FINGERPRINTS = ("pool", "warmup", "features", "known", "scores", "feedback", "generated")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}|round-\d{4,}\.parquet")

_PACKAGES = ("evoray", "ray", "torch", "transformers", "peft", "deepspeed", "pyarrow", "numpy")


def open_run(storage: Storage, config: RunConfig) -> None:
    """Write the config of a new run, or check that it is the one of the run found there.

    A run begins with its manifest: until all inputs were found good, a corrected config takes the place of the
    refused one. Raises ConfigError that shows the difference where the config of a begun run is another.
    """
    _check_inputs(storage, config)
    stored = _stored_config(storage)
    if stored is None or not storage.exists(MANIFEST):
        storage.write(CONFIG, yaml.safe_dump(config.model_dump(by_alias=True, mode="json"), sort_keys=False).encode())
        return
    lines = difference(_comparable(stored), _comparable(config.model_dump(by_alias=True, mode="json")))
    if lines:
        raise ConfigError(
            f"another config than the one this run directory was made with ({storage.uri}):\n  " + "\n  ".join(lines),
            "the same config, so that the run can go on",
            "choose another --out, go back to the old values, or start anew with --anew (deletes this run)",
        )


def identity_of(config: Mapping[str, Any]) -> str:
    """Fingerprint of what a run computes, wherever it runs. config: as `open_run` writes it."""
    return fingerprint(config=_comparable(config))


def check_outlives_job(out: str) -> None:
    """Raise ConfigError for a folder inside that of a job, which is deleted with it."""
    if "://" not in out and not Path(out).is_absolute():
        raise ConfigError(
            f"out = {out!r}, relative to a folder that is deleted with the job",
            "an absolute path on storage that every node reaches, or a bucket URI",
            "give --out",
        )


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in ("out", "labels", "machines")}
    for section, free in _MAY_CHANGE.items():
        if config.get(section) is not None:
            kept[section] = {key: value for key, value in config[section].items() if key not in free}
    return {key: _packed(value) for key, value in kept.items()}


def _packed(value: Any) -> Any:
    """A path, or a list of them, as the job was given it."""
    if isinstance(value, list):
        return [_packed(one) for one in value]
    return _UNPACKED.sub("", value) if isinstance(value, str) else value


def _stored_config(storage: Storage) -> dict[str, Any] | None:
    """The config of the run found there. Raises ConfigError for a file of that name that evoray did not write."""
    if not storage.exists(CONFIG):
        return None
    with contextlib.suppress(yaml.YAMLError):
        stored = yaml.safe_load(storage.read(CONFIG))
        if isinstance(stored, dict) and set(stored) >= _KEYS:  # of an earlier version, perhaps, without newer ones
            return stored
    raise ConfigError(
        f"{storage.location(CONFIG)}, which is not the record of a run",
        "a run directory, or a folder without a file of this name",
        "choose another --out",
    )


def start_anew(storage: Storage) -> None:
    """Delete a run, and nothing else that the folder holds. Raises ConfigError as `open_run`."""
    if _stored_config(storage) is None:
        return
    # What the folder is known by comes last: cut off before, the next start of anew deletes the rest.
    for key in sorted(storage.keys(), key=lambda key: (key == CONFIG, key == MANIFEST)):
        first, _, rest = key.partition("/")
        named = first not in _OF_FINGERPRINTS or _FINGERPRINT.fullmatch(rest.partition("/")[0])
        if first in OF_A_RUN and named:
            storage.delete(key)


def _check_inputs(storage: Storage, config: RunConfig) -> None:
    """Raise ConfigError for an input that lies where the run writes: `--anew` could not tell it from the run's own."""
    pools = (config.pool,) if isinstance(config.pool, str) else config.pool or ()
    for path in (*pools, config.target, config.labels, config.model):
        below = "" if path is None else str(Path(path).absolute()).removeprefix(f"{storage.uri.rstrip('/')}/")
        if path is not None and not Path(below).is_absolute() and below.partition("/")[0] in OF_A_RUN:
            raise ConfigError(
                f"{path} in the run directory {storage.uri}, where the run writes {below.partition('/')[0]}",
                "inputs elsewhere",
                "choose another --out",
            )


def existing(out: str) -> Storage:
    """The storage of a run that is only looked at: a folder that is not there is not created. Raises ConfigError."""
    if "://" not in out and not Path(out).expanduser().is_dir():
        raise ConfigError(f"no folder {out}", "the directory of a run", "check the path")
    return Storage(out)


class Rounds:
    """The records of all rounds: `rounds/0001/<state>.json`, each written once, after its work is done."""

    def __init__(self, storage: Storage, events: Events) -> None:
        self.storage = storage
        self.events = events

    @staticmethod
    def prefix(number: int) -> str:
        """Where the files of a round are."""
        return f"rounds/{number:04d}"

    def step(self, number: int, state: str, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The record of a transition: read where it was made before, else made by `work` and committed."""
        key = f"{self.prefix(number)}/{state}.json"
        if not self.storage.exists(key):
            facts = dict(work())
            self.storage.create_json(key, facts)
            self.events.write("transition", round=number, state=state)
        found: dict[str, Any] = self.storage.read_json(key)
        return found

    def states(self, number: int, names: tuple[str, ...]) -> list[str]:
        """Which of the transitions are done."""
        return [name for name in names if self.storage.exists(f"{self.prefix(number)}/{name}.json")]


def files_of_rounds(storage: Storage, name: str) -> list[str]:
    """Keys of one file of every round that has it, in order; what trials within a round have is not the round's."""
    return sorted(key for key in storage.keys("rounds") if key.split("/")[2:] == [name])


def environment() -> dict[str, Any]:
    """Versions and hardware: recorded beside a run's identity, and no part of it."""
    return {
        "versions": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"


def check_manifest(storage: Storage, identity: Mapping[str, Any]) -> None:
    """Write the identity of a run's inputs, or check that they are unchanged. Raises ConfigError if not."""
    if not storage.exists(MANIFEST):
        storage.write_json(MANIFEST, {"identity": dict(identity), "environment": environment()})
        return
    lines = difference(storage.read_json(MANIFEST)["identity"], identity)
    if lines:
        raise ConfigError(
            f"other inputs than this run began with ({storage.uri}):\n  " + "\n  ".join(lines),
            "the same pool, target and models, so that the run can go on",
            "restore the files, choose another --out, or start anew with --anew (deletes this run)",
        )
