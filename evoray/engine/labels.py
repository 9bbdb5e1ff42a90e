"""Labels of pool rows, kept aside: the report counts the good ones in each choice, nothing else reads them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evoray.engine.remote import in_task
from evoray.errors import ConfigError

_EXPECTED = 'a Parquet file with the columns id and label, where label is "good" for the rows to count'


def check_labels(path: str) -> None:
    """Raise ConfigError where the labels cannot be read, before any work is done."""
    in_task(_check, path)


def good_ids(path: str) -> set[str]:
    """Ids of the rows whose label is `good`."""
    found: set[str] = in_task(_good, path)
    return found


def _check(path: str) -> None:
    try:
        lacking = {"id", "label"} - set(pq.ParquetDataset(path).schema.names)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"labels = {path!r}: {error}", _EXPECTED, "check the path, or leave labels out") from error
    if lacking:
        raise ConfigError(f"labels = {path!r} without {sorted(lacking)}", _EXPECTED, "add the columns")


def _good(path: str) -> set[str]:
    table = pq.read_table(path, columns=["id", "label"])
    return set(table.filter(pc.equal(table["label"], "good"))["id"].to_pylist())
