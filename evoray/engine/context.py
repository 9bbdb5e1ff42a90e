"""What every round of a run works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evoray.config import RunConfig
from evoray.engine.pools import Pool
from evoray.engine.proxy import Proxy
from evoray.engine.rundir import Rounds
from evoray.engine.site import Site
from evoray.engine.stages import Target
from evoray.models.folder import Folder
from evoray.selection.picks import random_key
from evoray.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every round works with."""

    config: RunConfig
    storage: Storage  # the run directory
    site: Site  # its storage holds what is named by fingerprint and may be shared with other runs
    pool: Pool
    align: Target
    validate: Target
    model_identity: str  # of the learner's base weights
    proxy: Proxy | None  # after the warm-up; None where the selector needs no features
    cheap: Proxy | None = None  # of a cascade's first pass

    @property
    def rounds(self) -> Rounds:
        """The records."""
        return Rounds(self.storage, self.site.events)

    def seed_of(self, number: int, purpose: str) -> int:
        """A seed of its own for each purpose and round."""
        return random_key(f"{purpose}:{number}", self.config.seed) % 2**31

    def adapter(self, number: int, arm: str) -> Folder:
        """Where an arm's trained weights of a round are."""
        return Folder(storage=self.storage, prefix=f"{Rounds.prefix(number)}/{arm}")

    def record(self, number: int, state: str) -> dict[str, Any]:
        """The record of a transition that was made."""
        found: dict[str, Any] = self.storage.read_json(f"{Rounds.prefix(number)}/{state}.json")
        return found

    def parent(self, number: int) -> int:
        """The round whose model `number` goes on from; 0: the untrained one."""
        if number == 1:
            return 0
        before = self.record(number - 1, "evaluated")
        return int(before["against_best"]["round"]) if before["rolled_back"] else number - 1
