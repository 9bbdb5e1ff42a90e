"""The rows that were picked: written with all their columns, weighed, remembered, and matched by random ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from evoray.engine.remote import in_task
from evoray.engine.shards import matrix_of
from evoray.engine.site import fingerprint
from evoray.engine.workers import PoolRows
from evoray.errors import SelectionError
from evoray.pool.rows import cell_text
from evoray.records import HASH_COLUMN
from evoray.selection.picks import Pick
from evoray.selection.selector import Matrix
from evoray.storage import Storage, UnitStore

if TYPE_CHECKING:
    from evoray.diversity.energies import Memory

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


def picks_table(picks: Sequence[Pick]) -> pa.Table:
    """Picks as a table of PICK_SCHEMA."""
    return pa.Table.from_pylist([pick._asdict() for pick in picks], schema=PICK_SCHEMA)


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
    """The wanted rows in the order of `wanted`. Raises SelectionError for an id that no unit has.

    Their conversations come with them: in one table the columns of files that differ no longer say which are meant.
    """
    pieces = []
    for table in rows.tables(units):
        piece = table.filter(pc.is_in(table["id"], value_set=wanted))
        if piece.num_rows:
            pieces.append(piece.drop_columns([HASH_COLUMN]))
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
    """Concatenate tables whose columns differ: absent cells are null, conflicting types become text.

    Numbers of several types become the wider one, but no decimal, text or bytes becomes another thing.
    """
    names = {name for table in tables for name in table.column_names}
    kinds = {name: {t.schema.field(name).type for t in tables if name in t.column_names} for name in names}
    mixed = {name for name, types in kinds.items() if not _promotes(types)}
    return pa.concat_tables([_as_text(table, mixed) for table in tables], promote_options="permissive")


def _promotes(types: Collection[pa.DataType]) -> bool:
    """Whether one type holds all values of several as they are."""
    found = {kind for kind in types if not pa.types.is_null(kind)}
    return len(found) <= 1 or all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in found)


def _as_text(table: pa.Table, names: Collection[str]) -> pa.Table:
    for index, name in enumerate(table.column_names):
        if name in names:
            values = [cell_text(value) for value in table[name].to_pylist()]
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

    rows = torch.from_numpy(features_of_ids(features, units, used)).double()
    return Memory.of_rows(project_rows(rows, projection(rows.shape[1], EvoSelectParams.diversity_dim, seed)))


def features_of_ids(features: UnitStore, units: Sequence[int], ids: Collection[str]) -> Matrix:
    """Unit rows [K, D] of some ids, in the order of ids; units: where to look. For where the rows may be."""
    value_set = pa.array(sorted(ids), pa.string())
    pieces = []
    for unit in units:
        table = features.read(features.find(unit), ["id", "feature"])
        pieces.append(table.filter(pc.is_in(table["id"], value_set=value_set)))
    return matrix_of(pa.concat_tables(pieces).sort_by("id"))


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
    for table in features.tables(units, ["id", "tokens"]):
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
    total, wanted = 0, pa.array(sorted(ids), pa.string())
    for table in features.tables(units, ["id", "tokens"]):
        total += pc.sum(table.filter(pc.is_in(table["id"], value_set=wanted))["tokens"]).as_py() or 0
    return total


def chosen_sources(storage: Storage, key: str) -> dict[str, int]:
    """Written rows by source; empty where they have none."""
    return in_task(_chosen_sources, storage, key)


def _chosen_sources(storage: Storage, key: str) -> dict[str, int]:
    table = storage.read_table(key)
    return value_counts(table["source"]) if "source" in table.column_names else {}


def reason_counts(storage: Storage, keys: Iterable[str]) -> dict[str, int]:
    """Rows set aside in some quarantine tables, by reason."""
    counts: dict[str, int] = {}
    for key in keys:
        for reason, count in value_counts(storage.read_table(key, ["reason"])["reason"]).items():
            counts[reason] = counts.get(reason, 0) + count
    return counts


def value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value of a column occurs, as text."""
    found = pc.value_counts(pc.fill_null(column.cast(pa.string()), "(none)"))
    return {entry["values"].as_py(): entry["counts"].as_py() for entry in found}
