"""The pool and the target: read in units, validated, normalised, de-duplicated; unusable rows set aside."""

from evoray.pool.duplicates import DUPLICATE_SCHEMA, drop_rows, find_duplicates
from evoray.pool.planning import plan_units, pool_fingerprint
from evoray.pool.reading import ROW_COLUMN, read_span
from evoray.pool.rows import content_hash, normalise, rows_from_table, write_quarantine_table
from evoray.pool.target import Split, TargetFiles, find_target, read_target_split, split_dev
from evoray.pool.whole import load_rows

__all__ = [
    "DUPLICATE_SCHEMA",
    "ROW_COLUMN",
    "Split",
    "TargetFiles",
    "content_hash",
    "drop_rows",
    "find_duplicates",
    "find_target",
    "load_rows",
    "normalise",
    "plan_units",
    "pool_fingerprint",
    "read_span",
    "read_target_split",
    "rows_from_table",
    "split_dev",
    "write_quarantine_table",
]
