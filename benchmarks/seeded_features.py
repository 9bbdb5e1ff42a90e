"""Features of made-up rows that spread as gradient features do, for benchmarks of the choice alone.

A pool row is the unit vector of m + c_k + s n: a mean direction that all rows share, one of 300 cluster centres of
unequal popularity (rank^-0.8), and noise whose length is lognormal. Directions are Gaussian with a spectrum that decays
as j^-1/2, so that the first of D dimensions carry most. Target rows come from 24 of the clusters, all equally often. At
D = 512, inner products of pool and target have mean 0.28, standard deviation 0.16, one in a thousand below -0.28, and a
largest of about 0.98.

A pure function of (seed, dim, block of rows): a longer pool begins with the shorter one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]

#: Rows made at a time.
BLOCK_ROWS = 4096
_CLUSTERS, _TARGET_CLUSTERS, _POPULARITY = 300, 24, -0.8
_MEAN, _CENTRE, _NOISE, _NOISE_SPREAD, _DECAY = 0.5, 0.6, 0.5, 0.4, -0.5


class SeededFeatures:
    """Pool and target rows in `dim` dimensions."""

    def __init__(self, dim: int, seed: int = 0) -> None:
        self._seed = seed
        spectrum = np.arange(1, dim + 1, dtype=np.float32) ** _DECAY
        self._scale_D = spectrum / np.linalg.norm(spectrum)
        generator = np.random.default_rng([seed, 0])
        directions = _unit(self._draw(generator, _CLUSTERS + 1))
        self._centre_KD = _MEAN * directions[0] + _CENTRE * directions[1:]
        popularity_K = generator.permutation(np.arange(1.0, _CLUSTERS + 1) ** _POPULARITY)
        self._popularity_K = popularity_K / popularity_K.sum()
        self._target_clusters = generator.choice(_CLUSTERS, _TARGET_CLUSTERS, replace=False)

    def block(self, index: int, rows: int = BLOCK_ROWS) -> Matrix:
        """The first `rows` unit rows of one block of the pool [rows, D]."""
        generator = np.random.default_rng([self._seed, 1, index])
        return self._around(generator.choice(_CLUSTERS, BLOCK_ROWS, p=self._popularity_K), generator)[:rows]

    def target(self, rows: int) -> Matrix:
        """Unit rows of the target [rows, D]."""
        generator = np.random.default_rng([self._seed, 2])
        return self._around(generator.choice(self._target_clusters, rows), generator)

    def _around(self, clusters_N: npt.NDArray[np.int64], generator: np.random.Generator) -> Matrix:
        length_N = np.exp(generator.normal(np.log(_NOISE), _NOISE_SPREAD, len(clusters_N))).astype(np.float32)
        return _unit(self._centre_KD[clusters_N] + length_N[:, None] * self._draw(generator, len(clusters_N)))

    def _draw(self, generator: np.random.Generator, rows: int) -> Matrix:
        drawn: Matrix = generator.standard_normal((rows, len(self._scale_D)), dtype=np.float32) * self._scale_D
        return drawn


def block_lengths(rows: int) -> list[int]:
    """Rows of each block of a pool of `rows`."""
    return [min(BLOCK_ROWS, rows - start) for start in range(0, rows, BLOCK_ROWS)]


def _unit(rows_ND: npt.NDArray[np.floating]) -> Matrix:
    unit: Matrix = (rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)).astype(np.float32)
    return unit
