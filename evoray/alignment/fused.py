"""A Sinkhorn pass over one tile that reads its kernel once, compiled for the CPU.

Row sums and column masses both need every entry. As two products a tile is read twice, and matrix libraries multiply a
matrix by a vector at a third of the speed of memory or less (MKL on EPYC: 8 GB/s a thread of 28); here a row is in the
nearest cache when it is used again, and a pass runs at four fifths of that speed.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

#: Rows whose masses are added in float32 before they go into float64.
_ROWS = 64


# Terms of a row may be added in any order: all are positive. (Not `fastmath` as a whole: infinities keep their sense.)
@numba.njit(fastmath={"reassoc", "contract", "nsz"}, error_model="numpy", nogil=True, cache=True)  # type: ignore[untyped-decorator]
def fused_pass(
    kernel_NM: npt.NDArray[np.float32],
    u_M: Vector,
    w_N: npt.NDArray[np.float64],
    sums_N: Vector,
    c_M: npt.NDArray[np.float64],
) -> None:
    """sums = E u, and c = E^T (w / sums), into `sums_N` and `c_M`."""
    rows, columns = kernel_NM.shape
    part_M = np.zeros(columns, np.float32)
    c_M[:] = 0.0
    for start in range(0, rows, _ROWS):
        part_M[:] = np.float32(0.0)
        for row in range(start, min(start + _ROWS, rows)):
            total = np.float32(0.0)
            for column in range(columns):
                total += kernel_NM[row, column] * u_M[column]
            sums_N[row] = total
            share = np.float32(w_N[row] / total)
            for column in range(columns):
                part_M[column] += share * kernel_NM[row, column]
        for column in range(columns):
            c_M[column] += part_M[column]
