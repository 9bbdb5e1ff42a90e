"""Centring: features without what all candidates have in common.

Gradients of one model share a large common direction, the mean; what tells candidates apart is the rest. The mean of
the pool's unit rows is taken off every row, of the pool and of the target alike, and the rows are normalised again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: A centred row shorter than this is rounding error: it has no direction of its own.
_SHORTEST = 1e-6


def row_sum(table: pa.Table) -> npt.NDArray[np.float64]:
    """Sum of a unit's features [D]."""
    total: npt.NDArray[np.float64] = _rows(table).sum(0)
    return total


def centre(table: pa.Table, mean_D: npt.NDArray[np.float64]) -> tuple[pa.Table, list[str]]:
    """A unit's table with centred unit rows, and the ids of the rows that had nothing but the mean: they are left out.

    `norm` becomes the norm of the centred row times the one that it had.
    """
    centred_ND = _rows(table) - mean_D
    length_N = np.linalg.norm(centred_ND, axis=1)
    kept = length_N > _SHORTEST
    unit_ND = (centred_ND[kept] / length_N[kept, None]).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(unit_ND.reshape(-1), pa.float32()), len(mean_D))
    found = table.filter(pa.array(kept))
    norm_N = (found["norm"].to_numpy() * length_N[kept]).astype(np.float32)
    found = found.set_column(found.column_names.index("feature"), table.schema.field("feature"), column)
    found = found.set_column(found.column_names.index("norm"), table.schema.field("norm"), pa.array(norm_N))
    return found, table["id"].filter(pa.array(~kept)).to_pylist()


def _rows(table: pa.Table) -> npt.NDArray[np.float64]:
    column = table["feature"].combine_chunks()
    values: npt.NDArray[np.float64] = np.asarray(column.flatten(), dtype=np.float64)
    return values.reshape(table.num_rows, column.type.list_size)
