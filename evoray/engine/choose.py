"""Run a selector over shard actors: open what it needs, turn the budget into rows, and keep what it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from evoray.alignment.reduction import Array
from evoray.budget import Budget, taken
from evoray.config import SelectionConfig
from evoray.engine import metrics
from evoray.engine.journal import Notebook, StorageJournal
from evoray.engine.selectors import needs_of, open_selector
from evoray.engine.session import Session
from evoray.engine.shard_actors import RayShards, ray_shards
from evoray.engine.shards import GroupedTiles, TileSource
from evoray.engine.site import fingerprint
from evoray.errors import SelectionError
from evoray.selection.picks import Pick
from evoray.selection.protocol import Shards
from evoray.selection.selector import Choice, Goal, Request, Selector
from evoray.storage import Storage

if TYPE_CHECKING:
    from evoray.diversity.energies import Memory

#: More rows are ranked by this factor until they have the tokens of a budget.
_MORE = 1.5


def choose(
    source: TileSource,
    goal: Goal | None,
    config: SelectionConfig,
    seed: int,
    session: Session,
    progress: Callable[[int, int], None],
    excluded: Collection[str] = (),
    memory: Memory | None = None,
    start_g_M: Array | None = None,
    notebook: Notebook | None = None,
    looped: bool = False,
    feedback: Mapping[str, float] | None = None,
) -> Choice:
    """The picks of the configured selector over all tiles of a source, without the excluded ids.

    goal: needed by selectors that aim at a target. start_g_M: potentials of the same target rows that solves start
    from. notebook: where an interrupted call is gone on with; the caller clears it once the picks are kept. looped: the
    call is one of several rounds. feedback: what those before learnt. Raises SelectionError where more is asked for
    than there is.
    """
    storage = None if notebook is None else notebook.storage
    request = Request(
        k=1, rows=1, seed=seed, goal=goal, used=tuple(sorted(excluded)), looped=looped, progress=progress,
        memory=memory, start_g_M=start_g_M, feedback=feedback or {},
    )  # fmt: skip
    with open_shards(source, config, session, excluded, storage) as shards:
        if notebook is not None and config.selector == "evoselect":
            from evoray.selection.descent import POOL

            identity = _identity(source, goal, config, seed, excluded, start_g_M)
            journal = StorageJournal(notebook.storage, f"{notebook.prefix}/{identity}", shards, POOL)
            request = replace(request, journal=journal)
        return choose_from(shards, config, request)


def open_shards(
    source: TileSource,
    config: SelectionConfig,
    session: Session,
    excluded: Collection[str] = (),
    storage: Storage | None = None,
) -> AbstractContextManager[RayShards]:
    """Shards that hold what the configured selector needs; selections of equal `shard_needs` may share them."""
    extra, unit_rows = shard_needs(config)
    return ray_shards(
        GroupedTiles.of(source), excluded, session, storage, count=config.shards, cache_mb=config.cache_mb,
        extra=extra, unit_rows=unit_rows,
    )  # fmt: skip


def shard_needs(config: SelectionConfig) -> tuple[tuple[str, ...], bool]:
    """(columns beside features, whether these are unit rows) of the shards for a selection."""
    needs = needs_of(config)
    tokens = ("tokens",) if Budget.of(config.k).tokens else ()
    return tuple(sorted({*needs.columns, *tokens})), needs.unit_rows


def choose_from(shards: Shards, config: SelectionConfig, request: Request) -> Choice:
    """As `choose`, from shards that are open. The request's k and rows come from the budget."""
    counts = shards.call("counts")
    rows, usable = sum(held for held, _ in counts), sum(free for _, free in counts)
    selector, budget = open_selector(config), Budget.of(config.k)
    if config.selector == "all":
        choice = selector.select(shards, replace(request, k=usable, rows=usable))
    else:
        choice = _within(shards, selector, request, budget, rows, usable)
    if ":" not in config.selector:  # facts of a selector of one's own may be anything
        metrics.sinkhorn_error({**choice.facts.get("potentials", {}), **choice.facts}.get("marginal_error"))
    about = {"selector": config.selector, "usable": usable}
    others = tuple(replace(one, facts={**about, **one.facts}) for one in choice.others)
    return replace(choice, facts={**about, **choice.facts}, others=others)


def _within(shards: Shards, selector: Selector, request: Request, budget: Budget, rows: int, usable: int) -> Choice:
    """What the selector picks for a budget."""
    k = budget.k(rows, _mean_tokens(shards) if budget.tokens else None)
    if budget.tokens and not usable:
        raise SelectionError("no usable row", "rows to choose from", "enlarge the pool")
    if k > usable and not budget.tokens:
        raise SelectionError(
            f"k = {k}, and {usable} usable rows", "a k of at most the usable rows", "lower selection.k"
        )
    wanted = k = min(k, usable)
    while True:
        choice = selector.select(shards, replace(request, k=k, rows=wanted))
        if budget.tokens is None:
            return choice
        found = [_cut(shards, one, budget.tokens, k) for one in (choice, *choice.others)]
        if wanted == usable or all(enough for _, enough in found):
            first, *others = (cut for cut, _ in found)
            return replace(first, others=tuple(others))
        wanted = min(usable, int(wanted * _MORE) + 1)


def _cut(shards: Shards, choice: Choice, budget: int, k: int) -> tuple[Choice, bool]:
    """What of a choice, by rank, comes nearest to a budget of tokens; and whether the choice has so many."""
    tokens = _tokens_of(shards, choice.picks)
    count = taken(tokens, budget)
    facts = {"budget_tokens": budget, "tokens": sum(tokens[:count]), "k": k}
    return replace(choice, picks=choice.picks[:count], facts={**choice.facts, **facts}), count is not None


def _mean_tokens(shards: Shards) -> float:
    found: list[tuple[int, float]] = [one for part in shards.call("ask", _token_counts) for one in part]
    return sum(total for _, total in found) / max(1, sum(rows for rows, _ in found))


def _token_counts(shard: Any) -> list[tuple[int, float]]:
    return [(len(tile.ids), float(tile.columns["tokens"].sum())) for tile, _ in shard.tiles()]


def _tokens_of(shards: Shards, picks: Sequence[Pick]) -> list[int]:
    wanted = [(pick.tile, pick.row) for pick in picks]
    found = {place: count for part in shards.call("ask", _tokens_at, wanted) for place, count in part}
    return [found[place] for place in wanted]


def _tokens_at(shard: Any, wanted: Sequence[tuple[int, int]]) -> list[tuple[tuple[int, int], int]]:
    tiles = {tile.index: tile for tile, _ in shard.tiles()}
    return [((tile, row), int(tiles[tile].columns["tokens"][row])) for tile, row in wanted if tile in tiles]


def _identity(
    source: TileSource, goal: Goal | None, config: SelectionConfig, seed: int, excluded: Collection[str],
    start: Array | None,
) -> str:  # fmt: skip
    """What a descent depends on; where it runs is no part of it. (Memory follows from source and excluded rows.)"""
    return fingerprint(
        source=source.identity(),
        goal=goal_identity(goal),
        start=digest(start),
        config=config.model_dump(exclude={"shards", "cache_mb"}),
        seed=seed,
        excluded=sorted(excluded),
    )


def goal_identity(goal: Goal | None) -> Any:
    """What a goal aims at, as JSON values."""
    if goal is None:
        return None
    arrays = (goal.align_MD, goal.validate_MD, goal.weights_M)
    return [*map(digest, arrays), goal.subtasks_M]


def digest(array: np.ndarray[Any, Any] | None) -> str | None:
    """SHA-256 of an array's bytes."""
    return None if array is None else hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def check_picks(budget: int | float | str, rounds: int, usable: int) -> None:
    """Raise SelectionError for more than the usable rows: the rounds choose as many each, none twice.

    Of a budget in tokens this is not known before it is spent.
    """
    parsed = Budget.of(budget)
    if parsed.tokens is not None:
        return
    k = parsed.k(usable)
    if k < 1 or k * rounds > usable:
        shown = f"selection.k = {k}" + (f" in each of {rounds} rounds" if rounds > 1 else "")
        raise SelectionError(
            f"{shown}, and {usable} usable rows in the pool",
            f"k from 1 to {usable // rounds}",
            "lower selection.k" + (" or rounds" if rounds > 1 else "") + ", or enlarge the pool",
        )
