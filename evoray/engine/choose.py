"""Run a selector over shard actors, and write the rows that it picked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evoray.alignment.reduction import Array
from evoray.config import SelectionConfig
from evoray.engine.journal import Notebook, StorageJournal
from evoray.engine.remote import in_task
from evoray.engine.session import Session
from evoray.engine.shard_actors import ray_shards
from evoray.engine.shards import GroupedTiles, SourcedTiles, TileSource, matrix_of
from evoray.engine.site import fingerprint
from evoray.engine.workers import PoolRows
from evoray.errors import SelectionError
from evoray.records import HASH_COLUMN, MESSAGES_COLUMN
from evoray.selection.picks import Pick
from evoray.selection.shares import Shares
from evoray.storage import Storage, UnitStore

if TYPE_CHECKING:
    from evoray.diversity.energies import Memory

Matrix = npt.NDArray[np.float32]

PICK_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("tile", pa.int64()),
        ("row", pa.int64()),
        ("rank", pa.int64()),
        ("weight", pa.float64()),
        ("potential", pa.float64()),
        ("similarity", pa.float64()),
        ("nearest", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a selection aims at: unit rows of the target, the held-out ones, and the target's weights."""

    align_MD: Matrix
    validate_MD: Matrix | None
    weights_M: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Picks, best first, and the selector's facts as JSON values."""

    picks: tuple[Pick, ...]
    facts: Mapping[str, Any]


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
) -> Choice:
    """The picks of the configured selector over all tiles of a source, without the excluded ids.

    goal: needed by evoselect only. start_g_M: potentials of the same target rows that its solves start from.
    notebook: where an interrupted call is gone on with; the caller clears it once the picks are kept.
    Raises SelectionError where K is larger than the usable rows.
    """
    from evoray.selection.everything import everything
    from evoray.selection.random import random_pick

    tiles = GroupedTiles.of(source)
    tiles = SourcedTiles(tiles=tiles) if config.has_shares else tiles
    storage = None if notebook is None else notebook.storage
    with ray_shards(tiles, excluded, session, storage, count=config.shards, cache_mb=config.cache_mb) as shards:
        usable = sum(count for _, count in shards.call("counts"))
        if config.selector == "all":
            picks = everything(shards)
            return Choice(picks=picks, facts={"selector": "all", "usable": usable})
        if config.k > usable:
            raise SelectionError(
                f"k = {config.k}, and {usable} usable rows", "a k of at most the usable rows", "lower selection.k"
            )
        if config.selector == "random":
            return Choice(picks=random_pick(shards, config.k, seed), facts={"selector": "random", "usable": usable})
        if goal is None:
            raise SelectionError("no target features", "features of the target rows", "give a target")
        if config.solver == "exact":
            return _exact(shards, goal, config.k)
        journal = None
        if notebook is not None:
            from evoray.selection.descent import POOL

            identity = _identity(source, goal, config, seed, excluded, start_g_M)
            journal = StorageJournal(notebook.storage, f"{notebook.prefix}/{identity}", shards, POOL)
        return _evoselect(shards, goal, config, seed, progress, memory, start_g_M, journal)


def _identity(
    source: TileSource, goal: Goal, config: SelectionConfig, seed: int, excluded: Collection[str], start: Array | None
) -> str:
    """What a descent depends on; where it runs is no part of it. (Memory follows from source and excluded rows.)"""
    arrays = (goal.align_MD, goal.validate_MD, goal.weights_M, start)
    return fingerprint(
        source=source.identity(),
        goal=[None if array is None else hashlib.sha256(array.tobytes()).hexdigest() for array in arrays],
        config=config.model_dump(exclude={"shards", "cache_mb"}),
        seed=seed,
        excluded=sorted(excluded),
    )


def _evoselect(
    shards: Any,
    goal: Goal,
    config: SelectionConfig,
    seed: int,
    progress: Callable[[int, int], None],
    memory: Memory | None,
    start_g_M: Array | None,
    journal: StorageJournal | None,
) -> Choice:
    from evoray.selection.evoselect import evoselect
    from evoray.selection.evoselect_records import EvoSelectParams

    params = EvoSelectParams(
        k=config.k,
        energy=config.energy,
        lam=config.lam,
        r=config.r,
        eps=config.eps,
        rho=config.rho,
        eta=config.eta,
        steps=config.steps,
        tolerance=config.tolerance,
        diversity_seed=seed,
        shares=_shares(config),
    )
    result = evoselect(
        shards, goal.align_MD, goal.weights_M, goal.validate_MD, params, progress=progress, memory=memory,
        start_g_M=start_g_M, journal=journal,
    )  # fmt: skip
    potentials = result.potentials
    facts = {
        "selector": "evoselect",
        "solver": "sinkhorn",
        "usable": result.usable,
        "lambda": result.lam,
        "r": result.r,
        "eps": result.eps,
        "rho": config.rho,
        "cost_std": result.cost_std,
        "lambda_eff": result.lambda_eff,
        "scale_transport": result.scale_transport,
        "scale_diversity": result.scale_diversity,
        "vendi_picks": result.vendi_picks,
        "vendi_target": result.vendi_target,
        "certificate": {**asdict(result.certificate), "picked_excess": result.certificate.picked_excess},
        "path": [asdict(point) for point in result.path],
        "trace": [asdict(step) for step in result.trace],
        "shares": None if result.bounds is None else result.bounds.by_source(),
        "potentials": {**asdict(potentials), "g_M": potentials.g_M.tolist(), "start_g_M": result.start_g_M.tolist()},
    }
    return Choice(picks=result.picks, facts=facts)


def _shares(config: SelectionConfig) -> Shares | None:
    if not config.has_shares:
        return None
    return Shares(bounds=config.shares, max_share=1.0 if config.max_share is None else config.max_share)


def _exact(shards: Any, goal: Goal, k: int) -> Choice:
    from evoray.selection.exact import exact

    result = exact(shards, goal.align_MD, goal.weights_M, k)
    facts = {
        "selector": "evoselect",
        "solver": "exact",
        "usable": result.usable,
        "lambda": 0.0,
        "eps": 0.0,
        "objective": result.objective,
        "dual": result.dual,
        "gap": result.gap,
        "fractional": result.fractional,
        "vendi_picks": result.vendi_picks,
        "vendi_target": result.vendi_target,
        "potentials": {"g_M": result.g_M.tolist()},
    }
    return Choice(picks=result.picks, facts=facts)


def check_picks(k: int, rounds: int, usable: int) -> None:
    """Raise SelectionError for k < 1, or for more than the usable rows: the rounds choose k each, none twice."""
    if k < 1 or k * rounds > usable:
        shown = f"selection.k = {k}" + (f" in each of {rounds} rounds" if rounds > 1 else "")
        raise SelectionError(
            f"{shown}, and {usable} usable rows in the pool",
            f"k from 1 to {usable // rounds}",
            "lower selection.k" + (" or rounds" if rounds > 1 else "") + ", or enlarge the pool",
        )


def picks_table(picks: Sequence[Pick]) -> pa.Table:
    """Picks as a table of PICK_SCHEMA."""
    return pa.Table.from_pylist([asdict(pick) for pick in picks], schema=PICK_SCHEMA)


def write_selected(
    storage: Storage,
    key: str,
    picks: pa.Table,
    target_ids: Sequence[str],
    round_number: int,
    rows: PoolRows | None,
    units: Sequence[int],
) -> str:
    """Write the picked rows with all their columns and `evoray_*` facts; the SHA-256 of the ids in order.

    rows: where the pool's rows are (None: the ids and facts alone are written); units: where to look.
    """
    return in_task(_write_selected, storage, key, picks, list(target_ids), round_number, rows, list(units))


def _write_selected(
    storage: Storage,
    key: str,
    picks: pa.Table,
    target_ids: list[str],
    round_number: int,
    rows: PoolRows | None,
    units: list[int],
) -> str:
    wanted = picks["id"].combine_chunks()
    table = pa.table({"id": wanted}) if rows is None else _gather(rows, units, wanted)
    names = [target_ids[index] if index is not None else None for index in picks["nearest"].to_pylist()]
    added = {
        "evoray_rank": picks["rank"],
        "evoray_weight": picks["weight"],
        "evoray_potential": picks["potential"],
        "evoray_similarity": picks["similarity"],
        "evoray_nearest": pa.array(names, pa.string()),
        "evoray_round": pa.array([round_number] * picks.num_rows, pa.int64()),
    }
    for name, column in added.items():
        table = table.append_column(name, column)
    storage.write_table(key, table)
    return fingerprint(ids=wanted.to_pylist())


def _gather(rows: PoolRows, units: Sequence[int], wanted: pa.Array) -> pa.Table:
    """The wanted rows in the order of `wanted`. Raises SelectionError for an id that no unit has."""
    pieces = []
    for unit in units:
        table = rows.table(unit)
        piece = table.filter(pc.is_in(table["id"], value_set=wanted))
        if piece.num_rows:
            pieces.append(piece.drop_columns([MESSAGES_COLUMN, HASH_COLUMN]))
    table = concat_mixed(pieces) if pieces else pa.table({"id": pa.array([], pa.string())})
    place = pc.index_in(wanted, value_set=table["id"].combine_chunks())
    if place.null_count:
        missing = wanted.filter(pc.is_null(place))
        raise SelectionError(
            f"{place.null_count} picked ids that the pool does not have ({missing[0]} is one)",
            "features of the rows of this pool",
            "give the pool that the features were computed from",
        )
    return table.take(place)


def concat_mixed(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables whose columns differ: absent cells are null, conflicting types become text."""
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        names = {name for table in tables for name in table.column_names}
        kinds = {name: {t.schema.field(name).type for t in tables if name in t.column_names} for name in names}
        mixed = {name for name, types in kinds.items() if len(types) > 1}
        return pa.concat_tables([_as_text(table, mixed) for table in tables], promote_options="permissive")


def _as_text(table: pa.Table, names: Collection[str]) -> pa.Table:
    for index, name in enumerate(table.column_names):
        if name in names:
            values = [None if value is None else str(value) for value in table[name].to_pylist()]
            table = table.set_column(index, name, pa.array(values, pa.string()))
    return table


def memory_of(features: UnitStore, units: Sequence[int], used: Collection[str], seed: int) -> Memory | None:
    """The diversity state of rows used in earlier rounds, from the current features; None where there are none."""
    if not used:
        return None
    return in_task(_memory_of, features, list(units), frozenset(used), seed)


def _memory_of(features: UnitStore, units: list[int], used: frozenset[str], seed: int) -> Memory:
    import torch

    from evoray.diversity.energies import Memory
    from evoray.diversity.projection import project_rows, projection
    from evoray.selection.evoselect_records import EvoSelectParams

    value_set = pa.array(sorted(used), pa.string())
    pieces = []
    for unit in units:
        table = features.read(features.find(unit), ["id", "feature"])
        pieces.append(table.filter(pc.is_in(table["id"], value_set=value_set)))
    rows = torch.from_numpy(matrix_of(pa.concat_tables(pieces).sort_by("id"))).double()
    return Memory.of_rows(project_rows(rows, projection(rows.shape[1], EvoSelectParams.diversity_dim, seed)))


def draw_control(
    storage: Storage,
    key: str,
    features: UnitStore,
    rows: PoolRows,
    units: Sequence[int],
    used: Collection[str],
    tokens: int,
    seed: int,
) -> list[str]:
    """Write random unused rows whose tokens total nearest to `tokens`; their ids."""
    return in_task(_draw_control, storage, key, features, rows, list(units), frozenset(used), tokens, seed)


def _draw_control(
    storage: Storage,
    key: str,
    features: UnitStore,
    rows: PoolRows,
    units: list[int],
    used: frozenset[str],
    tokens: int,
    seed: int,
) -> list[str]:
    from evoray.selection.random import random_to_tokens

    ids: list[str] = []
    counts: list[int] = []
    for unit in units:
        table = features.read(features.find(unit), ["id", "tokens"])
        for row_id, count in zip(table["id"].to_pylist(), table["tokens"].to_pylist(), strict=True):
            if row_id not in used:
                ids.append(row_id)
                counts.append(count)
    chosen = [ids[place] for place in random_to_tokens(ids, counts, seed, tokens)]
    storage.write_table(key, _gather(rows, units, pa.array(chosen, pa.string())))
    return chosen


def token_sum(features: UnitStore, units: Sequence[int], ids: Collection[str]) -> int:
    """Total tokens of some rows."""
    return in_task(_token_sum, features, list(units), frozenset(ids))


def _token_sum(features: UnitStore, units: list[int], ids: frozenset[str]) -> int:
    total = 0
    for unit in units:
        table = features.read(features.find(unit), ["id", "tokens"])
        total += pc.sum(table.filter(pc.is_in(table["id"], value_set=pa.array(sorted(ids))))["tokens"]).as_py() or 0
    return total
