"""The pool of each round: the static rows, and what a generator wrote up to then."""

from __future__ import annotations

from dataclasses import dataclass, replace

from evoray.budget import Budget
from evoray.config import RunConfig
from evoray.engine.context import Context
from evoray.engine.generate import Generator, candidates_key, generate
from evoray.engine.pools import Pool, read_pool
from evoray.engine.rundir import Rounds
from evoray.engine.site import Site
from evoray.errors import StageError


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Where candidates come from."""

    config: RunConfig
    static: Pool | None
    generator: Generator | None
    site: Site  # its storage has the pools, and may be shared with other runs
    rounds: Rounds  # of this run, whose folder has what was generated

    def of_round(self, number: int) -> Pool:
        """The pool of a round; generates what is not there yet, and records it.

        Raises StageError where there is no usable candidate at all, and as `generate`.
        """
        if self.generator is None and self.static is not None:
            return self.static
        paths = list(self._static_paths())
        kept = [self._generated(one) for one in range(1, number + 1)]
        own = self.rounds.storage
        paths += [own.location(candidates_key(one)) for one, rows in enumerate(kept, 1) if rows]
        if not paths:
            raise StageError(
                f"not one usable sample from the generator in round {number}",
                "samples in the form that the requests show",
                f"see the reasons in {own.location('quarantine')}; try generation.form, a stronger generation.model, "
                "more generation.examples, or give a static pool as well",
            )
        return read_pool(paths, self.config.reading, self.site)

    def _generated(self, number: int) -> int:
        """How many candidates a round has."""
        if self.generator is None:
            return 0
        generator, site = self.generator, replace(self.site, storage=self.rounds.storage)
        record = self.rounds.step(number, "generated", lambda: generate(generator, number, self.static, site))
        return int(record["kept"])

    def _static_paths(self) -> tuple[str, ...]:
        pool = self.config.pool
        return () if pool is None else (pool,) if isinstance(pool, str) else pool


def with_candidates(context: Context, candidates: Candidates, number: int, used: int) -> Context | None:
    """The context of a round; None where no row is left to choose from. used: rows that earlier rounds took.

    Where a generator wrote fewer usable samples than a round is to choose, all of them are chosen.
    """
    pool, selection = candidates.of_round(number), context.config.selection
    if candidates.generator is None:
        return context
    left = pool.usable - used
    if left < 1:
        return None
    budget = Budget.of(selection.k)
    if selection.selector != "all" and not budget.tokens and budget.k(pool.usable) > left:
        context.site.events.display.note(f"round {number}: {left} usable candidates, and selection.k = {selection.k}")
        selection = selection.model_copy(update={"k": left})
    config = context.config.model_copy(update={"selection": selection})
    return replace(context, pool=pool, config=config)
