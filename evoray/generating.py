"""Generation on its own: candidates for a task, written by a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evoray.config import RunConfig
from evoray.engine.events import Display, Events
from evoray.engine.generate import GENERATED, Generator, candidates_key
from evoray.engine.generate import generate as write_candidates
from evoray.engine.lock import run_lock
from evoray.engine.pools import read_pool
from evoray.engine.rundir import Rounds
from evoray.engine.session import session
from evoray.engine.site import Site
from evoray.engine.stages import open_target
from evoray.errors import ConfigError
from evoray.report.shown import fields_view, shown
from evoray.storage import Storage


@shown(fields_view)
@dataclass(frozen=True, kw_only=True)
class Generated:
    """Candidates that a model wrote."""

    path: str  # of their Parquet file: rows of a pool, with their provenance
    rows: int
    facts: Mapping[str, Any]  # requests, tokens, and how many samples were set aside for which reason


def generate(config: RunConfig, *, display: Display | None = None) -> Generated:
    """Candidates as a run of this config generates them for its first round; below `config.out`, resumable.

    What was answered is never asked again. A pool that the config names is only compared with. Raises ConfigError
    without a section generation, and for what an endpoint refuses; StageError for one that does not answer.
    """
    if config.generation is None:
        raise ConfigError("a config without the section generation", "who writes candidates", "add generation: {}")
    storage, units = Storage(config.out), config.reading.unit_rows
    with run_lock(storage), session(config.cluster) as workers:
        site = Site(storage=storage, session=workers, events=Events(storage, display))
        align = open_target(config.target, "align", config.seed, units, site)
        generator = Generator.of(config.generation, align, config.target, config.seed, site)
        _check_free(storage, generator)
        static = None if config.pool is None else read_pool(config.pool, config.reading, site)
        facts = write_candidates(generator, 1, static, site)
    return Generated(path=storage.location(candidates_key(1)), rows=facts["kept"], facts=facts)


def _check_free(storage: Storage, generator: Generator) -> None:
    """Raise ConfigError for the folder of a run that has chosen from other candidates: they would be overwritten."""
    key = f"{Rounds.prefix(1)}/{GENERATED}.json"
    if storage.exists(key) and storage.read_json(key).get("name") != generator.fingerprint(1):
        raise ConfigError(
            f"{storage.uri}, a run whose candidates have other settings",
            "a folder of its own, or the settings of the run",
            "name another --out",
        )
